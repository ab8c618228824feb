"""Answers that have to be something: every one of them is, and what cannot be enforced is refused."""

import json
import re
from enum import Enum

import httpx
import jsonschema_rs
import openai
import pydantic
import pytest

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}

# Keyword by keyword: what is enforced, over answers to several prompts and seeds.
SCHEMAS = {
    "object": PERSON,
    "enum": {"enum": ["red", "green", 7, None, {"a": [1]}]},
    "const": {"const": {"x": "y"}},
    "numbers": {"type": "array", "prefixItems": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": 2.5}, {"type": "integer", "multipleOf": 5, "maximum": 100,
        "minimum": -100}], "items": False, "minItems": 2},
    "strings": {"type": "object", "properties": {
        "date": {"type": "string", "format": "date"}, "id": {"type": "string", "format": "uuid"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"}, "short": {"type": "string", "minLength": 2,
        "maxLength": 4}}, "required": ["date", "id", "code", "short"], "additionalProperties": False},
    "any of": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "null"},
                         {"type": "string", "maxLength": 5}]},
    "one of": {"oneOf": [
        {"type": "object", "properties": {"kind": {"const": k}, k: {"type": "boolean"}}, "required": ["kind", k],
         "additionalProperties": False} for k in ("cat", "dog")]},
    "all of": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 6}]},
    "references": {"$defs": {"node": {"type": "object", "properties": {
        "value": {"type": "integer", "minimum": 0, "maximum": 99}, "next": {"anyOf": [{"$ref": "#/$defs/leaf"},
        {"type": "null"}]}}, "required": ["value", "next"], "additionalProperties": False},
        "leaf": {"type": "object", "properties": {"leaf": {"type": "boolean"}}, "required": ["leaf"],
        "additionalProperties": False}}, "$ref": "#/$defs/node"},
    "additional": {"type": "object", "properties": {}, "additionalProperties": {"type": "boolean"},
                   "minProperties": 1, "maxProperties": 2},
    "pattern properties": {"type": "object", "patternProperties": {"^[ab]$": {"type": "boolean"}},
                           "additionalProperties": False, "minProperties": 1, "maxProperties": 3},
}


def ask(server, prompt, **fields):
    fields = {"max_tokens": 300, "temperature": 1.0, "seed": 1, **fields}
    return server.client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": prompt}], **fields)


def format_of(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


def text_of(answer):
    assert answer.choices[0].finish_reason == "stop", answer
    return answer.choices[0].message.content


@pytest.fixture(scope="module")
def client(server):
    server.client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, timeout=120)
    return server


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_is_valid(client, name):
    schema = SCHEMAS[name]
    for seed, prompt in enumerate(["Tell me something.", "JSON, please: a person.", "Why?", "{"]):
        answer = ask(client, prompt, seed=seed, response_format=format_of(schema, strict=seed % 2 == 0))
        text = answer.choices[0].message.content
        if answer.choices[0].finish_reason == "stop":
            jsonschema_rs.validate(schema, json.loads(text))
        else:
            # 300 tokens are enough for those whose every part has a greatest length.
            assert name in {"numbers", "additional"}, text


def test_any_object_will_do(client):
    answer = ask(client, "Give me JSON about the sea.", response_format={"type": "json_object"}, max_tokens=600)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text_of(answer)), dict)
    assert answer.choices[0].message.content.startswith("{")


def test_streams_whole_answers_and_several_are_the_same_text(steady):
    fields = {"response_format": format_of(PERSON), "temperature": 0}
    whole = text_of(ask(steady, "Who?", **fields))
    stream = ask(steady, "Who?", stream=True, **fields)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == whole
    several = ask(steady, "Who?", n=3, **{**fields, "temperature": 1.2})
    for choice in several.choices:
        jsonschema_rs.validate(PERSON, json.loads(choice.message.content))
    assert len({choice.message.content for choice in several.choices}) > 1


