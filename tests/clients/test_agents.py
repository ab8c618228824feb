"""Agents: openai-agents over chat and over responses, and pydantic-ai, unmodified."""

import asyncio

import openai
import pydantic
import pytest
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

set_tracing_disabled(True)


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: Its name.
    """
    CALLED.append(city)
    return "Rain, 12 degrees."


CALLED = []


def model_of(server, kind):
    client = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, timeout=120)
    return kind(model="smollm2", openai_client=client)


@pytest.mark.parametrize("kind", [OpenAIChatCompletionsModel, OpenAIResponsesModel])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_agent_calls_its_tool_and_answers(server, kind, streamed):
    agent = Agent(
        name="weather", instructions="Be short.", model=model_of(server, kind), tools=[get_weather],
        model_settings=ModelSettings(tool_choice="get_weather", temperature=0, max_tokens=60),
    )

    async def run():
        if not streamed:
            return (await Runner.run(agent, "The weather in Paris?")).final_output
        result = Runner.run_streamed(agent, "The weather in Paris?")
        kinds = [event.type async for event in result.stream_events()]
        assert "run_item_stream_event" in kinds and "raw_response_event" in kinds
        return result.final_output

    CALLED.clear()
    try:
        assert asyncio.run(run())
    except Exception as error:
        # A small model may not come to its end within the tokens that it has: the SDK tells so.
        assert "incomplete" in str(error).lower(), error
    assert len(CALLED) == 1 and len(CALLED[0]) > 0


class Cat(pydantic.BaseModel):
    age: int = pydantic.Field(ge=0, le=30)
    color: str = pydantic.Field(max_length=12)


def test_pydantic_ai_gets_its_output(server):
    model = OpenAIChatModel("smollm2", provider=OpenAIProvider(base_url=server.url + "/v1", api_key="x"))
    by_tool = PydanticAgent(model, output_type=Cat, model_settings={"max_tokens": 200})
    assert isinstance(by_tool.run_sync("A cat, please.").output, Cat)
    by_schema = PydanticAgent(model, output_type=NativeOutput(Cat), model_settings={"max_tokens": 200})
    assert isinstance(by_schema.run_sync("A cat, please.").output, Cat)
