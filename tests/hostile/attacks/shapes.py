"""Grammars, schemas and tools."""

import json

import frames
from attacks.core import MB, MESSAGES, attack, chat, function, json_schema
from frames import h1
from server import CHAT


def lark_chain(rules):
    return "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(rules)) + f'r{rules}: "a"\n'


@attack("4", "a Lark grammar of 1,000 rules that each name the next", quick=True)
def grammar_chain(context):
    context.post("/v1/chat/completions", chat(guided_grammar=lark_chain(1000)))


@attack("4", "the same in GBNF, and in `structured_outputs`, and of terminals")
def grammar_chain_others(context):
    gbnf = "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(1000)) + 'r1000 ::= "a"\n'
    terminals = "start: T0\n" + "".join(f"T{i}: T{i + 1}\n" for i in range(1000)) + 'T1000: "a"\n'
    for fields in (
        {"grammar": gbnf},
        {"structured_outputs": {"grammar": lark_chain(1000)}},
        {"guided_grammar": terminals},
    ):
        context.post("/v1/chat/completions", chat(**fields))
    body = {"model": CHAT, "prompt": "a", "max_tokens": 4, "guided_grammar": lark_chain(5000)}
    context.post("/v1/completions", body)


@attack("4", "grammars nested: 10,000 brackets in Lark, GBNF and a regex")
def grammar_nested(context):
    deep = 10_000
    nested = "(" * deep + '"a"' + ")" * deep
    for fields in (
        {"guided_grammar": f"start: {nested}"},
        {"grammar": f"root ::= {nested}"},
        {"guided_regex": "(" * deep + "a" + ")" * deep},
        {"guided_regex": "(?:" * deep + "a" + ")*" * deep},
    ):
        context.post("/v1/chat/completions", chat(**fields))


def ref_chain(count):
    links = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{count}": {"type": "string", "maxLength": 3}}}


def schema_everywhere(context, schema):
    """Each endpoint that takes a schema, or strict tools."""
    inside = {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}
    if "$defs" in schema:
        inside["$defs"] = schema["$defs"]
    tool = function("f", inside, strict=True)
    flat = {"type": "function", **tool["function"]}
    text = {"format": {"type": "json_schema", "name": "s", "schema": inside, "strict": True}}
    for path, body in (
        ("/v1/chat/completions", chat(response_format=json_schema(inside))),
        ("/v1/chat/completions", chat(guided_json=inside)),
        ("/v1/chat/completions", chat(tools=[tool], tool_choice="required")),
        ("/v1/chat/completions", chat(tools=[tool])),
        ("/v1/completions", {"model": CHAT, "prompt": "a", "max_tokens": 4, "structured_outputs": {"json": inside}}),
        ("/v1/responses", {"model": CHAT, "input": "a", "max_output_tokens": 16, "text": text}),
        (
            "/v1/responses",
            {"model": CHAT, "input": "a", "max_output_tokens": 16, "tools": [flat], "tool_choice": "required"},
        ),
        (
            "/v1/messages",
            {
                "model": CHAT,
                "messages": MESSAGES,
                "max_tokens": 4,
                "tool_choice": {"type": "any"},
                "tools": [{"name": "f", "input_schema": inside}],
            },
        ),
    ):
        if not context.server.alive:
            return
        context.post(path, body)


@attack("5", "a JSON schema with 1,000 `$ref`s in a chain, by every endpoint that takes one", quick=True)
def schema_ref_chain(context):
    schema_everywhere(context, ref_chain(1000))


@attack("", "a schema whose definitions each name the next twice, 25 deep")
def schema_doubling(context):
    links = {
        f"d{i}": {
            "type": "object",
            "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}, "b": {"$ref": f"#/$defs/d{i + 1}"}},
            "required": ["a", "b"],
        }
        for i in range(25)
    }
    schema_everywhere(context, {"$ref": "#/$defs/d0", "$defs": {**links, "d25": {"type": "null"}}})


@attack("", "`allOf` and `anyOf` whose branches double, 20 deep")
def schema_all_of_doubling(context):
    for word in ("allOf", "anyOf", "oneOf"):
        links = {f"d{i}": {word: [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]} for i in range(20)}
        schema = {"$ref": "#/$defs/d0", "$defs": {**links, "d20": {"type": "object"}}}
        context.post("/v1/chat/completions", chat(response_format=json_schema(schema)))