def test_log_probabilities_are_the_models_own(steady):
    fields = {"response_format": format_of(PERSON), "temperature": 0}
    plain = ask(steady, "Who?", **fields)
    answer = ask(steady, "Who?", logprobs=True, top_logprobs=3, **fields)
    # Without them forced tokens are not sampled; the text is the same.
    assert text_of(answer) == text_of(plain)
    entries = answer.choices[0].logprobs.content
    assert b"".join(bytes(e.bytes) for e in entries).decode() == text_of(answer)
    assert any(e.token != e.top_logprobs[0].token for e in entries), "the grammar overruled the model"
    assert answer.usage.completion_tokens in (len(entries), len(entries) + 1)


def test_stops_and_lengths_still_count(steady):
    fields = {"response_format": format_of(PERSON), "temperature": 0}
    whole = text_of(ask(steady, "Who?", **fields))
    cut = ask(steady, "Who?", stop=['"age"'], **fields)
    assert text_of(cut) == whole[: whole.index('"age"')]
    short = ask(steady, "Who?", max_tokens=5, **fields)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 5
    assert whole.startswith(short.choices[0].message.content)


@pytest.mark.parametrize("fields, pattern", [
    ({"guided_regex": r"[A-Z][a-z]{2,9}( [A-Z]\.)?"}, r"[A-Z][a-z]{2,9}( [A-Z]\.)?"),
    ({"structured_outputs": {"regex": r"\d{3}-\d{2}"}}, r"\d{3}-\d{2}"),
    ({"guided_choice": ["yes (surely)", "<no>.", "ja/nein"]}, r"yes \(surely\)|<no>\.|ja/nein"),
    ({"structured_outputs": {"choice": ["a", "b c"]}}, "a|b c"),
    ({"guided_grammar": 'start: word (", " word)~1..2\nword: /[a-z]{2,6}/'}, r"[a-z]{2,6}(, [a-z]{2,6}){1,2}"),
    ({"grammar": 'root ::= move " " move\nmove ::= [a-h] [1-8] # a square'}, "[a-h][1-8] [a-h][1-8]"),
    ({"guided_json": {"type": "boolean"}}, "true|false"),
    ({"json_schema": {"type": "null"}}, "null"),
    ({"structured_outputs": {"json": '{"enum": [1, 2]}'}}, "1|2"),
])
def test_other_servers_words_for_it(client, fields, pattern):
    for seed in range(3):
        answer = text_of(ask(client, "Well?", seed=seed, extra_body=fields))
        assert re.fullmatch(pattern, answer), answer
    completion = client.client.completions.create(
        model="smollm2", prompt="Once", max_tokens=60, temperature=1, extra_body=fields)
    assert re.fullmatch(pattern, completion.choices[0].text)


@pytest.mark.parametrize("fields, param, word", [
    ({"response_format": format_of({"type": "string", "not": {"minLength": 3}}, strict=True)}, "response_format.json_schema.schema", "not"),
    ({"response_format": format_of({"type": "array", "uniqueItems": True}, strict=True)}, "response_format.json_schema.schema",
     "uniqueItems"),
    ({"response_format": format_of({"if": {}, "then": {}}, strict=True)}, "response_format.json_schema.schema", "if"),
    ({"response_format": format_of({"oneOf": [{"minimum": 1}, {"type": "integer"}]}, strict=True)},
     "response_format.json_schema.schema", "oneOf"),
    ({"response_format": format_of({"type": "string", "format": "made-up"}, strict=True)}, "response_format.json_schema.schema",
     "made-up"),
    ({"response_format": format_of({"type": "text"})}, "response_format.json_schema.schema", "text"),
    ({"response_format": format_of({"$ref": "https://example.com/s"}, strict=True)}, "response_format.json_schema.schema", "ref"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "no spaces", "schema": {}}}},
     "response_format.json_schema.name", "no spaces"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "Missing"),
    ({"guided_json": {"type": "string", "not": {"minLength": 3}}}, "guided_json", "not"),
    ({"structured_outputs": {"json": {"contains": {}}}}, "structured_outputs.json", "contains"),
    ({"json_schema": {"type": "string", "pattern": "^(?!a)"}}, "json_schema", "look"),
    ({"guided_regex": "(?=a)b"}, "guided_regex", "look"),
    ({"guided_regex": "("}, "guided_regex", ""),
    ({"guided_choice": []}, "guided_choice", ""),
    ({"guided_grammar": "start: missing"}, "guided_grammar", "missing"),
    ({"grammar": "root ::= missing"}, "grammar", "missing"),
    ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "guided_regex"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice", ""),
])
def test_what_cannot_be_enforced_is_refused_by_name(client, fields, param, word):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "Well?", extra_body=fields)
    assert refused.value.param == param and word in refused.value.message, refused.value.message


