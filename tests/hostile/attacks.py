"""Attacks, each by name. `row` is the row of the table in the issue that it reproduces; those
without one were found or thought of later."""

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Callable

import frames
from frames import H2, h1, h2_request, request
from server import BARE, CHAT, EMBED

MESSAGES = [{"role": "user", "content": "Hi"}]
MB = 1 << 20


@dataclass
class Attack:
    name: str
    row: str
    # What is sent, or what the model is made to say.
    what: str
    # One round; repeated as long as the attack is measured.
    round: Callable
    setup: Callable = None
    # Whether it needs the second chat model, whose calls have no marker.
    bare: bool = False
    # Whether it is a part of the quick form, and there with SIGTERM.
    quick: bool = False
    sigterm: bool = False
    # The model of the others, who are to feel nothing.
    model: str = CHAT


@dataclass
class Context:
    """What a round is given, and where it leaves what came back."""

    server: object
    until: float = 0.0
    replies: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    notes: dict = field(default_factory=dict)
    kept: dict = field(default_factory=dict)

    @property
    def port(self):
        return self.server.port

    def left(self):
        return self.until - time.monotonic()

    def post(self, path, body, at_once=1, headers=(), timeout=60.0):
        """The same request so many times at once."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        raw = h1("POST", path, data, headers)
        return self.together([lambda: frames.exchange(self.port, raw, timeout)] * at_once)

    def together(self, jobs):
        replies = [None] * len(jobs)

        def run(i):
            replies[i] = jobs[i]()

        workers = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(jobs))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.replies += replies
        return replies


ALL = []


def attack(row, what, **fields):
    def register(function):
        name = function.__name__.replace("_", "-")
        ALL.append(Attack(name=name, row=row, what=what, round=function, **fields))
        return function

    return register


def chat(**fields):
    return {"model": CHAT, "messages": MESSAGES, "max_tokens": 4, **fields}


def function(name, parameters=None, description="Does it.", **more):
    return {"type": "function", "function": {
        "name": name, "description": description, "parameters": parameters or {"type": "object"}, **more}}


def json_schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}


# --- What a model says ------------------------------------------------------------------------

CALL = '{"name": "f", "arguments": {}}'
TOOLS = [function("f", {"type": "object", "properties": {}})]


def says(text, model=CHAT, **fields):
    """A chat in which the model has said a text five times, and says it again."""
    turns = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": text}] * 5
    return {"model": model, "messages": [*turns, {"role": "user", "content": "Go."}], "tools": TOOLS,
            "temperature": 0, "max_tokens": 60, **fields}


def say(context, text, model=CHAT):
    """Each way to read it: whole, as a stream, in a kept response."""
    if "said" not in context.notes:
        plain = says(text, model)
        del plain["tools"]
        reply = request(context.port, "POST", "/v1/chat/completions", plain)
        content = reply.json()["choices"][0]["message"]["content"] if reply.status == 200 else ""
        context.notes["said"] = text.strip() in content or content.strip().startswith(text.strip()[:20])
    body = says(text, model)
    replies = context.post("/v1/chat/completions", body, timeout=20)
    (stream,) = context.post("/v1/chat/completions", {**body, "stream": True}, timeout=20)
    if stream.status == 200 and b"data: [DONE]" not in stream.body and b'"error"' not in stream.body:
        context.faults.append("a stream ended without its last event")
    return replies


HERMES = "<tool_call>\n%s\n</tool_call>"
ACCENTS = HERMES % CALL + '\n{"xy": "éééé"}'


@attack("1", 'a model says `[{"name": "f", "arguments": "x"]` (a brace missing) while tools are active', quick=True, sigterm=True)
def says_missing_brace(context):
    say(context, HERMES % '[{"name": "f", "arguments": "x"]')


@attack("1", "the same, in a dialect without markers", bare=True, model=BARE)
def says_missing_brace_bare(context):
    say(context, '[{"name": "f", "arguments": "x"]', BARE)


@attack("2", "a complete call followed by an object with non-ASCII text", quick=True)
def says_call_then_accents(context):
    say(context, ACCENTS)


@attack("2", "U+3000 first, in a dialect without markers", bare=True, model=BARE)
def says_wide_space_first(context):
    say(context, '\u3000{"name": "g", "arguments": {"a": 1}}', BARE)


@attack("2", "a later `function` key changes what the arguments are")
def says_function_key_late(context):
    say(context, HERMES % '{"name": "f", "arguments": {"b": "cde"}, "function": {"name": "f", "arguments": {"a": "éééééé"}}}')


@attack("3", "row 2 in a background response; then cancel and delete", quick=True, sigterm=True)
def background_panic(context):
    turns = says(ACCENTS)["messages"]
    tools = [{"type": "function", **TOOLS[0]["function"]}]
    body = {"model": CHAT, "input": turns, "tools": tools, "temperature": 0, "max_output_tokens": 60,
            "background": True, "store": True}
    (made,) = context.post("/v1/responses", body, timeout=10)
    if made.status != 200:
        return
    path = f"/v1/responses/{made.json()['id']}"
    state, end = "", time.monotonic() + 15
    while time.monotonic() < end:
        reply = request(context.port, "GET", path, timeout=5)
        state = reply.json()["status"] if reply.status == 200 else f"{reply.status} {reply.error}"
        if state not in ("queued", "in_progress"):
            break
        time.sleep(0.2)
    if state in ("queued", "in_progress"):
        context.faults.append(f"a background response is {state} for ever")
    for method, where in (("POST", f"{path}/cancel"), ("DELETE", path)):
        reply = request(context.port, method, where, timeout=5)
        if reply.error:
            context.faults.append(f"{method} of a background response: {reply.error}")


@attack("15", 'nested `"function":`, 12 deep, with 1 MB of tools')
def says_nested_function(context):
    text = '<tool_call>\n' + '{"function": ' * 12
    many = [function(f"f{i}", {"type": "object", "description": "x" * 8192}) for i in range(120)]
    context.post("/v1/chat/completions", says(text, max_tokens=200) | {"tools": TOOLS + many[:1]}, timeout=20)
    context.post("/v1/chat/completions", says(text, max_tokens=200) | {"tools": TOOLS + many}, timeout=20)


# --- Grammars and schemas ---------------------------------------------------------------------


def lark_chain(rules):
    return "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(rules)) + f'r{rules}: "a"\n'


@attack("4", "a Lark grammar of 1,000 rules that each name the next", quick=True)
def grammar_chain(context):
    context.post("/v1/chat/completions", chat(guided_grammar=lark_chain(1000)))


@attack("4", "the same in GBNF, and in `structured_outputs`, and of terminals")
def grammar_chain_others(context):
    gbnf = "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(1000)) + 'r1000 ::= "a"\n'
    terminals = "start: T0\n" + "".join(f"T{i}: T{i + 1}\n" for i in range(1000)) + 'T1000: "a"\n'
    for fields in ({"grammar": gbnf}, {"structured_outputs": {"grammar": lark_chain(1000)}}, {"guided_grammar": terminals}):
        context.post("/v1/chat/completions", chat(**fields))
    body = {"model": CHAT, "prompt": "a", "max_tokens": 4, "guided_grammar": lark_chain(5000)}
    context.post("/v1/completions", body)


@attack("4", "grammars nested: 10,000 brackets in Lark, GBNF and a regex")
def grammar_nested(context):
    deep = 10_000
    nested = "(" * deep + '"a"' + ")" * deep
    for fields in ({"guided_grammar": f"start: {nested}"}, {"grammar": f"root ::= {nested}"},
                   {"guided_regex": "(" * deep + "a" + ")" * deep}, {"guided_regex": "(?:" * deep + "a" + ")*" * deep}):
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
        ("/v1/responses", {"model": CHAT, "input": "a", "max_output_tokens": 16, "tools": [flat], "tool_choice": "required"}),
        ("/v1/messages", {"model": CHAT, "messages": MESSAGES, "max_tokens": 4, "tool_choice": {"type": "any"},
                          "tools": [{"name": "f", "input_schema": inside}]}),
    ):
        if not context.server.alive:
            return
        context.post(path, body)


@attack("5", "a JSON schema with 1,000 `$ref`s in a chain, by every endpoint that takes one", quick=True)
def schema_ref_chain(context):
    schema_everywhere(context, ref_chain(1000))


@attack("", "a schema whose definitions each name the next twice, 25 deep")
def schema_doubling(context):
    links = {f"d{i}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}, "b": {"$ref": f"#/$defs/d{i + 1}"}},
                       "required": ["a", "b"]} for i in range(25)}
    schema_everywhere(context, {"$ref": "#/$defs/d0", "$defs": {**links, "d25": {"type": "null"}}})


@attack("", "`allOf` and `anyOf` whose branches double, 20 deep")
def schema_all_of_doubling(context):
    for word in ("allOf", "anyOf", "oneOf"):
        links = {f"d{i}": {word: [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]} for i in range(20)}
        schema = {"$ref": "#/$defs/d0", "$defs": {**links, "d20": {"type": "object"}}}
        context.post("/v1/chat/completions", chat(response_format=json_schema(schema)))


@attack("8", "a `oneOf` of 1,000 schemas, four at once", quick=True)
def schema_one_of(context):
    branches = [{"type": "object", "properties": {"kind": {"const": f"k{i}"}, "v": {"type": "integer"}},
                 "required": ["kind", "v"], "additionalProperties": False} for i in range(1000)]
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
        {"type": "string", "minLength": 10**9}, {"type": "string", "maxLength": 10**9},
        {"type": "array", "minItems": 10**9, "items": {}}, {"type": "array", "maxItems": 10**9, "items": {}},
        {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"}, {"type": "string", "pattern": "^(a|a|a|a)*b{0,9999}$"},
        {"enum": [f"value {i}" for i in range(20_000)]}, {"type": "integer", "minimum": 1, "maximum": 10**300},
        {"type": "number", "multipleOf": 1e-300}, {"const": "x" * 200_000},
        {"type": "object", "patternProperties": {f"^{i}.*": {"type": "null"} for i in range(500)}},
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(5000)}},
    ):
        context.post("/v1/chat/completions", chat(response_format=json_schema(schema)))
    for regex in ("(a{1,1000}){1,1000}", "((((a*)*)*)*)*b", "(.{0,500}x){200}", "[\\s\\S]{0,100000}", "(a?){5000}a{5000}"):
        context.post("/v1/chat/completions", chat(guided_regex=regex))


@attack("15", "60 grammars of 200 kB, none like another: what a cache of grammars keeps")
def grammar_cache(context):
    number = context.kept["number"] = context.kept.get("number", 0) + 1
    jobs = []
    for i in range(4):
        schema = {"type": "object", "properties": {f"p{number}_{i}_{j}": {"type": "string", "maxLength": 50} for j in range(1500)}}
        raw = h1("POST", "/v1/chat/completions", chat(response_format=json_schema(schema)))
        jobs.append(lambda raw=raw: frames.exchange(context.port, raw))
    context.together(jobs)


# --- Tools ------------------------------------------------------------------------------------


@attack("6", "1 MB of tools of small JSON values with `tool_choice: none`, `n: 8`, four at once", quick=True)
def wide_tools(context):
    tools = [function(f"f{i}", {"type": "object", "x": [[] for _ in range(2600)]}) for i in range(128)]
    context.post("/v1/chat/completions", chat(tools=tools, tool_choice="none", n=8), at_once=4)


@attack("9", "10 MB of tool descriptions", quick=True)
def long_descriptions(context):
    tools = [function(f"f{i}", description="long words " * 7500) for i in range(128)]
    context.post("/v1/chat/completions", chat(tools=tools), timeout=60)


@attack("9", "10 MB of call arguments, thoughts and tool results in the history")
def long_calls(context):
    calls = [{"id": f"call_{i}", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": "b c " * 12_000})}}
             for i in range(50)]
    turns = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": calls, "reasoning_content": "well " * 500_000},
             *({"role": "tool", "tool_call_id": f"call_{i}", "content": "r e s " * 8000} for i in range(50))]
    context.post("/v1/chat/completions", chat(messages=turns, tools=TOOLS))


@attack("6", "30 MB of JSON of which no field is known, ten at once")
def unknown_fields(context):
    body = json.dumps(chat()).encode()[:-1] + b', "x": [' + b"[]," * (10 * MB) + b"0]}"
    context.post("/v1/chat/completions", body, at_once=10)


# --- The store --------------------------------------------------------------------------------


def fill_conversation(context):
    made = request(context.port, "POST", "/v1/conversations", {"items": []}).json()
    for _ in range(6):
        items = [{"type": "message", "role": "user", "content": "many words " * 91_000} for _ in range(20)]
        reply = request(context.port, "POST", f"/v1/conversations/{made['id']}/items", {"items": items})
        if reply.status != 200:
            context.notes["filled"] = f"{reply.status} {reply.body[:100]}"
            break
    context.kept["conversation"] = made["id"]


@attack("7", "a request that names a conversation of 120 MB, two at once", setup=fill_conversation, quick=True)
def big_conversation(context):
    body = {"model": CHAT, "input": "Hi", "conversation": context.kept["conversation"], "max_output_tokens": 16}
    begin = time.monotonic()
    long = []
    waiter = threading.Thread(target=lambda: long.append(context.server.chat("word " * 1500, 1)), daemon=True)
    waiter.start()
    context.post("/v1/responses", body, at_once=2)
    waiter.join(30)
    taken = long[0].seconds if long else time.monotonic() - begin
    context.notes["long_prompt_s"] = round(max(taken, context.notes.get("long_prompt_s", 0)), 1)


@attack("7", "the items of a conversation of 120 MB, listed, four at once", setup=fill_conversation)
def list_big_conversation(context):
    path = f"/v1/conversations/{context.kept['conversation']}/items?limit=100"
    raw = h1("GET", path)
    context.together([lambda: frames.exchange(context.port, raw)] * 4)


@attack("", "2,000 empty conversations a round: what the store holds beside what it counts")
def many_conversations(context):
    one = h1("POST", "/v1/conversations", {}, close=False)
    context.together([lambda: pipelined(context.port, one, 500)] * 4)


def pipelined(port, one, count):
    """The same request so many times on a connection, all answers read."""
    begin = time.monotonic()
    try:
        with frames.connect(port, 30) as stream:
            frames.send(stream, one * (count - 1) + one.replace(b"host:", b"connection: close\r\nhost:"))
            data, error = frames.receive(stream)
        return frames.Reply(200 if data.count(b"HTTP/1.1 200") == count else frames.parse(data, error).status, seconds=time.monotonic() - begin)
    except OSError as error:
        return frames.Reply(error=f"{type(error).__name__}: {error}")


def keep_item(context):
    body = {"items": [{"type": "message", "role": "user", "content": "many words " * 190_000}]}
    made = request(context.port, "POST", "/v1/conversations", body).json()
    listed = request(context.port, "GET", f"/v1/conversations/{made['id']}/items").json()
    context.kept["item"] = listed["data"][0]["id"]


@attack("7", "60 kB of references to one stored item of 2 MB", setup=keep_item, quick=True)
def item_references(context):
    reference = {"type": "item_reference", "id": context.kept["item"]}
    context.post("/v1/responses", {"model": CHAT, "input": [reference] * 900, "max_output_tokens": 16})


def keep_response(context):
    body = {"model": CHAT, "input": "word " * 100, "max_output_tokens": 16, "store": True}
    context.kept["response"] = request(context.port, "POST", "/v1/responses", body).json()["id"]


@attack("7", "responses that each follow on the last, 8 at once", setup=keep_response)
def long_chain(context):
    body = {"model": CHAT, "input": "word " * 20, "max_output_tokens": 16, "store": True,
            "previous_response_id": context.kept["response"]}
    replies = context.post("/v1/responses", body, at_once=8)
    for reply in replies:
        if reply.status == 200:
            context.kept["response"] = reply.json()["id"]


@attack("", "100 background responses at once, each of the whole context, deleted while they run")
def background_flood(context):
    body = {"model": CHAT, "input": "Tell a long story.", "background": True, "store": True, "max_output_tokens": 2000}
    replies = context.post("/v1/responses", body, at_once=50)
    for reply in replies:
        if reply.status == 200:
            request(context.port, "DELETE", f"/v1/responses/{reply.json()['id']}", timeout=20)


# --- HTTP/2 -----------------------------------------------------------------------------------


@attack("10", "HTTP/2 with a window of 0, two connections, 140 streams each", quick=True, sigterm=True)
def h2_zero_window(context):
    """Held for the whole time. Others are to be answered once these answers are computed."""
    body = json.dumps(chat(max_tokens=1)).encode()
    held = [H2(context.port, window=0) for _ in range(2)]
    try:
        for connection in held:
            connection.send(b"".join(h2_request(1 + 2 * i, "POST", "/v1/chat/completions", body) for i in range(140)))
        end = max(context.until, time.monotonic() + 6)
        while time.monotonic() < end:
            for connection in held:
                connection.step(0.05)
        for connection in held:
            context.replies += [frames.Reply(status) for status in connection.status.values()]
        reply = context.server.chat("Hi", 2, timeout=10)
        if reply.status != 200:
            context.faults.append(f"while the streams are held, a new request gets {reply.status or reply.error}")
    finally:
        for connection in held:
            connection.socket.close()


@attack("10", "the same with streamed answers of 2,000 tokens")
def h2_zero_window_streams(context):
    body = json.dumps(chat(max_tokens=2000, stream=True, ignore_eos=True)).encode()
    with H2(context.port, window=0) as connection:
        connection.send(b"".join(h2_request(1 + 2 * i, "POST", "/v1/chat/completions", body) for i in range(16)))
        connection.run(lambda: False, max(1, context.left()))


@attack("", "rapid reset: streams opened and reset at once, 5,000 a round")
def h2_rapid_reset(context):
    body = json.dumps(chat(max_tokens=1)).encode()
    with H2(context.port) as connection:
        for i in range(5000):
            stream = 1 + 2 * i
            data = h2_request(stream, "POST", "/v1/chat/completions", body) + frames.frame(frames.RST, 0, stream, b"\0\0\0\x08")
            if not connection.send(data):
                break
        connection.run(lambda: connection.goaway is not None, 0.5)
        context.notes["goaway"] = connection.goaway


@attack("", "PING and SETTINGS floods, 200,000 frames, answers never read")
def h2_control_flood(context):
    for data in (frames.frame(frames.PING, 0, 0, b"12345678"), frames.settings(streams=100), frames.frame(frames.WINDOW, 0, 0, b"\0\0\0\1")):
        stream = frames.connect(context.port, 5)
        try:
            stream.sendall(frames.PREFACE + frames.settings())
            for _ in range(200):
                stream.sendall(data * 1000)
        except OSError:
            pass
        finally:
            stream.close()


@attack("", "CONTINUATION flood: a header block of 50 MB that never ends")
def h2_continuation_flood(context):
    stream = frames.connect(context.port, 5)
    block = frames.literal("x-a", "b" * 16_000)
    try:
        stream.sendall(frames.PREFACE + frames.settings() + frames.frame(frames.HEADERS, 0, 1, frames.h2_head("GET", "/health")))
        for _ in range(3000):
            stream.sendall(frames.frame(frames.CONTINUATION, 0, 1, block[:16_384]))
    except OSError:
        pass
    finally:
        stream.close()


# --- Work that is not small --------------------------------------------------------------------


@attack("12", "`/v1/tokenize` of 6 MB, two at once", quick=True)
def tokenize_long(context):
    context.post("/v1/tokenize", {"model": CHAT, "prompt": "some words " * (6 * MB // 11), "return_token_strs": True}, at_once=2)


@attack("12", "`/v1/tokenize` of 6 MB without a space, and of messages")
def tokenize_one_word(context):
    context.post("/v1/tokenize", {"model": CHAT, "prompt": "a" * 6 * MB})
    context.post("/v1/tokenize", {"model": CHAT, "messages": [{"role": "user", "content": "é" * 3 * MB}]})
    context.post("/v1/tokenize", {"model": CHAT, "prompt": "<|im_start|>" * (MB // 2), "parse_special": True})


@attack("12", "`/v1/detokenize` of 10 million tokens")
def detokenize_long(context):
    context.post("/v1/detokenize", b'{"model": "smollm2", "tokens": [' + b"1234," * 6_000_000 + b"1]}")


@attack("12", "embeddings of 2,048 texts, eight at once, with `x-request-timeout: 1`", quick=True)
def embeddings_queue(context):
    body = {"model": EMBED, "input": ["many words to embed " * 20] * 2048}
    for reply in context.post("/v1/embeddings", body, at_once=8, headers={"x-request-timeout": "1"}):
        if reply.seconds > 6:
            context.notes["slowest_s"] = round(max(reply.seconds, context.notes.get("slowest_s", 0)), 1)
            fault = "embeddings do not end at their x-request-timeout"
            context.faults += [fault] * (fault not in context.faults)


@attack("12", "rerank of 2,048 documents of 500 words, four at once, with `x-request-timeout: 1`")
def rerank_queue(context):
    body = {"model": EMBED, "query": "what " * 50, "documents": ["some document " * 80] * 2048}
    for reply in context.post("/v1/rerank", body, at_once=4, headers={"x-request-timeout": "1"}):
        if reply.seconds > 6:
            fault = "rerank does not end at its x-request-timeout"
            context.faults += [fault] * (fault not in context.faults)


@attack("15", "`typical_p` on eight answers at a time", quick=True)
def typical_p(context):
    context.post("/v1/chat/completions", chat(n=8, max_tokens=32, typical_p=0.5, temperature=1.5, ignore_eos=True))


@attack("15", "20 log probabilities of eight answers, 1,024 biases, penalties, all at once")
def sampling_work(context):
    fields = {"n": 8, "max_tokens": 32, "logprobs": True, "top_logprobs": 20, "ignore_eos": True, "typical_p": 0.9, "top_p": 0.99,
              "frequency_penalty": 1, "presence_penalty": 1, "logit_bias": {str(i): 1 for i in range(1024)},
              "stop": ["x" * 256 + str(i) for i in range(4)], "stream": True}
    context.post("/v1/chat/completions", chat(**fields))


@attack("15", "requests until the queue is full, one token each")
def queue_full(context):
    context.post("/v1/completions", {"model": CHAT, "prompt": [1] * 4, "max_tokens": 1, "n": 1}, at_once=300)


@attack("", "200 requests a round, each with an Authorization header and a cache salt of its own")
def many_principals(context):
    number = context.kept["number"] = context.kept.get("number", 0) + 1
    jobs = []
    for i in range(200):
        body = {"model": CHAT, "prompt": [i + 5], "max_tokens": 1, "cache_salt": f"{number}.{i}" * 20}
        raw = h1("POST", "/v1/completions", body, {"authorization": f"Bearer {number}.{i}"})
        jobs.append(lambda raw=raw: frames.exchange(context.port, raw))
    context.together(jobs)


@attack("", "10,000 paths that are none, on ten connections: what metrics and logs keep")
def many_paths(context):
    number = context.kept["number"] = context.kept.get("number", 0) + 1
    raws = [b"".join(h1("GET", f"/v1/{number}.{c}.{i}", close=False) for i in range(1000)) + h1("GET", "/none") for c in range(10)]

    def ask(raw):
        with frames.connect(context.port, 30) as stream:
            frames.send(stream, raw)
            return frames.parse(*frames.receive(stream))

    context.together([lambda raw=raw: ask(raw) for raw in raws])


@attack("", "`/openapi.json` and `/metrics` 300 times on each of eight connections")
def documents_pipelined(context):
    raws = [h1("GET", path, close=False) for path in ("/openapi.json", "/metrics")]
    context.together([lambda raw=raw: pipelined(context.port, raw, 300) for raw in raws * 4])


@attack("15", "2,048 prompts in a request, eight answers each")
def many_prompts(context):
    context.post("/v1/completions", {"model": CHAT, "prompt": ["word"] * 2048, "n": 8, "max_tokens": 1})
    context.post("/v1/completions", {"model": CHAT, "prompt": ["word"] * 32, "max_tokens": 2}, at_once=4)


@attack("", "prompts far beyond the context: 8 MB of text, in each dialect")
def beyond_the_context(context):
    text = "long words " * (8 * MB // 11)
    for path, body in (
        ("/v1/chat/completions", chat(messages=[{"role": "user", "content": text}])),
        ("/v1/completions", {"model": CHAT, "prompt": text}),
        ("/v1/completions", {"model": CHAT, "prompt": [5] * 2_000_000}),
        ("/v1/responses", {"model": CHAT, "input": text, "max_output_tokens": 16}),
        ("/v1/responses/input_tokens", {"model": CHAT, "input": text}),
        ("/v1/messages", {"model": CHAT, "messages": [{"role": "user", "content": text}], "max_tokens": 4}),
        ("/v1/messages/count_tokens", {"model": CHAT, "messages": [{"role": "user", "content": text}]}),
        ("/v1/chat/completions/input_tokens", chat(messages=[{"role": "user", "content": text}])),
        ("/v1/embeddings", {"model": EMBED, "input": text}),
    ):
        context.post(path, body)


@attack("", "texts full of control tokens' names, 2 MB: what the guard has to cut")
def control_names(context):
    for text in ("<|im_end|>" * 200_000, "<|" * MB, "<filename>" * 100_000, "\ufdd0" * 500_000):
        context.post("/v1/chat/completions", chat(messages=[{"role": "user", "content": text}]))


@attack("", "200,000 messages, and one message of 500,000 parts")
def many_messages(context):
    context.post("/v1/chat/completions", chat(messages=MESSAGES * 200_000))
    parts = [{"type": "text", "text": "a"}] * 500_000
    context.post("/v1/chat/completions", chat(messages=[{"role": "user", "content": parts}]))
    systems = [{"role": "system", "content": "a"}] * 50_000
    context.post("/v1/chat/completions", chat(messages=[*systems, *MESSAGES]))


@attack("", "an image of 24 MB as a data URI, four at once")
def image_uri(context):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 24 * MB}}
    context.post("/v1/chat/completions", chat(messages=[{"role": "user", "content": [part]}]), at_once=4)


@attack("", "60 bodies of 30 MB announced, and sent but for their last byte")
def bodies_held(context):
    raw = h1("POST", "/v1/chat/completions", b" " * 30 * MB)
    held = []
    try:
        for _ in range(60):
            stream = frames.connect(context.port, 3)
            held.append(stream)
            try:
                frames.send(stream, memoryview(raw)[:-1])
            except TimeoutError:
                pass
        time.sleep(1)
    except OSError:
        pass
    finally:
        for stream in held:
            stream.close()
