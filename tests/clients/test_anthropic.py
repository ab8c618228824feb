"""Anthropic's own SDK against /v1/messages: the same models, the other dialect."""

import json

import anthropic
import pytest

TOOL = {"name": "get_weather", "description": "The weather of a city.", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"],
    "additionalProperties": False}}
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def client(steady):
    return anthropic.Anthropic(base_url=steady.url, api_key="x", max_retries=0, timeout=120)


def create(client, **fields):
    return client.messages.create(**{"model": "smollm2", "max_tokens": 60, "messages": ASK, **fields})


def test_whole_answers_and_streams_say_the_same(client):
    fields = {"system": "Be kind.", "extra_body": {"temperature": 0}, "max_tokens": 20}
    whole = create(client, **fields)
    assert (whole.type, whole.role, whole.stop_reason) == ("message", "assistant", "max_tokens")
    assert whole.id.startswith("msg_") and whole.usage.output_tokens == 20
    with client.messages.stream(model="smollm2", messages=ASK, **fields) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert final.stop_reason == "max_tokens" and final.usage.output_tokens == 20
    prompt = lambda usage: usage.input_tokens + usage.cache_read_input_tokens
    assert prompt(final.usage) == prompt(whole.usage) > 10
    counted = client.messages.count_tokens(model="smollm2", system="Be kind.", messages=ASK)
    assert counted.input_tokens == prompt(whole.usage)


def test_stop_sequences(client):
    whole = create(client, extra_body={"temperature": 0}).content[0].text
    word = whole.split()[3]
    cut = create(client, stop_sequences=[word], extra_body={"temperature": 0})
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", word)
    assert cut.content[0].text == whole[: whole.index(word)]


def test_tools_are_used_and_answered(client):
    choice = {"type": "tool", "name": "get_weather"}
    answer = create(client, tools=[TOOL], tool_choice=choice, max_tokens=200)
    (use,) = answer.content
    assert answer.stop_reason == "tool_use" and use.type == "tool_use" and use.id.startswith("toolu_")
    assert set(use.input) == {"city"}
    events = []
    with client.messages.stream(
        model="smollm2", max_tokens=200, messages=ASK, tools=[TOOL], tool_choice=choice,
    ) as stream:
        for event in stream:
            events.append(event.type)
        (streamed,) = stream.get_final_message().content
    assert "input_json" in events and set(streamed.input) == {"city"}
    again = create(client, tools=[TOOL], messages=[
        *ASK, {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": ""}, *(
            block.model_dump() for block in answer.content)]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": [
            {"type": "text", "text": "Rain."}]}, {"type": "text", "text": "So?"}]},
    ])
    assert again.content


def test_a_schema(client):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    config = {"format": {"type": "json_schema", "schema": schema}}
    assert "ok" in json.loads(create(client, extra_body={"output_config": config}).content[0].text)


def test_effort_is_a_hint_to_a_model_that_has_none(client):
    """Claude Code says it in each request, whatever the model."""
    assert create(client, output_config={"effort": "high"}, max_tokens=4).usage.output_tokens == 4
    with pytest.raises(anthropic.BadRequestError, match="'output_config.effort' must be one of low"):
        create(client, output_config={"effort": "enormous"})


def test_errors_are_the_sdks_own(client):
    with pytest.raises(anthropic.NotFoundError) as missing:
        create(client, model="nobody")
    assert missing.value.body["type"] == "error" and missing.value.body["error"]["type"] == "not_found_error"
    for fields in (
        {"max_tokens": 0}, {"messages": []}, {"tools": [{"type": "bash_20250124", "name": "bash"}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]},
        {"tool_choice": {"type": "any"}},
    ):
        with pytest.raises(anthropic.BadRequestError) as refused:
            create(client, **fields)
        assert refused.value.body["error"]["type"] == "invalid_request_error", fields