# What a schema says that is not enforced, the rest of it, and what of that an answer has to be.
PARTLY = {
    "oneOf": ({"oneOf": [{"type": "integer", "minimum": 1, "maximum": 9}, {"type": "number", "minimum": 5,
              "maximum": 9}]}, {"type": "number", "minimum": 1, "maximum": 9}),
    "format": ({"type": "string", "format": "made-up", "maxLength": 5}, {"type": "string", "maxLength": 5}),
    "not": ({"type": "integer", "minimum": 0, "maximum": 9, "not": {"multipleOf": 3}},
            {"type": "integer", "minimum": 0, "maximum": 9}),
    "pattern": ({"type": "string", "pattern": "^(?!x)[a-z]{2}$"}, {"type": "string", "pattern": "^[a-z]{2}$"}),
    "uniqueItems": ({"type": "array", "items": {"type": "boolean"}, "prefixItems": [{"type": "null"}],
                     "uniqueItems": True, "maxItems": 3}, {"type": "array", "maxItems": 3}),
    "if, minProperties": ({"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"},
        "c": {"type": "null"}}, "minProperties": 2, "if": {"required": ["a"]}, "then": {"required": ["b"]}},
        {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {}, "c": {}}, "additionalProperties": False}),
}
HEADER = "x-forebay-not-enforced"


@pytest.mark.parametrize("keywords", PARTLY)
def test_what_is_not_enforced_is_named_in_a_header(client, keywords):
    schema, rest = PARTLY[keywords]
    raw = client.client.with_raw_response
    fields = {"model": "smollm2", "messages": [{"role": "user", "content": "Well?"}], "max_tokens": 100}
    for strict in ({}, {"strict": False}):
        answer = raw.chat.completions.create(**fields, response_format=format_of(schema, **strict))
        assert answer.headers[HEADER] == keywords
        jsonschema_rs.validate(rest, json.loads(text_of(answer.parse())))
    stream = raw.chat.completions.create(**fields, response_format=format_of(schema), stream=True)
    assert stream.headers[HEADER] == keywords
    list(stream.parse())
    with pytest.raises(openai.BadRequestError):
        ask(client, "Well?", response_format=format_of(schema, strict=True))


