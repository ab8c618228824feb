"""Hostile requests by number: the same number gives the same bytes.

A case is a request to some endpoint, mutated a few times as JSON, then as bytes, then sent in some
way. Numbers that once found something are in `seeds.txt` and are always sent again.
"""

import json
import random
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

import frames
from frames import frame, h2_head, h2_request, literal
from server import CHAT, EMBED

SEEDS = Path(__file__).with_name("seeds.txt")
# What a case may take before it counts as one that hangs.
PATIENCE_S = 120.0
BIG = 60_000
# The longest body, and about how much one list may be made to hold.
MOST_BODY, MOST_LIST = 8 << 20, 2 << 20


@dataclass
class Case:
    number: int
    title: list = field(default_factory=list)
    # ("send", bytes), ("wait", seconds), ("read", bytes), ("rst",)
    steps: list = field(default_factory=list)
    http2: bool = False
    # Whether it is a whole request, which is owed an answer.
    owed: bool = True

    def data(self):
        return b"".join(step[1] for step in self.steps if step[0] == "send")


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


# --- Whole requests ---------------------------------------------------------------------------


def text(rng):
    return " ".join(rng.choice(["a", "tale", "of", "two", "é", "日本", "🙂", "<|im_end|>", "{", '"', "\n", "0"]) for _ in range(rng.randint(1, 30)))


def schema(rng, depth=3):
    kind = rng.choice(["string", "integer", "object", "array", "enum", "anyOf", "const"] if depth else ["string", "null"])
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
    each = lambda i: {"name": f"f{i}", "description": text(rng), key: {"type": "object", "properties": {"a": schema(rng, 1)}}}
    made = [each(i) for i in range(rng.randint(1, 5))]
    if key != "parameters":
        return made
    return [{"type": "function", **t} for t in made] if flat else [{"type": "function", "function": t} for t in made]


def messages(rng):
    roles = ["user", "assistant", "system", "user", "developer"]
    turns = [{"role": rng.choice(roles), "content": text(rng)} for _ in range(rng.randint(0, 5))]
    if rng.random() < 0.2:
        call = {"id": "call_1", "type": "function", "function": {"name": "f0", "arguments": '{"a": 1}'}}
        turns += [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "call_1", "content": text(rng)}]
    return [*turns, {"role": "user", "content": text(rng)}]


def shaping(rng):
    return rng.choice([
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema(rng), "strict": True}}},
        {"guided_regex": rng.choice(["[a-z]{1,9}", "(a|b)*c", "\\d+"])}, {"guided_choice": [text(rng), text(rng)]},
        {"guided_grammar": 'start: "a" b\nb: /[0-9]+/'}, {"grammar": 'root ::= "a" | "b" root'}, {"guided_json": schema(rng)},
    ])


def sampling(rng):
    fields = {"temperature": rng.random() * 2, "top_p": rng.random(), "n": rng.randint(1, 4), "stop": [text(rng)[:20]],
              "seed": rng.randint(0, 1 << 31), "logit_bias": {str(rng.randint(0, 40_000)): 5}, "typical_p": rng.random(),
              "frequency_penalty": 1.0, "min_p": 0.1, "top_k": 5, "stream": True, "stream_options": {"include_usage": True}}
    return {name: fields[name] for name in rng.sample(sorted(fields), rng.randint(0, 4))}


def chat(rng, names):
    body = {"model": CHAT, "messages": messages(rng), "max_tokens": rng.randint(1, 8), **sampling(rng)}
    if "stream" not in body:
        body.pop("stream_options", None)
    if rng.random() < 0.3:
        body |= {"tools": tools(rng), "tool_choice": rng.choice(["auto", "none", "required", {"type": "function", "function": {"name": "f0"}}])}
    elif rng.random() < 0.3:
        body |= shaping(rng)
    if rng.random() < 0.1:
        body |= {"logprobs": True, "top_logprobs": rng.randint(0, 20)}
    return "POST", "/v1/chat/completions", body


