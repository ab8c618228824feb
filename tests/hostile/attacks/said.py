"""What a model is made to say: it repeats what it has said before."""

import time

from attacks.core import attack, function
from frames import request
from server import BARE, CHAT

CALL = '{"name": "f", "arguments": {}}'
TOOLS = [function("f", {"type": "object", "properties": {}})]


def says(text, model=CHAT, **fields):
    """A chat in which the model has said a text five times, and says it again."""
    turns = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": text}] * 5
    return {
        "model": model,
        "messages": [*turns, {"role": "user", "content": "Go."}],
        "tools": TOOLS,
        "temperature": 0,
        "max_tokens": 60,
        **fields,
    }


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


@attack(
    "1",
    'a model says `[{"name": "f", "arguments": "x"]` (a brace missing) while tools are active',
    quick=True,
    sigterm=True,
)
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
    say(
        context,
        HERMES % '{"name": "f", "arguments": {"b": "cde"}, "function": {"name": "f", "arguments": {"a": "éééééé"}}}',
    )


@attack("3", "row 2 in a background response; then cancel and delete", quick=True, sigterm=True)
def background_panic(context):
    turns = says(ACCENTS)["messages"]
    tools = [{"type": "function", **TOOLS[0]["function"]}]
    body = {
        "model": CHAT,
        "input": turns,
        "tools": tools,
        "temperature": 0,
        "max_output_tokens": 60,
        "background": True,
        "store": True,
    }
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
    text = "<tool_call>\n" + '{"function": ' * 12
    many = [function(f"f{i}", {"type": "object", "description": "x" * 8192}) for i in range(120)]
    context.post("/v1/chat/completions", says(text, max_tokens=200) | {"tools": TOOLS + many[:1]}, timeout=20)
    context.post("/v1/chat/completions", says(text, max_tokens=200) | {"tools": TOOLS + many}, timeout=20)