def test_every_dialect_names_what_is_not_enforced(client):
    schema, _ = PARTLY["not"]
    raw = client.client.with_raw_response
    response = {"model": "smollm2", "input": "Well?", "max_output_tokens": 100,
                "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}
    for stream in (False, True):
        answer = raw.responses.create(**response, stream=stream)
        assert answer.headers[HEADER] == "not"
        list(answer.parse())
    kept = raw.responses.create(**response, background=True)
    assert kept.headers[HEADER] == "not"
    message = {"model": "smollm2", "max_tokens": 100, "messages": [{"role": "user", "content": "Well?"}],
               "output_config": {"format": {"type": "json_schema", "schema": schema}}}
    answer = client.client.post("/messages", body=message, cast_to=httpx.Response)
    assert answer.headers[HEADER] == "not"
    arguments = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    for strict, refused in ((None, False), (False, False), (True, True)):
        tool = {"type": "function", "function": {"name": "f", "parameters": arguments, "strict": strict}}
        fields = {"model": "smollm2", "messages": message["messages"], "tools": [tool], "max_tokens": 200}
        if refused:
            with pytest.raises(openai.BadRequestError) as error:
                raw.chat.completions.create(**fields, tool_choice="required")
            assert error.value.param == "tools[0].function.parameters" and "not" in error.value.message
        else:
            answer = raw.chat.completions.create(**fields, tool_choice="required")
            assert answer.headers[HEADER] == "not"
            # Where the model decides, the arguments of a tool that is not strict are free.
            assert HEADER not in raw.chat.completions.create(**fields).headers


def test_what_is_enforced_has_no_header(client):
    raw = client.client.with_raw_response
    for schema in (PERSON, {"type": "object"}, SCHEMAS["one of"]):
        answer = raw.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": "Who?"}], max_tokens=20,
            response_format=format_of(schema))
        assert HEADER not in answer.headers


def test_objects_are_closed_and_no_name_comes_twice(client):
    """Without that this model invents names until it runs out of tokens."""
    one = {"properties": {"name": {"type": "string", "maxLength": 12}}, "required": ["name"]}
    both = {"allOf": [{"$ref": "#/$defs/one"}, {"properties": {"age": {"type": "integer"}}, "required": ["age"]}],
            "$defs": {"one": one}}
    opened = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
              "additionalProperties": {"type": "boolean"}}
    for seed in range(4):
        for schema, names in ((one, ["name"]), (both, ["name", "age"])):
            answer = text_of(ask(client, "JSON, please: a person with all details.", seed=seed,
                                 response_format=format_of(schema)))
            assert list(json.loads(answer)) == names
        answer = ask(client, "JSON, please.", seed=seed, max_tokens=80, response_format=format_of(opened))
        text = answer.choices[0].message.content
        assert len(re.findall(r'[{ ]"a": ', text)) == 1 and "\\u" not in text, text


def test_numbers_and_times_come_to_an_end(client):
    schema = {"type": "array", "minItems": 4, "maxItems": 4, "items": False, "prefixItems": [
        {"type": "number"}, {"type": "integer"}, {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "string", "format": "date-time"}]}
    for seed in range(6):
        # Biased to digits as models are that run away in them.
        answer = ask(client, "Numbers:", seed=seed, response_format=format_of(schema), logit_bias=zeros(client))
        numbers = text_of(answer)
        assert max(map(len, re.findall(r"\d+", numbers))) <= 20, numbers
        json.loads(numbers)


def zeros(server):
    tokens = httpx.post(server.url + "/tokenize", json={"model": "smollm2", "prompt": "0", "add_special_tokens": False})
    return {str(token): 30 for token in tokens.json()["tokens"]}


def test_a_grammar_that_takes_too_long_ends_its_own_request_alone(client):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "Well?", extra_body={"guided_regex": "(a{1,9999}){1,9999}"})
    assert "complex" in refused.value.message or "enforced" in refused.value.message
    assert text_of(ask(client, "Well?", extra_body={"guided_choice": ["yes"]})) == "yes"


def test_the_sdks_parse_helper(client):
    class Color(str, Enum):
        red = "red"
        blue = "blue"

    class Cat(pydantic.BaseModel):
        color: Color
        age: int = pydantic.Field(ge=0, le=30)
        toys: list[Color]

    parsed = client.client.chat.completions.parse(
        model="smollm2", messages=[{"role": "user", "content": "A cat, please."}], response_format=Cat, seed=3,
        max_tokens=200)
    assert isinstance(parsed.choices[0].message.parsed, Cat)
    with client.client.chat.completions.stream(
        model="smollm2", messages=[{"role": "user", "content": "A cat, please."}], response_format=Cat, seed=4,
        max_tokens=200,
    ) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Cat)
