"""Ordinary requests to every endpoint, for mutations to begin from."""

from dataclasses import dataclass

import frames
from server import CHAT, EMBED


@dataclass
class Names:
    """Ids that differ from server to server."""

    response: str = "resp_none"
    conversation: str = "conv_none"
    item: str = "msg_none"


def kept_names(port):
    names, post = Names(), lambda path, body: frames.request(port, "POST", path, body)
    reply = post("/v1/responses", {"model": CHAT, "input": "Hi", "max_output_tokens": 16, "store": True})
    if reply.status == 200:
        names.response = reply.json()["id"]
    reply = post("/v1/conversations", {"items": [{"type": "message", "role": "user", "content": "word " * 500}]})
    if reply.status == 200:
        names.conversation = reply.json()["id"]
        listed = frames.request(port, "GET", f"/v1/conversations/{names.conversation}/items")
        if listed.status == 200:
            names.item = listed.json()["data"][0]["id"]
    return names


def text(rng):
    return " ".join(
        rng.choice(["a", "tale", "of", "two", "é", "日本", "🙂", "<|im_end|>", "{", '"', "\n", "0"])
        for _ in range(rng.randint(1, 30))
    )


def schema(rng, depth=3):
    kind = rng.choice(
        ["string", "integer", "object", "array", "enum", "anyOf", "const"] if depth else ["string", "null"]
    )
    if kind == "object":
        props = {f"p{i}": schema(rng, depth - 1) for i in range(rng.randint(1, 4))}
        return {"type": "object", "properties": props, "required": list(props), "additionalProperties": False}
    if kind == "array":
        return {"type": "array", "items": schema(rng, depth - 1), "maxItems": rng.randint(1, 4)}
    if kind == "enum":
        return {"enum": [text(rng) for _ in range(rng.randint(1, 4))]}
    if kind in ("anyOf",):
        return {kind: [schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]}
    return {"const": text(rng)} if kind == "const" else {"type": kind}


def tools(rng, flat=False, key="parameters"):
    each = lambda i: {
        "name": f"f{i}",
        "description": text(rng),
        key: {"type": "object", "properties": {"a": schema(rng, 1)}},
    }
    made = [each(i) for i in range(rng.randint(1, 5))]
    if key != "parameters":
        return made
    return [{"type": "function", **t} for t in made] if flat else [{"type": "function", "function": t} for t in made]


def messages(rng):
    roles = ["user", "assistant", "system", "user", "developer"]
    turns = [{"role": rng.choice(roles), "content": text(rng)} for _ in range(rng.randint(0, 5))]
    if rng.random() < 0.2:
        call = {"id": "call_1", "type": "function", "function": {"name": "f0", "arguments": '{"a": 1}'}}
        turns += [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": text(rng)},
        ]
    return [*turns, {"role": "user", "content": text(rng)}]


def shaping(rng):
    return rng.choice(
        [
            {"response_format": {"type": "json_object"}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "s", "schema": schema(rng), "strict": True},
                }
            },
            {"guided_regex": rng.choice(["[a-z]{1,9}", "(a|b)*c", "\\d+"])},
            {"guided_choice": [text(rng), text(rng)]},
            {"guided_grammar": 'start: "a" b\nb: /[0-9]+/'},
            {"grammar": 'root ::= "a" | "b" root'},
            {"guided_json": schema(rng)},
        ]
    )


