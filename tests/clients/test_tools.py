"""Tools: calls that have to be made are, whatever the model, and are always valid; the SDKs' helpers
read them; conversations with calls go on."""

import json
import re
from pathlib import Path

import jsonschema_rs
import openai
import pydantic
import pytest
from conftest import required
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "units": {"type": "string", "enum": ["celsius", "kelvin"]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
SCHEMAS = {"get_weather": WEATHER, "now": {"type": "object", "additionalProperties": False}}


def function(name, schema=None, **more):
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", **more,
            **({"parameters": schema} if schema else {})}}


TOOLS = [function("get_weather", WEATHER), function("now")]
CUSTOM = {"type": "custom", "custom": {"name": "write", "description": "Writes text."}}
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]


def ask(server, messages=ASK, model="smollm2", **fields):
    fields = {"max_tokens": 200, "temperature": 1.0, "seed": 1, **fields}
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, timeout=120)
    return client.chat.completions.create(model=model, messages=messages, **fields)


def calls_of(answer):
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None, choice
    return choice.message.tool_calls


def check(call):
    assert call.id.startswith("call_") and call.type == "function"
    jsonschema_rs.validate(SCHEMAS[call.function.name], json.loads(call.function.arguments))


@pytest.mark.parametrize("seed", range(5))
def test_a_required_call_is_made_and_valid(server, seed):
    calls = calls_of(ask(server, tools=TOOLS, tool_choice="required", seed=seed, max_tokens=1500))
    assert len({call.id for call in calls}) == len(calls)
    for call in calls:
        check(call)
    (one,) = calls_of(ask(server, tools=TOOLS, tool_choice="required", seed=seed, parallel_tool_calls=False))
    check(one)


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_named_tool_is_called_once(server, name):
    choice = {"type": "function", "function": {"name": name}}
    (call,) = calls_of(ask(server, tools=TOOLS, tool_choice=choice))
    assert call.function.name == name
    check(call)