def completion(rng, names):
    prompt = rng.choice([text(rng), [text(rng), text(rng)], [rng.randint(0, 49_000) for _ in range(9)], [[1, 2], [3]]])
    return "POST", "/v1/completions", {"model": CHAT, "prompt": prompt, "max_tokens": rng.randint(1, 8)} | (shaping(rng) if rng.random() < 0.3 else {})


def response(rng, names):
    items = [{"type": "message", "role": "user", "content": text(rng)}, {"type": "item_reference", "id": names.item},
             {"type": "function_call", "call_id": "c", "name": "f0", "arguments": "{}"},
             {"type": "function_call_output", "call_id": "c", "output": text(rng)},
             {"role": "assistant", "content": [{"type": "output_text", "text": text(rng)}]}]
    body = {"model": CHAT, "input": rng.choice([text(rng), rng.sample(items, 2)]), "max_output_tokens": 16}
    body |= rng.choice([{}, {}, {"previous_response_id": names.response}, {"conversation": names.conversation},
                        {"background": True, "store": True}, {"stream": True}, {"tools": tools(rng, flat=True)},
                        {"text": {"format": {"type": "json_schema", "name": "s", "schema": schema(rng), "strict": True}}}])
    return "POST", "/v1/responses", body


def stored(rng, names):
    item = {"type": "message", "role": "user", "content": text(rng)}
    return rng.choice([
        ("GET", f"/v1/responses/{names.response}", None), ("GET", f"/v1/responses/{names.response}/input_items?limit=100", None),
        ("GET", f"/v1/conversations/{names.conversation}/items?after={names.item}", None), ("POST", f"/v1/responses/{names.response}/cancel", {}),
        ("POST", "/v1/conversations", {"items": [item] * rng.randint(1, 20), "metadata": {"a": "b"}}),
        ("POST", f"/v1/conversations/{names.conversation}/items", {"items": [item]}),
        ("POST", f"/v1/conversations/{names.conversation}", {"metadata": {"k": text(rng)[:100]}}),
        ("DELETE", f"/v1/conversations/conv_{rng.randint(0, 99)}", None), ("GET", f"/v1/responses/{'a' * rng.randint(1, 8000)}", None),
    ])


