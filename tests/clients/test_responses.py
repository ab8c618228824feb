"""OpenAI's SDK against /v1/responses: whole, streamed, with tools and schemas, and what Codex sends."""

import json
import time

import openai
import pydantic
import pytest
from conftest import Server

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
    assert whole.id.startswith("resp_") and whole.object == "response" and whole.store is True
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
    ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "conversation"),
    ({"conversation": 3}, "conversation"),
    ({"background": True, "store": False}, "background"),
    ({"truncation": "some"}, "truncation"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].id"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0]"),
    ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice"),
    ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}}, "text.format.schema"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
])
def test_what_cannot_be_is_refused_by_name(client, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        create(client, **fields)
    assert refused.value.param == param, refused.value.message


def test_log_probabilities(steady):
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "temperature": 0, "max_output_tokens": 8}
    part = create(steady.client, **fields).output[0].content[0]
    assert len(part.logprobs) == 8 and all(len(entry.top_logprobs) == 2 for entry in part.logprobs)
    assert b"".join(bytes(entry.bytes) for entry in part.logprobs).decode() == part.text
    with steady.client.responses.stream(model="smollm2", input="Say hello.", **fields) as stream:
        events = list(stream)
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    final = events[-1].response.output[0].content[0]
    tokens = [entry.token for delta in deltas for entry in delta.logprobs]
    assert tokens == [entry.token for entry in part.logprobs] == [entry.token for entry in final.logprobs]
    assert all(entry.logprob == entry.top_logprobs[0].logprob for delta in deltas for entry in delta.logprobs)
    assert create(steady.client, max_output_tokens=4).output[0].content[0].logprobs == []