def test_allowed_tools(server):
    names = [{"type": "function", "function": {"name": "now"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": names}}
    for call in calls_of(ask(server, tools=TOOLS, tool_choice=choice, max_tokens=2000)):
        assert call.function.name == "now" and call.function.arguments == "{}"


def test_none_and_auto_leave_the_model_free(server):
    for fields in ({"tool_choice": "none"}, {"tool_choice": "auto"}, {}, {"tools": []}):
        answer = ask(server, **{"tools": TOOLS, "temperature": 0, "max_tokens": 20, **fields})
        assert answer.choices[0].message.content or answer.choices[0].message.tool_calls
    plain = ask(server, temperature=0, max_tokens=20)
    none = ask(server, tools=TOOLS, tool_choice="none", temperature=0, max_tokens=20)
    assert none.choices[0].message.content == plain.choices[0].message.content


def test_a_custom_tool_takes_text(steady):
    choice = {"type": "custom", "custom": {"name": "write"}}
    fields = {"tools": [*TOOLS, CUSTOM], "tool_choice": choice, "max_tokens": 400, "temperature": 0}
    answer = ask(steady, **fields)
    (call,) = answer.choices[0].message.tool_calls
    assert call.type == "custom" and call.custom.name == "write"
    if answer.choices[0].finish_reason == "tool_calls":
        streamed = ""
        for chunk in ask(steady, stream=True, **fields):
            for delta in chunk.choices[0].delta.tool_calls or []:
                streamed += delta.model_extra.get("custom", {}).get("input", "")
        assert streamed == call.custom.input


class GetWeather(pydantic.BaseModel):
    city: str = pydantic.Field(max_length=20)
    days: int = pydantic.Field(ge=1, le=9)


def test_the_sdks_helpers(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, timeout=120)
    tools = [openai.pydantic_function_tool(GetWeather)]
    fields = {"model": "smollm2", "messages": ASK, "tools": tools, "tool_choice": "required", "seed": 2,
              "max_tokens": 200, "parallel_tool_calls": False}
    parsed = client.chat.completions.parse(**fields).choices[0].message.tool_calls[0]
    assert isinstance(parsed.function.parsed_arguments, GetWeather)
    with client.chat.completions.stream(**fields) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in events and "tool_calls.function.arguments.done" in events
    assert final.finish_reason == "tool_calls"
    assert final.message.tool_calls[0].function.parsed_arguments == parsed.function.parsed_arguments


def test_streams_say_what_whole_answers_say(steady):
    fields = {"tools": TOOLS, "tool_choice": "required", "temperature": 0, "max_tokens": 1500}
    whole = calls_of(ask(steady, **fields))
    got = {}
    chunks = list(ask(steady, stream=True, **fields))
    for chunk in chunks:
        for delta in chunk.choices[0].delta.tool_calls or []:
            if delta.id:
                assert delta.index == len(got) and delta.type == "function" and delta.function.arguments == ""
                got[delta.index] = [delta.function.name, ""]
            else:
                assert "name" not in delta.function.model_fields_set and "id" not in delta.model_fields_set
                got[delta.index][1] += delta.function.arguments
    assert list(got.values()) == [[c.function.name, c.function.arguments] for c in whole]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_strict_calls_are_valid_where_the_model_decides(server):
    tools = [function("get_weather", WEATHER, strict=True)]
    # The model is led into a call; what it may say in it is bound.
    lead = [*ASK, {"role": "assistant", "content": "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\":"}]
    for seed in range(3):
        answer = ask(server, tools=tools, seed=seed, max_tokens=60)
        for call in answer.choices[0].message.tool_calls or []:
            if answer.choices[0].finish_reason == "tool_calls":
                check(call)
        assert "<tool_call>" not in (answer.choices[0].message.content or "")
    assert ask(server, lead, tools=tools, max_tokens=5).choices[0].finish_reason in ("length", "stop", "tool_calls")


def test_tools_and_a_response_format(server):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    fields = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    for seed in range(3):
        answer = ask(server, tools=TOOLS, seed=seed, max_tokens=1500, **fields).choices[0]
        if answer.finish_reason == "stop":
            jsonschema_rs.validate(schema, json.loads(answer.message.content))
        else:
            assert answer.finish_reason == "tool_calls" and answer.message.tool_calls


def test_conversations_with_calls_go_on(server):
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    custom = {"id": "call_2", "type": "custom", "custom": {"name": "write", "input": "x"}}
    messages = [
        *ASK, {"role": "assistant", "content": None, "tool_calls": [call, custom]},
        {"role": "tool", "tool_call_id": "call_2", "content": "done"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Rain, 12 degrees."}]},
        {"role": "user", "content": "So?"},
    ]
    for fields in ({"tools": [*TOOLS, CUSTOM]}, {}):
        answer = ask(server, messages, **fields)
        assert answer.usage.prompt_tokens > ask(server, **fields).usage.prompt_tokens
    for broken in ('{"city": ', "", "[1]"):
        call["function"]["arguments"] = broken
        assert ask(server, messages, tools=TOOLS, max_tokens=3).choices


def test_a_custom_tools_text_follows_its_regex(server):
    grammar = {"syntax": "regex", "definition": "[a-f]{3}-(yes|no)"}
    custom = {"type": "custom", "custom": {"name": "vote", "format": {"type": "grammar", "grammar": grammar}}}
    for seed in range(3):
        choice = {"type": "custom", "custom": {"name": "vote"}}
        (call,) = calls_of(ask(server, tools=[custom], tool_choice=choice, seed=seed))
        assert re.fullmatch(grammar["definition"], call.custom.input)
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0)
    tool = {"type": "custom", "name": "vote", "format": {"type": "grammar", **grammar}}
    answer = client.responses.create(model="smollm2", input="Vote.", tools=[tool], tool_choice="required", max_output_tokens=100)
    assert re.fullmatch(grammar["definition"], answer.output[0].input)


@pytest.mark.parametrize("fields, param", [
    ({"tools": [{"type": "custom", "custom": {"name": "f", "format": {
        "type": "grammar", "grammar": {"syntax": "lark", "definition": "start: X"}}}}]}, "tools[0].custom.format"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [function("no spaces")]}, "tools[0].function.name"),
    ({"tools": [TOOLS[0], TOOLS[0]]}, "tools[1]"),
    ({"tools": [function("f", {"type": "array"})]}, "tools[0].function.parameters"),
    ({"tools": [function("f", {"type": "object", "not": {}})], "tool_choice": "required"},
     "tools[0].function.parameters"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"tools": TOOLS, "extra_body": {"guided_regex": "a"}}, "guided_regex"),
])
def test_what_cannot_be_is_refused_by_name(server, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(server, **fields)
    assert refused.value.param == param, refused.value.message


def test_langchain_binds_tools(server):
    @tool
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    llm = ChatOpenAI(base_url=server.url + "/v1", api_key="x", model="smollm2", max_retries=0, max_tokens=200, seed=1)
    bound = llm.bind_tools([add], tool_choice="add")
    question = HumanMessage("What is 2 and 3?")
    answer = bound.invoke([question])
    (call,) = answer.tool_calls
    assert call["name"] == "add" and set(call["args"]) == {"a", "b"}
    result = ToolMessage(str(add.invoke(call["args"])), tool_call_id=call["id"])
    assert llm.invoke([question, answer, result]).content


TEMPLATES = {
    "tags": "{% for c in m.tool_calls %}<tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": "
            "{{ c.function.arguments | tojson }}}\n</tool_call>{{ '\n' if not loop.last }}{% endfor %}",
    "list": "{% for c in m.tool_calls %}{{ '[CALLS][' if loop.first }}{\"name\": \"{{ c.function.name }}\", \"arguments\": "
            "{{ c.function.arguments | tojson }}, \"id\": \"{{ c.id }}\"}{{ ']' if loop.last else ', ' }}{% endfor %}",
    "bare": "{% if m.tool_calls | length > 1 %}{{ raise_exception('one call only') }}{% endif %}{% for c in m.tool_calls %}"
            "{\"name\": \"{{ c.function.name }}\", \"parameters\": {{ c.function.arguments | tojson }}}{% endfor %}",
    "named": "{% for c in m.tool_calls %}[CALL]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}",
    "each": "{% for c in m.tool_calls %}<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments | items %}"
            "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{{ '\n' if not loop.last }}{% endfor %}",
    "keys": "{% for c in m.tool_calls %}<tool_call>{{ c.function.name }}\n{% for k, v in c.function.arguments | items %}"
            "<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>\n{% endfor %}</tool_call>{{ '\n' if not loop.last }}{% endfor %}",
}
AROUND = ("{{% if tools %}}<|im_start|>system\n{{{{ tools | tojson }}}}<|im_end|>\n{{% endif %}}{{% for m in messages %}}"
          "<|im_start|>{{{{ m.role }}}}\n{{{{ m.content }}}}{{% if m.tool_calls %}}{calls}{{% endif %}}<|im_end|>\n{{% endfor %}}"
          "{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}")


@pytest.mark.parametrize("form", TEMPLATES)
def test_calls_are_made_as_the_template_spells_them(start, models, tmp_path, form):
    template = tmp_path / "template.jinja"
    template.write_text(AROUND.format(calls=TEMPLATES[form]))
    server = start(models["chat"], parallel=2, chat_template=str(template))
    for seed in range(3):
        calls = calls_of(ask(server, model="m", tools=TOOLS, tool_choice="required", seed=seed, max_tokens=1800))
        for call in calls:
            check(call)
        if form == "bare":
            assert len(calls) == 1
        # What was called goes back in, in the same form.
        again = [*ASK, {"role": "assistant", "tool_calls": [c.model_dump() for c in calls]},
                 *({"role": "tool", "tool_call_id": c.id, "content": "ok"} for c in calls)]
        if form != "bare":
            assert ask(server, again, model="m", tools=TOOLS, max_tokens=3).choices


REAL = [
    "openai-gpt-oss-120b", "google-gemma-4-31B-it", "Kimi-K3", "moonshotai-Kimi-K2", "deepseek-ai-DeepSeek-V3.1",
    "deepseek-ai-DeepSeek-V3.2", "LFM2.5-8B-A1B", "LFM2-8B-A1B", "ibm-granite-granite-3.3-2B-Instruct",
    "ibm-granite-granite-4.0", "Qwen3-Coder", "Qwen-Qwen3-0.6B", "GLM-4.6", "MiniMax-M2", "meta-llama-Llama-3.1-8B-Instruct",
    "mistralai-Mistral-Nemo-Instruct-2407", "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "HuggingFaceTB-SmolLM3-3B", "Apertus-8B-Instruct",
    "ByteDance-Seed-OSS", "NVIDIA-Nemotron-Nano-v2", "upstage-Solar-Open-100B", "llm-jp-llm-jp-4.1-8b-thinking",
]


DEEP = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "exact": {"type": "boolean"},
        "at": {
            "type": "object",
            "properties": {"days": {"type": "array", "items": {"type": "integer"}, "maxItems": 3}},
            "required": ["days"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "exact", "at"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("name", REAL)
def test_calls_are_made_as_real_templates_spell_them(start, models, name):
    """The model is still SmolLM2: it has none of these templates' control tokens, so they are text,
    and what it would say by itself is not what these models say. But that calls are spelled and read
    as the template wants is shown."""
    template = Path(required("TEST_TEMPLATES")) / f"{name}.jinja"
    server = start(models["chat"], parallel=2, chat_template=str(template))
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, timeout=120)
    schemas = {"get_weather": WEATHER, "look_up": DEEP}
    common = {"model": "m", "max_tokens": 1500, "extra_body": {"thinking_token_budget": 8}}
    fields = {**common, "tools": [function(name, schema) for name, schema in schemas.items()]}
    for seed, tool_name in enumerate(schemas):
        choice = {"type": "function", "function": {"name": tool_name}}
        whole = ask(server, tool_choice=choice, seed=seed, **fields)
        with client.chat.completions.stream(
            messages=ASK, tool_choice=choice, temperature=1.0, seed=seed, **fields
        ) as stream:
            streamed = stream.get_final_completion()
        for answer in (whole, streamed):
            (call,) = answer.choices[0].message.tool_calls
            assert answer.choices[0].finish_reason == "tool_calls" and call.function.name == tool_name
            jsonschema_rs.validate(schemas[tool_name], json.loads(call.function.arguments))
    # What was called goes back in, in the same form.
    again = [*ASK, {"role": "assistant", "content": "", "tool_calls": [call.model_dump()]},
             {"role": "tool", "tool_call_id": call.id, "content": "ok"}]
    assert ask(server, again, **fields | {"max_tokens": 3}).choices
    shaped = ask(server, **common, response_format={"type": "json_schema", "json_schema": {
        "name": "mood", "strict": True, "schema": {"enum": ["glad", "sad"]}}})
    assert json.loads(shaped.choices[0].message.content) in ("glad", "sad")
