"""What is done to a request's JSON."""

import json

from whole import anthropic, chat, completion, embedding, messages, response, schema, text, tools

# About how much one list may be made to hold, and a long text.
MOST_LIST, BIG = 2 << 20, 60_000


def places(value, found=None, depth=0):
    """Every (container, key) of a JSON value, down to some depth."""
    found = [] if found is None else found
    if depth < 12 and len(found) < 2000:
        for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            found.append((value, key))
            places(value[key], found, depth + 1)
    return found


def size(value):
    """About how long a value is as JSON."""
    try:
        return len(json.dumps(value))
    except RecursionError:
        return MOST_LIST


def nested(rng, deep):
    """A value nested so deep, built without recursion: plain JSON, a schema, or references."""
    word, value = (
        rng.choice(["[]", "a", "properties", "items", "anyOf", "function", "allOf", "not"]),
        {"type": "string"},
    )
    for _ in range(deep):
        if word == "[]":
            value = [value]
        elif word in ("anyOf", "allOf"):
            value = {word: [value]}
        elif word == "properties":
            value = {"type": "object", "properties": {"a": value}}
        else:
            value = {word: value}
    return value


def references(rng):
    count = rng.choice([1, 2, 50, 500])
    style = rng.choice(["cycle", "chain", "self", "double", "missing", "far"])
    defs = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(count)}
    last = {
        "cycle": {"$ref": "#/$defs/d0"},
        "self": {"$ref": f"#/$defs/d{count}"},
        "missing": {"$ref": "#/$defs/none"},
        "far": {"$ref": "http://localhost:1/x.json"},
    }.get(style, {"type": "null"})
    if style == "double":
        defs = {k: {"type": "object", "properties": {"a": v, "b": v}} for k, v in defs.items()}
    inner = {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{count}": last}}
    return rng.choice(
        [
            inner,
            {"$ref": "#"},
            {"type": "object", "properties": {"a": {"$ref": "#"}, "b": inner}, "$defs": inner["$defs"]},
        ]
    )


WRONG = [
    None,
    True,
    False,
    0,
    -1,
    1e308,
    -1e308,
    1 << 63,
    1 << 64,
    10**400,
    1.5,
    "",
    "\0",
    "null",
    [],
    {},
    [[]],
    [None],
    {"": {}},
    "\ud800",
    float("nan"),
    float("inf"),
    -0.0,
    "\ufeff",
    "\ufdef",
    "\ufdd0" * 20,
    [{}] * 9,
    "9" * 500,
]


def deep(rng, body, names):
    holder, key = rng.choice(places(body) or [(body, "x")])
    holder[key] = nested(rng, rng.choice([60, 64, 100, 120, 126, 500, 5000]))


def wide(rng, body, names):
    lists = [(h, k) for h, k in places(body) if isinstance(h[k], list) and h[k]]
    if lists and rng.random() < 0.7:
        holder, key = rng.choice(lists)
        count = rng.choice([10, 128, 129, 2048, 5000])
        holder[key] = holder[key] * min(count, MOST_LIST // size(holder[key]) + 1)
    else:
        holder, key = rng.choice(places(body) or [(body, "x")])
        count = rng.choice([100, 5000, 50_000])
        holder[key] = rng.choice(
            [
                list(range(count)),
                {f"k{i}": i for i in range(count)},
                [[]] * count,
                ["a"] * count,
                {"oneOf": [{"const": i} for i in range(min(count, 5000))]},
                {"enum": [f"e{i}" for i in range(min(count, 5000))]},
            ]
        )


def long(rng, body, names):
    texts = [(h, k) for h, k in places(body) if isinstance(h[k], str)]
    holder, key = rng.choice(texts or [(body, "x")])
    unit = rng.choice(
        [
            "a",
            "word ",
            "é",
            "\n",
            "\0",
            "🙂",
            "<|im_end|>",
            "((((",
            "\\",
            '"',
            "{{",
            "\u3000",
            "data:image/png;base64,AAAA",
        ]
    )
    holder[key] = unit * (rng.choice([100, 5000, BIG, BIG, 1_000_000]) // len(unit) + 1)


def wrong(rng, body, names):
    holder, key = rng.choice(places(body) or [(body, "x")])
    holder[key] = rng.choice(WRONG)


def referring(rng, body, names):
    holder, key = rng.choice(places(body) or [(body, "x")])
    holder[key] = rng.choice(
        [
            references(rng),
            names.response,
            names.conversation,
            {"id": names.conversation},
            [{"type": "item_reference", "id": names.item}] * rng.choice([1, 50, 900]),
        ]
    )
    if rng.random() < 0.5:
        body.setdefault(
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "s", "schema": references(rng), "strict": True}},
        )


def dropped(rng, body, names):
    found = places(body)
    if found:
        holder, key = rng.choice(found)
        holder.pop(key)


def crossed(rng, body, names):
    """Fields of another request."""
    _, _, other = rng.choice([chat, completion, response, anthropic, embedding])(rng, names)
    keys = rng.sample(sorted(other), min(len(other), 3))
    body.update({key: other[key] for key in keys})


def counted(rng, body, names):
    """Numbers at and beyond what any limit allows."""
    name = rng.choice(
        [
            "n",
            "max_tokens",
            "max_output_tokens",
            "top_logprobs",
            "seed",
            "top_k",
            "temperature",
            "best_of",
            "dimensions",
            "top_n",
            "min_tokens",
            "thinking_token_budget",
            "repetition_penalty",
            "top_p",
            "typical_p",
            "min_p",
            "truncate",
        ]
    )
    body[name] = rng.choice([0, -1, 1, 2, 8, 9, 1e9, 2**31, 2**32, 2**63 - 1, 2**64 - 1, -(2**63), 1e-300, 1e300])


def heavy(rng, body, names):
    """What is valid, or nearly, and as much of it as may be taken."""
    count = rng.choice([20, 100, 128, 500])
    if "messages" in body:
        body |= rng.choice(
            [
                {"messages": messages(rng) * count},
                {
                    "tools": [
                        t | {"function": {**t["function"], "name": f"g{i}"}}
                        for i in range(min(count, 128))
                        for t in tools(rng)[:1]
                    ]
                },
                {
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "s", "schema": schema(rng, 7), "strict": True},
                    }
                },
                {"n": 8, "logprobs": True, "top_logprobs": 20, "typical_p": 0.4},
                {"stop": ["x" * 200 + str(i) for i in range(4)]},
                {
                    "guided_regex": rng.choice(["(a|b|ab)*c{0,%d}", "(x{0,%d}y?)*", "[^a]{0,%d}", "(\\w+\\s){1,%d}"])
                    % (count * 10)
                },
                {"guided_choice": [text(rng)[:9] + str(i) for i in range(count)]},
                {"guided_json": {"oneOf": [schema(rng, 2) for _ in range(count)]}},
                {"guided_json": {"allOf": [schema(rng, 2) for _ in range(min(count, 20))]}},
                {"guided_json": references(rng)},
                {
                    "guided_grammar": "start: "
                    + " | ".join(f"r{i}" for i in range(count))
                    + "\n"
                    + "".join(f'r{i}: "{i}" start?\n' for i in range(count))
                },
                {"guided_grammar": 'start: a\na: a a | "x" |\n'},
                {"grammar": 'root ::= ("a" root?)*'},
                {"tool_choice": "required", "tools": tools(rng), "parallel_tool_calls": True},
                {"logit_bias": {str(i): rng.randint(-100, 100) for i in range(count)}},
                {"max_tokens": 60, "n": 4, "stream": True},
            ]
        )
    elif "input" in body:
        body["input"] = rng.choice(
            [text(rng) * count, [text(rng)] * count, [{"role": "user", "content": text(rng)}] * count]
        )
    elif "documents" in body:
        body["documents"] = [text(rng) for _ in range(count)]
    elif "prompt" in body:
        body["prompt"] = text(rng) * count


MUTATIONS = [
    (heavy, 8),
    (deep, 2),
    (wide, 3),
    (long, 4),
    (wrong, 4),
    (referring, 3),
    (dropped, 1),
    (crossed, 3),
    (counted, 3),
]
