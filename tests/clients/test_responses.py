"""OpenAI's SDK against /v1/responses: whole, streamed, with tools and schemas, and what Codex sends."""

import json

import openai
import pydantic
import pytest

WEATHER = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"],
           "additionalProperties": False}
TOOL = {"type": "function", "name": "get_weather", "description": "The weather of a city.", "parameters": WEATHER,
        "strict": True}
CUSTOM = {"type": "custom", "name": "write", "description": "Writes text."}


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, timeout=120)


def create(client, **fields):
    return client.responses.create(**{"model": "smollm2", "input": "Say hello.", "max_output_tokens": 40, **fields})


def test_whole_answers_and_streams_say_the_same(steady):
    client = steady.client
    fields = {"instructions": "Be kind.", "temperature": 0, "max_output_tokens": 16, "metadata": {"a": "b"}}
    whole = create(client, **fields)
    assert whole.id.startswith("resp_") and whole.object == "response" and whole.store is False
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert whole.usage.output_tokens == 16 and whole.metadata == {"a": "b"} and whole.output[0].status == "incomplete"
    with client.responses.stream(model="smollm2", input="Say hello.", **fields) as stream:
        events = list(stream)
    final = events[-1].response
    assert final.output[0].content[0].text == whole.output_text
    assert final.usage.total_tokens == whole.usage.total_tokens
    kinds = [event.type for event in events]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added",
                         "response.content_part.added"]
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done",
                          "response.incomplete"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    counted = client.responses.input_tokens.count(model="smollm2", input="Say hello.", instructions="Be kind.")
    assert counted.input_tokens == whole.usage.input_tokens


def test_calls_are_made_streamed_and_answered(steady):
    client = steady.client
    choice = {"type": "function", "name": "get_weather"}
    fields = {"input": [{"role": "user", "content": "The weather in Paris?"}], "tools": [TOOL, CUSTOM], "tool_choice": choice,
              "max_output_tokens": 200, "temperature": 0}
    answer = create(client, **fields)
    (call,) = answer.output
    assert (call.type, call.name, answer.status) == ("function_call", "get_weather", "completed")
    assert set(json.loads(call.arguments)) == {"city"}
    with client.responses.stream(model="smollm2", **fields) as stream:
        kinds = [event.type for event in stream]
        (streamed,) = stream.get_final_response().output
    assert streamed.arguments == call.arguments
    assert "response.function_call_arguments.delta" in kinds and kinds[-1] == "response.completed"
    again = create(client, input=[
        *fields["input"], {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None},
        call.model_dump(), {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."},
        {"role": "user", "content": [{"type": "input_text", "text": "So?"}]}], tools=[TOOL])
    assert again.usage.input_tokens > answer.usage.input_tokens - 100 and again.output
    custom = create(client, tools=[CUSTOM], tool_choice={"type": "custom", "name": "write"}, max_output_tokens=300).output[0]
    assert (custom.type, custom.name) == ("custom_tool_call", "write")


def test_the_sdks_parse_helper(client):
    class Cat(pydantic.BaseModel):
        age: int = pydantic.Field(ge=0, le=30)
        kind: str = pydantic.Field(max_length=12)

    parsed = client.responses.parse(model="smollm2", input="A cat.", text_format=Cat, max_output_tokens=100)
    assert isinstance(parsed.output_parsed, Cat)


def test_what_codex_sends_is_taken(client):
    answer = create(
        client, stream=False, store=False, parallel_tool_calls=True, include=["reasoning.encrypted_content"],
        reasoning={"summary": "auto", "effort": "medium"}, prompt_cache_key="t", tool_choice="auto",
        extra_body={"client_metadata": {"a": "b"}},
        tools=[{**TOOL, "strict": False}, {"type": "web_search", "external_web_access": False},
               {"type": "namespace", "name": "agents", "description": "", "tools": [{**TOOL, "name": "spawn"}]}],
        input=[
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "One."}]},
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Two."}]},
            {"type": "message", "role": "user", "id": "msg_1", "content": [{"type": "input_text", "text": "Hello?"}]},
        ],
    )
    assert answer.output and answer.reasoning.effort is None
    spawn = create(client, tools=[{"type": "namespace", "name": "agents", "tools": [{**TOOL, "name": "spawn"}]}],
                   tool_choice="required", max_output_tokens=200, parallel_tool_calls=False).output[0]
    assert (spawn.name, spawn.model_extra.get("namespace") or spawn.namespace) == ("spawn", "agents")


@pytest.mark.parametrize("fields, param", [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"background": True}, "background"),
    ({"truncation": "auto"}, "truncation"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
    ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}}, "text.format"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"include": ["message.output_text.logprobs"]}, "include"),
])
def test_what_cannot_be_is_refused_by_name(client, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, **fields)
    assert refused.value.param == param, refused.value.message