def test_what_is_kept_can_be_followed_on(steady):
    client, base = steady.client, {"temperature": 0, "max_output_tokens": 12}
    first = create(client, input="My name is Ada.", instructions="Be kind.", **base)
    assert client.responses.retrieve(first.id).model_dump() == first.model_dump()
    second = create(client, input="What is my name?", previous_response_id=first.id, **base)
    whole = create(client, store=False, input=[
        {"role": "user", "content": "My name is Ada."}, *[item.model_dump() for item in first.output],
        {"role": "user", "content": "What is my name?"}], **base)
    assert (second.output_text, second.usage.input_tokens) == (whole.output_text, whole.usage.input_tokens)
    assert (second.previous_response_id, whole.store) == (first.id, False)
    with client.responses.stream(model="smollm2", input="Once more.", previous_response_id=second.id, **base) as stream:
        third = list(stream)[-1].response
    assert third.usage.input_tokens > second.usage.input_tokens
    assert client.responses.retrieve(third.id).output_text == third.output_text
    (item,) = client.responses.input_items.list(second.id).data
    assert (item.role, item.content[0].text) == ("user", "What is my name?")
    again = create(client, input=[{"type": "item_reference", "id": item.id}], previous_response_id=first.id, **base)
    assert again.output_text == second.output_text
    client.responses.delete(first.id)
    for gone in (first.id, whole.id):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(gone)
    with pytest.raises(openai.BadRequestError, match=first.id):
        create(client, previous_response_id=second.id)
    other = client.with_options(api_key="another")
    for call in (other.responses.retrieve, other.responses.delete, other.responses.cancel, other.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            call(second.id)


def test_calls_are_answered_without_repeating_them(steady):
    fields = {"tools": [TOOL], "max_output_tokens": 200, "temperature": 0}
    first = create(steady.client, input="The weather in Paris?", tool_choice="required", parallel_tool_calls=False, **fields)
    (call,) = first.output
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    second = create(steady.client, input=[output], previous_response_id=first.id, **fields)
    assert second.usage.input_tokens > first.usage.input_tokens and second.output


def test_conversations(steady):
    client, base = steady.client, {"temperature": 0, "max_output_tokens": 12}
    conversation = client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "My name is Ada."}], metadata={"a": "b"})
    assert conversation.metadata == {"a": "b"}
    first = create(client, input="What is my name?", conversation=conversation.id, **base)
    assert first.conversation.id == conversation.id
    create(client, input="Again?", conversation={"id": conversation.id}, store=False, **base)
    items = client.conversations.items.list(conversation.id, order="asc")
    assert [item.role for item in items.data] == ["user", "user", "assistant", "user", "assistant"]
    pages = list(client.conversations.items.list(conversation.id, limit=2))
    assert [item.id for item in pages] == [item.id for item in reversed(items.data)]
    assert items.data[2].content[0].text == first.output_text
    added = client.conversations.items.create(conversation.id, items=[{"role": "user", "content": "One more."}])
    one = client.conversations.items.retrieve(added.data[0].id, conversation_id=conversation.id)
    assert one.content[0].text == "One more."
    client.conversations.items.delete(one.id, conversation_id=conversation.id)
    assert len(list(client.conversations.items.list(conversation.id))) == 5
    assert client.conversations.update(conversation.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert client.conversations.retrieve(conversation.id).metadata == {"c": "d"}
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        create(client, conversation=conversation.id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.conversations.create(items=[{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}])
    assert refused.value.param == "items[0].content[0]"


def test_in_the_background(steady):
    client, base = steady.client, {"temperature": 0, "background": True}
    response = create(client, max_output_tokens=20, **base)
    assert (response.status, response.background) == ("queued", True)
    deadline = time.monotonic() + 60
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    assert response.status == "incomplete" and response.usage.output_tokens == 20
    assert response.output_text == create(client, max_output_tokens=20, temperature=0).output_text
    events = list(create(client, stream=True, max_output_tokens=20, **base))
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    final = events[-1].response
    assert (events[-1].type, final.output_text) == ("response.incomplete", response.output_text)
    replayed = list(client.responses.retrieve(final.id, stream=True, starting_after=4))
    assert [event.model_dump() for event in replayed] == [event.model_dump() for event in events[5:]]
    long = create(client, input="Count to a thousand.", max_output_tokens=900, **base)
    cancelled = client.responses.cancel(long.id)
    assert cancelled.status in ("cancelled", "completed")
    assert client.responses.cancel(long.id).status == cancelled.status
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(create(client, max_output_tokens=2).id)


def test_what_does_not_fit_is_left_out_if_wished(models, start):
    url = start(models["chat"], ctx_size=256, parallel=1, long_slot=False).url
    client = openai.OpenAI(base_url=url + "/v1", api_key="x", max_retries=0)
    items = [{"role": role, "content": f"{n} " + "word " * 30} for n in range(8) for role in ("user", "assistant")]
    fields = {"model": "m", "max_output_tokens": 8, "instructions": "Be kind.",
              "input": [*items, {"role": "user", "content": "So?"}]}
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**fields)
    assert refused.value.code == "context_length_exceeded"
    answer = client.responses.create(truncation="auto", **fields)
    assert answer.truncation == "auto" and 100 < answer.usage.input_tokens < 256
    huge = {**fields, "input": "word " * 400}
    with pytest.raises(openai.BadRequestError):
        client.responses.create(truncation="auto", **huge)


def test_a_file_keeps_them_and_a_flag_keeps_nothing(models, tmp_path):
    file = tmp_path / "kept.sqlite"

    def serve(*flags):
        server = Server("--model", f"smollm2={models['chat']}", *flags)
        return server, openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0)

    server, client = serve("--store", str(file))
    first = create(client, max_output_tokens=4)
    server.stop()
    server, client = serve("--store", str(file))
    assert client.responses.retrieve(first.id).output_text == first.output_text
    assert create(client, previous_response_id=first.id, max_output_tokens=4).output
    server.stop()
    server, client = serve("--no-store")
    assert create(client, max_output_tokens=4).store is False
    for fields in ({"background": True}, {"previous_response_id": first.id}):
        with pytest.raises(openai.BadRequestError, match="keeps no responses"):
            create(client, **fields)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    server.stop()