def anthropic(rng, names):
    turns = [{"role": role, "content": text(rng)} for role in ("user", "assistant", "user")]
    body = {"model": CHAT, "messages": turns, "max_tokens": rng.randint(1, 8), "system": text(rng)}
    body |= rng.choice([{}, {"stream": True}, {"tools": tools(rng, key="input_schema"), "tool_choice": {"type": rng.choice(["any", "auto"])}},
                        {"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"stop_sequences": [text(rng)]}])
    return "POST", rng.choice(["/v1/messages", "/v1/messages", "/v1/messages/count_tokens"]), body


def embedding(rng, names):
    inputs = rng.choice([text(rng), [text(rng) for _ in range(rng.randint(1, 40))], [rng.randint(0, 30_000) for _ in range(20)]])
    return "POST", "/v1/embeddings", {"model": EMBED, "input": inputs, "encoding_format": rng.choice(["float", "base64"])}


def rerank(rng, names):
    return "POST", "/v1/rerank", {"model": EMBED, "query": text(rng), "documents": [text(rng) for _ in range(rng.randint(1, 40))]}


def small(rng, names):
    return rng.choice([
        ("POST", "/v1/tokenize", {"model": CHAT, "prompt": text(rng), "return_token_strs": True}),
        ("POST", "/v1/tokenize", {"model": CHAT, "messages": messages(rng)}),
        ("POST", "/v1/detokenize", {"model": CHAT, "tokens": [rng.randint(0, 49_000) for _ in range(50)]}),
        ("POST", "/v1/responses/input_tokens", {"model": CHAT, "input": text(rng)}),
        ("POST", "/v1/chat/completions/input_tokens", {"model": CHAT, "messages": messages(rng)}),
        ("GET", "/v1/models", None), ("GET", f"/v1/models/{CHAT}", None), ("GET", "/health", None), ("GET", "/metrics", None),
        ("GET", "/openapi.json", None), ("OPTIONS", "/v1/chat/completions", None), ("PUT", "/v1/models", {}),
    ])


ENDPOINTS = [(chat, 8), (completion, 3), (response, 5), (stored, 2), (anthropic, 3), (embedding, 2), (rerank, 1), (small, 3)]

# --- Mutations of the JSON --------------------------------------------------------------------


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
    word, value = rng.choice(["[]", "a", "properties", "items", "anyOf", "function", "allOf", "not"]), {"type": "string"}
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
    last = {"cycle": {"$ref": "#/$defs/d0"}, "self": {"$ref": f"#/$defs/d{count}"}, "missing": {"$ref": "#/$defs/none"},
            "far": {"$ref": "http://localhost:1/x.json"}}.get(style, {"type": "null"})
    if style == "double":
        defs = {k: {"type": "object", "properties": {"a": v, "b": v}} for k, v in defs.items()}
    inner = {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{count}": last}}
    return rng.choice([inner, {"$ref": "#"}, {"type": "object", "properties": {"a": {"$ref": "#"}, "b": inner}, "$defs": inner["$defs"]}])


WRONG = [None, True, False, 0, -1, 1e308, -1e308, 1 << 63, 1 << 64, 10**400, 1.5, "", "\0", "null", [], {}, [[]], [None], {"": {}}, "\ud800",
         float("nan"), float("inf"), -0.0, "\ufeff", "\ufdef", "\ufdd0" * 20, [{}] * 9, "9" * 500]


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
        holder[key] = rng.choice([list(range(count)), {f"k{i}": i for i in range(count)}, [[]] * count, ["a"] * count,
                                  {"oneOf": [{"const": i} for i in range(min(count, 5000))]}, {"enum": [f"e{i}" for i in range(min(count, 5000))]}])


def long(rng, body, names):
    texts = [(h, k) for h, k in places(body) if isinstance(h[k], str)]
    holder, key = rng.choice(texts or [(body, "x")])
    unit = rng.choice(["a", "word ", "é", "\n", "\0", "🙂", "<|im_end|>", "((((", "\\", '"', "{{", "\u3000", "data:image/png;base64,AAAA"])
    holder[key] = unit * (rng.choice([100, 5000, BIG, BIG, 1_000_000]) // len(unit) + 1)


def wrong(rng, body, names):
    holder, key = rng.choice(places(body) or [(body, "x")])
    holder[key] = rng.choice(WRONG)


def referring(rng, body, names):
    holder, key = rng.choice(places(body) or [(body, "x")])
    holder[key] = rng.choice([references(rng), names.response, names.conversation, {"id": names.conversation},
                              [{"type": "item_reference", "id": names.item}] * rng.choice([1, 50, 900])])
    if rng.random() < 0.5:
        body.setdefault("response_format", {"type": "json_schema", "json_schema": {"name": "s", "schema": references(rng), "strict": True}})


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
    name = rng.choice(["n", "max_tokens", "max_output_tokens", "top_logprobs", "seed", "top_k", "temperature", "best_of", "dimensions", "top_n",
                       "min_tokens", "thinking_token_budget", "repetition_penalty", "top_p", "typical_p", "min_p", "truncate"])
    body[name] = rng.choice([0, -1, 1, 2, 8, 9, 1e9, 2**31, 2**32, 2**63 - 1, 2**64 - 1, -(2**63), 1e-300, 1e300])


def heavy(rng, body, names):
    """What is valid, or nearly, and as much of it as may be taken."""
    count = rng.choice([20, 100, 128, 500])
    if "messages" in body:
        body |= rng.choice([
            {"messages": messages(rng) * count}, {"tools": [t | {"function": {**t["function"], "name": f"g{i}"}} for i in range(min(count, 128))
                                                            for t in tools(rng)[:1]]},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema(rng, 7), "strict": True}}},
            {"n": 8, "logprobs": True, "top_logprobs": 20, "typical_p": 0.4}, {"stop": ["x" * 200 + str(i) for i in range(4)]},
            {"guided_regex": rng.choice(["(a|b|ab)*c{0,%d}", "(x{0,%d}y?)*", "[^a]{0,%d}", "(\\w+\\s){1,%d}"]) % (count * 10)},
            {"guided_choice": [text(rng)[:9] + str(i) for i in range(count)]}, {"guided_json": {"oneOf": [schema(rng, 2) for _ in range(count)]}},
            {"guided_json": {"allOf": [schema(rng, 2) for _ in range(min(count, 20))]}}, {"guided_json": references(rng)},
            {"guided_grammar": "start: " + " | ".join(f"r{i}" for i in range(count)) + "\n" + "".join(f'r{i}: "{i}" start?\n' for i in range(count))},
            {"guided_grammar": "start: a\na: a a | \"x\" |\n"}, {"grammar": 'root ::= ("a" root?)*'},
            {"tool_choice": "required", "tools": tools(rng), "parallel_tool_calls": True},
            {"logit_bias": {str(i): rng.randint(-100, 100) for i in range(count)}}, {"max_tokens": 60, "n": 4, "stream": True},
        ])
    elif "input" in body:
        body["input"] = rng.choice([text(rng) * count, [text(rng)] * count, [{"role": "user", "content": text(rng)}] * count])
    elif "documents" in body:
        body["documents"] = [text(rng) for _ in range(count)]
    elif "prompt" in body:
        body["prompt"] = text(rng) * count


MUTATIONS = [(heavy, 8), (deep, 2), (wide, 3), (long, 4), (wrong, 4), (referring, 3), (dropped, 1), (crossed, 3), (counted, 3)]


def encode(rng, body, case):
    """JSON as bytes, in whatever encoding."""
    raw = json.dumps(body, ensure_ascii=rng.random() < 0.5, allow_nan=True).encode("utf-8", "surrogatepass")
    kind = rng.choices(["plain", "repeated", "utf-16", "bad utf-8", "bom", "nul", "flipped", "cut json", "number", "twice", "spaces"],
                       [60, 4, 2, 4, 2, 2, 6, 4, 4, 2, 2])[0]
    if kind == "plain":
        return raw
    case.title.append(kind)
    if kind == "repeated" and raw.startswith(b"{"):
        return b"{" + (raw[1:-1] + b",") * rng.choice([1, 3, 100]) + raw[1:]
    if kind == "utf-16":
        return json.dumps(body).encode("utf-16" if rng.random() < 0.5 else "utf-32")
    at = rng.randrange(len(raw)) if raw else 0
    if kind == "bad utf-8":
        return raw[:at] + rng.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]) + raw[at:]
    if kind == "bom":
        return b"\xef\xbb\xbf" + raw
    if kind == "nul":
        return raw[:at] + b"\0" + raw[at:]
    if kind == "flipped":
        flipped = bytearray(raw)
        for _ in range(rng.randint(1, 8)):
            flipped[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if kind == "cut json":
        return raw[:at]
    if kind == "number":
        return raw.replace(b"1", rng.choice([b"1e999", b"-1e999", b"1" * 5000, b"0x1", b"01", b"1."]), 1)
    return raw + raw if kind == "twice" else b" " * BIG + raw + b"\n" * BIG


# --- How it is sent ---------------------------------------------------------------------------


def odd_headers(rng):
    return rng.choice([
        [(f"x-{i}", "v") for i in range(rng.choice([90, 101, 2000]))], [("x-long", "v" * rng.choice([8000, 70_000, 1_000_000]))],
        [("authorization", "Bearer " + "k" * 5000)], [("x-request-timeout", rng.choice(["-1", "nan", "1e400", "0", "0.001", ""]))],
        [("x-request-id", "é" * 100)], [("expect", "100-continue")], [("accept-encoding", "gzip, br;q=nan")], [("cookie", "a=b; " * 10_000)],
        [("content-encoding", "gzip")], [("upgrade", "h2c"), ("connection", "upgrade, http2-settings"), ("http2-settings", "AAMAAABk")],
        [("origin", "null"), ("access-control-request-method", "POST")], [("x-priority", "9" * 400)], [("host", "b"), ("host", "c")],
    ])


def head(method, path, fields):
    return f"{method} {path} HTTP/1.1\r\n".encode() + b"".join(f"{n}: {v}\r\n".encode() for n, v in fields) + b"\r\n"


def over_h1(rng, case, method, path, raw):
    fields = [("host", "localhost"), ("connection", "close")]
    if raw or method in ("POST", "PUT"):
        fields += [("content-type", "application/json"), ("content-length", str(len(raw)))]
    way = rng.choices(["whole", "headers", "types", "chunks", "smuggled", "pipelined", "drip", "cut body", "cut head", "rst", "unread", "line"],
                      [50, 8, 4, 6, 6, 4, 4, 4, 3, 5, 3, 4])[0]
    if way != "whole":
        case.title.append(way)
    whole = head(method, path, fields) + raw
    send = lambda data: case.steps.append(("send", data))
    if way == "headers":
        send(head(method, path, fields + odd_headers(rng)) + raw)
    elif way == "types":
        odd = rng.choice(["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=utf-16", "", "a/b/c", "\t"])
        send(head(method, path, [(n, odd if n == "content-type" else v) for n, v in fields]) + raw)
    elif way in ("chunks", "smuggled"):
        kept = [f for f in fields if f[0] != "content-length"]
        chunks = b"".join(b"%x%s\r\n%s\r\n" % (len(p), rng.choice([b"", b";a=b", b";" + b"x" * 500]), p)
                          for p in (raw[i : i + 997] for i in range(0, min(len(raw), 200_000), 997)))
        end = rng.choice([b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nx-trailer: a\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\n\r\n", b"0\r\n" + b"t: v\r\n" * 5000 + b"\r\n"])
        extra = [("transfer-encoding", "chunked")]
        if way == "smuggled":
            extra = rng.choice([[("transfer-encoding", "chunked"), ("content-length", "5")], [("transfer-encoding", "chunked, identity")],
                                [("transfer-encoding", "xchunked")], [("content-length", "5"), ("content-length", "6")], [("content-length", "+5")],
                                [("content-length", "99999999999999999999")], [("transfer-encoding", "chunked"), ("transfer-encoding", "identity")]])
        case.owed = end == b"0\r\n\r\n" and way == "chunks" and len(raw) <= 200_000
        send(head(method, path, kept + extra) + chunks + end)
    elif way == "pipelined":
        one = head(method, path, [f for f in fields if f[0] != "connection"]) + raw
        send(one * rng.choice([2, 5, 40]) if len(one) < 20_000 else one + whole)
        case.owed = False
        case.steps.append(("read", 1))
    elif way == "drip":
        at = rng.choice([0, len(whole) - len(raw)])
        send(whole[:at])
        size = max(1, (len(whole) - at) // 20)
        for i in range(at, len(whole), size):
            case.steps += [("send", whole[i : i + size]), ("wait", 0.05)]
    elif way in ("cut body", "cut head"):
        least = 0 if way == "cut head" else len(whole) - len(raw)
        send(whole[: rng.randint(least, max(least, len(whole) - 1))])
        case.steps.append(("rst",) if rng.random() < 0.5 else ("wait", 0.5))
        case.owed = False
    elif way == "rst":
        send(whole)
        case.steps += [("read", rng.choice([1, 200, 2000])), ("rst",)]
        case.owed = False
    elif way == "unread":
        send(whole)
        case.steps += [("wait", 2.0), ("rst",)]
        case.owed = False
    elif way == "line":
        line = rng.choice([b"GET / HTTP/9.9\r\n\r\n", b"\0" * 500, b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"\xaa" * 300,
                           b"GET http://[::1/%zz HTTP/1.1\r\nhost: a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"POST  /v1/models HTTP/1.1\r\n\r\n",
                           b"GET /v1/models?" + b"a=b&" * 10_000 + b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", b"\r\n" * 5000])
        send(line)
        case.steps.append(("wait", 0.3))
        case.owed = False
    else:
        send(whole)


def over_h2(rng, case, method, path, raw):
    case.http2 = True
    request = h2_request(1, method, path, raw)
    hello = frames.PREFACE + frames.settings(table=0)
    way = rng.choices(["whole", "window 0", "rapid reset", "pings", "settings", "huge headers", "continuation", "many streams",
                       "data after end", "bad lengths", "bad hpack", "odd frames", "unfinished", "content-length"], [30, 6, 6, 4, 4, 6, 6, 6, 5, 6, 6, 6, 5, 4])[0]
    case.title.append(f"h2 {way}")
    # Bodies beyond the first window are sent all the same, which is an error of ours.
    case.owed = way in ("whole", "pings") and len(raw) <= 65_535
    number = lambda value: struct.pack(">I", value)
    grow = frame(frames.WINDOW, payload=number(1 << 30))
    data = {
        "whole": lambda: hello + grow + request,
        "window 0": lambda: frames.PREFACE + frames.settings(table=0, window=0) + request,
        "rapid reset": lambda: hello + b"".join(h2_request(1 + 2 * i, method, path, raw) + frame(frames.RST, 0, 1 + 2 * i, number(8))
                                                for i in range(200 if len(raw) < 2000 else 5)),
        "pings": lambda: hello + grow + frame(frames.PING, 0, 0, b"12345678") * 5000 + request,
        "settings": lambda: hello + frames.settings(window=0) + frames.settings(window=(1 << 31) - 1) * 2000 + request,
        "huge headers": lambda: hello + big_headers(rng, method, path),
        "continuation": lambda: hello + frame(frames.HEADERS, 0, 1, h2_head(method, path))
            + frame(frames.CONTINUATION, 0, 1, literal("x", "y" * 1000)) * 500,
        "many streams": lambda: hello + b"".join(h2_request(1 + 2 * i, "GET", "/v1/models") for i in range(600)),
        "data after end": lambda: hello + request + frame(frames.DATA, 0, 1, b"more") * 100 + frame(frames.HEADERS, 5, 1, b"\x82"),
        "bad lengths": lambda: hello + frame(frames.HEADERS, 5, 1, h2_head(method, path), length=rng.choice([1, 0xFFFFFF])) + request,
        "bad hpack": lambda: hello + frame(frames.HEADERS, 5, 1, rng.choice([b"\xff" * 50, b"\x80", bytes(rng.randbytes(300)), b"\x3f\xff\xff\xff\xff\x0f"])),
        "odd frames": lambda: hello + b"".join(frame(rng.randrange(256), rng.randrange(256), rng.randrange(9), rng.randbytes(rng.randrange(40))) for _ in range(50)),
        "unfinished": lambda: hello + frame(frames.HEADERS, 4, 1, h2_head("POST", path)) + frame(frames.DATA, 0, 1, raw[:100]),
        "content-length": lambda: hello + frame(frames.HEADERS, 4, 1, h2_head("POST", path, length=7)) + frame(frames.DATA, 1, 1, raw[:16_000]),
    }[way]()
    case.steps.append(("send", data))
    if not case.owed:
        case.steps.append(("wait", 0.5))
        if rng.random() < 0.5:
            case.steps.append(("rst",))


def big_headers(rng, method, path):
    block = h2_head(method, path, [(f"x-{i}", "v" * 1000) for i in range(rng.choice([20, 200]))])
    pieces = [block[i : i + 16_384] for i in range(0, len(block), 16_384)]
    out = frame(frames.HEADERS, 1 | (4 if len(pieces) == 1 else 0), 1, pieces[0])
    for i, piece in enumerate(pieces[1:], 2):
        out += frame(frames.CONTINUATION, 4 if i == len(pieces) else 0, 1, piece)
    return out


def generate(number, names):
    """The case with this number."""
    rng, case = random.Random(number), Case(number)
    make = rng.choices([e for e, _ in ENDPOINTS], [w for _, w in ENDPOINTS])[0]
    method, path, body = make(rng, names)
    case.title.append(f"{method} {path[:60]}")
    if body is None:
        raw = b""
    else:
        # A copy: mutations change it, and lists in it may be the same list twice.
        body = json.loads(json.dumps(body))
        for _ in range(rng.choices([0, 1, 2, 3], [2, 6, 2, 1])[0]):
            mutate = rng.choices([m for m, _ in MUTATIONS], [w for _, w in MUTATIONS])[0]
            case.title.append(mutate.__name__)
            mutate(rng, body, names)
        raw = encode_deep(rng, body, case)
    if rng.random() < 0.05:
        path = rng.choice([path + "?" + "x=y&" * 100, path.replace("/v1", ""), "/" + path, path + "/../" * 50, path + "%00", "/v1/%C3%A9%FF"])
    (over_h2 if rng.random() < 0.2 else over_h1)(rng, case, method, path, raw)
    return case


def encode_deep(rng, body, case):
    try:
        return encode(rng, body, case)[:MOST_BODY]
    except RecursionError:
        # Deeper than Python's encoder goes: as text, which is all that matters of it.
        depth = rng.choice([1000, 5000, 100_000])
        return b'{"model": "smollm2", "messages": [], "x": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"


# --- Sending ----------------------------------------------------------------------------------


def run(case, port):
    """Sends a case. `error` of the reply says what was not as it has to be."""
    begin, reply, data, error = time.monotonic(), frames.Reply(), b"", ""
    try:
        with frames.connect(port, PATIENCE_S) as stream:
            gone = False
            for step, *value in case.steps:
                if step == "send" and not frames.send(stream, value[0]):
                    gone = True
                elif step == "wait":
                    time.sleep(value[0])
                elif step == "read":
                    stream.settimeout(5)
                    data += stream.recv(value[0])
                elif step == "rst":
                    frames.reset(stream)
                if step == "rst" or gone:
                    break
            if case.owed or stream.fileno() >= 0:
                reply, error = finish(case, stream, data)
    except OSError as broken:
        error = f"{type(broken).__name__}: {broken}"
    reply.error = error if case.owed else ""
    reply.seconds, reply.name = time.monotonic() - begin, str(case.number)
    return reply


def finish(case, stream, data):
    stream.settimeout(PATIENCE_S if case.owed else 3)
    if not case.http2:
        reply = frames.parse(*(lambda got: (data + got[0], got[1]))(frames.receive(stream)))
        return reply, reply.error
    connection = frames.H2.__new__(frames.H2)
    connection.socket, connection.held, connection.error, connection.goaway = stream, data, "", None
    connection.status, connection.ended, connection.body = {}, {}, {}
    connection.run(lambda: 1 in connection.ended or connection.goaway is not None, PATIENCE_S if case.owed else 1)
    error = "" if connection.ended.get(1) == 0 else f"no end of stream 1 {connection.error}".strip()
    return frames.Reply(connection.status.get(1, 0), connection.body.get(1, b"")), error


def seeds():
    """Numbers that once found something."""
    lines = SEEDS.read_text().splitlines() if SEEDS.exists() else []
    return [int(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]