def sampling(rng):
    fields = {
        "temperature": rng.random() * 2,
        "top_p": rng.random(),
        "n": rng.randint(1, 4),
        "stop": [text(rng)[:20]],
        "seed": rng.randint(0, 1 << 31),
        "logit_bias": {str(rng.randint(0, 40_000)): 5},
        "typical_p": rng.random(),
        "frequency_penalty": 1.0,
        "min_p": 0.1,
        "top_k": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return {name: fields[name] for name in rng.sample(sorted(fields), rng.randint(0, 4))}


def chat(rng, names):
    body = {"model": CHAT, "messages": messages(rng), "max_tokens": rng.randint(1, 8), **sampling(rng)}
    if "stream" not in body:
        body.pop("stream_options", None)
    if rng.random() < 0.3:
        body |= {
            "tools": tools(rng),
            "tool_choice": rng.choice(["auto", "none", "required", {"type": "function", "function": {"name": "f0"}}]),
        }
    elif rng.random() < 0.3:
        body |= shaping(rng)
    if rng.random() < 0.1:
        body |= {"logprobs": True, "top_logprobs": rng.randint(0, 20)}
    return "POST", "/v1/chat/completions", body


def completion(rng, names):
    prompt = rng.choice([text(rng), [text(rng), text(rng)], [rng.randint(0, 49_000) for _ in range(9)], [[1, 2], [3]]])
    return (
        "POST",
        "/v1/completions",
        {"model": CHAT, "prompt": prompt, "max_tokens": rng.randint(1, 8)}
        | (shaping(rng) if rng.random() < 0.3 else {}),
    )


def response(rng, names):
    items = [
        {"type": "message", "role": "user", "content": text(rng)},
        {"type": "item_reference", "id": names.item},
        {"type": "function_call", "call_id": "c", "name": "f0", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": text(rng)},
        {"role": "assistant", "content": [{"type": "output_text", "text": text(rng)}]},
    ]
    body = {"model": CHAT, "input": rng.choice([text(rng), rng.sample(items, 2)]), "max_output_tokens": 16}
    body |= rng.choice(
        [
            {},
            {},
            {"previous_response_id": names.response},
            {"conversation": names.conversation},
            {"background": True, "store": True},
            {"stream": True},
            {"tools": tools(rng, flat=True)},
            {"text": {"format": {"type": "json_schema", "name": "s", "schema": schema(rng), "strict": True}}},
        ]
    )
    return "POST", "/v1/responses", body


def stored(rng, names):
    item = {"type": "message", "role": "user", "content": text(rng)}
    return rng.choice(
        [
            ("GET", f"/v1/responses/{names.response}", None),
            ("GET", f"/v1/responses/{names.response}/input_items?limit=100", None),
            ("GET", f"/v1/conversations/{names.conversation}/items?after={names.item}", None),
            ("POST", f"/v1/responses/{names.response}/cancel", {}),
            ("POST", "/v1/conversations", {"items": [item] * rng.randint(1, 20), "metadata": {"a": "b"}}),
            ("POST", f"/v1/conversations/{names.conversation}/items", {"items": [item]}),
            ("POST", f"/v1/conversations/{names.conversation}", {"metadata": {"k": text(rng)[:100]}}),
            ("DELETE", f"/v1/conversations/conv_{rng.randint(0, 99)}", None),
            ("GET", f"/v1/responses/{'a' * rng.randint(1, 8000)}", None),
        ]
    )


def anthropic(rng, names):
    turns = [{"role": role, "content": text(rng)} for role in ("user", "assistant", "user")]
    body = {"model": CHAT, "messages": turns, "max_tokens": rng.randint(1, 8), "system": text(rng)}
    body |= rng.choice(
        [
            {},
            {"stream": True},
            {"tools": tools(rng, key="input_schema"), "tool_choice": {"type": rng.choice(["any", "auto"])}},
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            {"stop_sequences": [text(rng)]},
        ]
    )
    return "POST", rng.choice(["/v1/messages", "/v1/messages", "/v1/messages/count_tokens"]), body


def embedding(rng, names):
    inputs = rng.choice(
        [text(rng), [text(rng) for _ in range(rng.randint(1, 40))], [rng.randint(0, 30_000) for _ in range(20)]]
    )
    return (
        "POST",
        "/v1/embeddings",
        {"model": EMBED, "input": inputs, "encoding_format": rng.choice(["float", "base64"])},
    )


def rerank(rng, names):
    return (
        "POST",
        "/v1/rerank",
        {"model": EMBED, "query": text(rng), "documents": [text(rng) for _ in range(rng.randint(1, 40))]},
    )


def small(rng, names):
    return rng.choice(
        [
            ("POST", "/v1/tokenize", {"model": CHAT, "prompt": text(rng), "return_token_strs": True}),
            ("POST", "/v1/tokenize", {"model": CHAT, "messages": messages(rng)}),
            ("POST", "/v1/detokenize", {"model": CHAT, "tokens": [rng.randint(0, 49_000) for _ in range(50)]}),
            ("POST", "/v1/responses/input_tokens", {"model": CHAT, "input": text(rng)}),
            ("POST", "/v1/chat/completions/input_tokens", {"model": CHAT, "messages": messages(rng)}),
            ("GET", "/v1/models", None),
            ("GET", f"/v1/models/{CHAT}", None),
            ("GET", "/health", None),
            ("GET", "/metrics", None),
            ("GET", "/openapi.json", None),
            ("OPTIONS", "/v1/chat/completions", None),
            ("PUT", "/v1/models", {}),
        ]
    )


ENDPOINTS = [
    (chat, 8),
    (completion, 3),
    (response, 5),
    (stored, 2),
    (anthropic, 3),
    (embedding, 2),
    (rerank, 1),
    (small, 3),
]