@attack("8", "a `oneOf` of 1,000 schemas, four at once", quick=True)
def schema_one_of(context):
    branches = [
        {
            "type": "object",
            "properties": {"kind": {"const": f"k{i}"}, "v": {"type": "integer"}},
            "required": ["kind", "v"],
            "additionalProperties": False,
        }
        for i in range(1000)
    ]
    context.post("/v1/chat/completions", chat(response_format=json_schema({"oneOf": branches})), at_once=4)


@attack("8", "a `oneOf` of 200 `oneOf`s of 30 schemas of 30 properties, four at once")
def schema_one_of_wide(context):
    props = lambda i: {f"p{j}": {"const": f"{i}.{j}"} for j in range(30)}
    branch = lambda i: {"type": "object", "properties": props(i), "required": [f"p{j}" for j in range(30)]}
    branches = [{"oneOf": [branch(i * 30 + j) for j in range(30)]} for i in range(200)]
    context.post("/v1/chat/completions", chat(response_format=json_schema({"oneOf": branches})), at_once=4)


@attack("", "schemas with counts of 10^9, patterns that repeat repeats, 20,000 enum values")
def schema_counts(context):
    for schema in (
        {"type": "string", "minLength": 10**9},
        {"type": "string", "maxLength": 10**9},
        {"type": "array", "minItems": 10**9, "items": {}},
        {"type": "array", "maxItems": 10**9, "items": {}},
        {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
        {"type": "string", "pattern": "^(a|a|a|a)*b{0,9999}$"},
        {"enum": [f"value {i}" for i in range(20_000)]},
        {"type": "integer", "minimum": 1, "maximum": 10**300},
        {"type": "number", "multipleOf": 1e-300},
        {"const": "x" * 200_000},
        {"type": "object", "patternProperties": {f"^{i}.*": {"type": "null"} for i in range(500)}},
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(5000)}},
    ):
        context.post("/v1/chat/completions", chat(response_format=json_schema(schema)))
    for regex in (
        "(a{1,1000}){1,1000}",
        "((((a*)*)*)*)*b",
        "(.{0,500}x){200}",
        "[\\s\\S]{0,100000}",
        "(a?){5000}a{5000}",
    ):
        context.post("/v1/chat/completions", chat(guided_regex=regex))


@attack("15", "four grammars of 75 kB a round, none like another: what a cache of grammars keeps")
def grammar_cache(context):
    number = context.kept["number"] = context.kept.get("number", 0) + 1
    jobs = []
    for i in range(4):
        schema = {
            "type": "object",
            "properties": {f"p{number}_{i}_{j}": {"type": "string", "maxLength": 50} for j in range(1500)},
        }
        raw = h1("POST", "/v1/chat/completions", chat(response_format=json_schema(schema)))
        jobs.append(lambda raw=raw: frames.exchange(context.port, raw))
    context.together(jobs)


@attack("6", "1 MB of tools of small JSON values with `tool_choice: none`, `n: 8`, four at once", quick=True)
def wide_tools(context):
    tools = [function(f"f{i}", {"type": "object", "x": [[] for _ in range(2600)]}) for i in range(128)]
    context.post("/v1/chat/completions", chat(tools=tools, tool_choice="none", n=8), at_once=4)


@attack("9", "10 MB of tool descriptions", quick=True)
def long_descriptions(context):
    tools = [function(f"f{i}", description="long words " * 7500) for i in range(128)]
    context.post("/v1/chat/completions", chat(tools=tools), timeout=60)


@attack("9", "7 MB of call arguments, thoughts and tool results in the history")
def long_calls(context):
    calls = [
        {
            "id": f"call_{i}",
            "type": "function",
            "function": {"name": "f", "arguments": json.dumps({"a": "b c " * 12_000})},
        }
        for i in range(50)
    ]
    turns = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": calls, "reasoning_content": "well " * 500_000},
        *({"role": "tool", "tool_call_id": f"call_{i}", "content": "r e s " * 8000} for i in range(50)),
    ]
    context.post("/v1/chat/completions", chat(messages=turns, tools=[function("f")]))


@attack("6", "30 MB of JSON of which no field is known, ten at once")
def unknown_fields(context):
    body = json.dumps(chat()).encode()[:-1] + b', "x": [' + b"[]," * (10 * MB) + b"0]}"
    context.post("/v1/chat/completions", body, at_once=10)
