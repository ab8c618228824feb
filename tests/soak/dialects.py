"""How a request is spelled in each dialect, and how its answer is read: whole or as events."""

import json
import time
from dataclasses import dataclass, field

from asks import CHAT

TOOL = "get_weather"
# What ends an answer, in one vocabulary.
ENDS = {
    "stop": "stop", "tool_calls": "stop", "end_turn": "stop", "tool_use": "stop", "completed": "stop",
    "length": "length", "max_tokens": "length", "max_output_tokens": "length",
}


# --- Requests ---------------------------------------------------------------------------------


def chat(ask, **more):
    body = {"model": CHAT, "messages": ask.with_system(), "max_tokens": ask.tokens, "temperature": 0}
    if ask.kind == "schema":
        shape = {"name": "answer", "schema": ask.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": shape}
    if ask.kind == "tool":
        function = {"name": TOOL, "description": "The weather of a city.", "parameters": ask.schema, "strict": True}
        body["tools"] = [{"type": "function", "function": function}]
        body["tool_choice"] = {"type": "function", "function": {"name": TOOL}}
    if more.get("stream"):
        body["stream_options"] = {"include_usage": True}
    return "/v1/chat/completions", {**body, **more}


def completions(ask, **more):
    body = {"model": CHAT, "prompt": ask.prompt, "max_tokens": ask.tokens, "temperature": 0}
    if more.get("stream"):
        body["stream_options"] = {"include_usage": True}
    return "/v1/completions", {**body, **more}


def responses(ask, **more):
    body = {"model": CHAT, "input": ask.messages(), "max_output_tokens": ask.tokens, "temperature": 0}
    if ask.system:
        body["instructions"] = ask.system
    if ask.kind == "schema":
        body["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": ask.schema, "strict": True}}
    if ask.kind == "tool":
        body["tools"] = [{"type": "function", "name": TOOL, "description": "The weather of a city.",
                          "parameters": ask.schema, "strict": True}]
        body["tool_choice"] = {"type": "function", "name": TOOL}
    return "/v1/responses", {**body, **more}


def messages(ask, **more):
    body = {"model": CHAT, "messages": ask.messages(), "max_tokens": ask.tokens, "temperature": 0}
    if ask.system:
        body["system"] = ask.system
    if ask.kind == "schema":
        body["output_config"] = {"format": {"type": "json_schema", "schema": ask.schema}}
    if ask.kind == "tool":
        body["tools"] = [{"name": TOOL, "description": "The weather of a city.", "input_schema": ask.schema}]
        body["tool_choice"] = {"type": "tool", "name": TOOL}
    return "/v1/messages", {**body, **more}


SPELL = {"chat": chat, "completions": completions, "responses": responses, "messages": messages}


# --- Answers ----------------------------------------------------------------------------------


@dataclass
class Answer:
    """What came, by choice. A call is its arguments."""

    texts: dict = field(default_factory=dict)
    tokens: dict = field(default_factory=dict)
    ends: dict = field(default_factory=dict)
    names: set = field(default_factory=set)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    final: str | None = None
    id: str = ""
    done: int = 0
    events: int = 0
    stamps: list = field(default_factory=list)
    restarts: list = field(default_factory=list)
    # (LOST, WRONG or DOUBLED, what)
    faults: list = field(default_factory=list)

    def grow(self, choice, text):
        if text:
            self.texts[choice] = self.texts.get(choice, "") + text
            self.stamps.append(time.monotonic())
        else:
            self.texts.setdefault(choice, "")

    def end(self, choice, reason):
        self.ends.setdefault(choice, []).append(ENDS.get(reason, reason))

    def fault(self, kind, what):
        self.faults.append((kind, str(what)[:200]))

    def comment(self, text):
        if text == "the model is started again":
            self.restarts.append(time.monotonic())

    def log_probs(self, choice, entries):
        # The deltas of /v1/responses have no bytes.
        as_bytes = lambda entry: bytes(entry["bytes"]) if entry.get("bytes") else entry["token"].encode()
        self.tokens.setdefault(choice, []).extend(as_bytes(entry) for entry in entries)


class ChatReader:
    def __init__(self):
        self.answer = Answer()

    def whole(self, body):
        for choice in body["choices"]:
            self.piece(choice, choice["message"])
        self.usage(body)
        self.answer.done = 1

    def event(self, data):
        answer = self.answer
        if data == "[DONE]":
            answer.done += 1
            return
        event = json.loads(data)
        if event.get("error"):
            answer.fault("LOST", event["error"])
            return
        if answer.done or answer.id not in ("", event["id"]):
            answer.fault("DOUBLED", "an event of another answer, or after the end")
        answer.id = event["id"]
        for choice in event["choices"]:
            self.piece(choice, choice.get("delta"))
        if event.get("usage"):
            if answer.completion_tokens is not None:
                answer.fault("DOUBLED", "usage twice")
            self.usage(event)

    def piece(self, choice, said):
        index = choice["index"]
        self.answer.grow(index, said.get("content"))
        for call in said.get("tool_calls") or []:
            function = call["function"]
            self.answer.names.update([function["name"]] if function.get("name") else [])
            self.answer.grow(index, function.get("arguments"))
        if choice.get("logprobs"):
            self.answer.log_probs(index, choice["logprobs"]["content"] or [])
        if choice.get("finish_reason"):
            self.answer.end(index, choice["finish_reason"])

    def usage(self, body):
        usage = body["usage"]
        self.answer.prompt_tokens, self.answer.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]


class CompletionReader(ChatReader):
    def whole(self, body):
        for choice in body["choices"]:
            self.piece(choice, None)
        self.usage(body)
        self.answer.done = 1

    def piece(self, choice, said):
        index = choice["index"]
        self.answer.grow(index, choice["text"])
        if choice.get("logprobs"):
            tokens = choice["logprobs"]["tokens"]
            self.answer.tokens.setdefault(index, []).extend(token.encode() for token in tokens)
        if choice.get("finish_reason"):
            self.answer.end(index, choice["finish_reason"])


class ResponseReader:
    """Events may begin after some that were read before: `first` is the number of the first one."""

    def __init__(self, first=0):
        self.answer, self.first = Answer(), first

    def whole(self, body):
        answer = self.answer
        answer.id, answer.done = body["id"], 1
        if body["status"] not in ("completed", "incomplete"):
            answer.fault("LOST", f"{body['status']}: {body.get('error')}")
        text = self.text_of(body)
        answer.grow(0, text)
        self.close(body)

    def close(self, body):
        answer, usage = self.answer, body.get("usage") or {}
        answer.end(0, (body.get("incomplete_details") or {}).get("reason") or body["status"])
        answer.prompt_tokens, answer.completion_tokens = usage.get("input_tokens"), usage.get("output_tokens")

    def text_of(self, body):
        parts = []
        for item in body["output"]:
            if item["type"] == "function_call":
                self.answer.names.add(item["name"])
                parts.append(item["arguments"])
            elif item["type"] == "message":
                parts += [part["text"] for part in item["content"]]
        return "".join(parts)

    def event(self, data):
        answer, event = self.answer, json.loads(data)
        if event["sequence_number"] != self.first + answer.events:
            answer.fault("DOUBLED", f"event {event['sequence_number']} instead of {self.first + answer.events}")
        answer.events += 1
        kind = event["type"]
        if kind == "error" or kind == "response.failed":
            answer.fault("LOST", event)
        elif kind == "response.created":
            answer.id = event["response"]["id"]
        elif kind in ("response.output_text.delta", "response.function_call_arguments.delta"):
            answer.grow(0, event["delta"])
            if event.get("logprobs"):
                answer.log_probs(0, event["logprobs"])
        elif kind in ("response.completed", "response.incomplete"):
            answer.done += 1
            answer.final = self.text_of(event["response"])
            answer.texts.setdefault(0, "")
            self.close(event["response"])


class MessageReader:
    def __init__(self):
        self.answer, self.seen = Answer(), []

    def whole(self, body):
        answer = self.answer
        answer.id, answer.done = body["id"], 1
        answer.grow(0, "")
        for block in body["content"]:
            if block["type"] == "tool_use":
                answer.names.add(block["name"])
                answer.grow(0, json.dumps(block["input"]))
            else:
                answer.grow(0, block["text"])
        answer.end(0, body["stop_reason"])
        self.usage(body["usage"])

    def usage(self, usage):
        cached = usage.get("cache_read_input_tokens") or 0
        self.answer.prompt_tokens = usage["input_tokens"] + cached
        self.answer.completion_tokens = usage["output_tokens"]

    def event(self, data):
        answer, event = self.answer, json.loads(data)
        kind = event["type"]
        if kind != "content_block_delta" and kind != "ping":
            self.seen.append(kind)
        if kind == "error":
            answer.fault("LOST", event["error"])
        elif kind == "message_start":
            answer.grow(0, "")
        elif kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
            answer.names.add(event["content_block"]["name"])
        elif kind == "content_block_delta":
            answer.grow(0, event["delta"].get("text") or event["delta"].get("partial_json"))
        elif kind == "message_delta":
            answer.end(0, event["delta"]["stop_reason"])
            self.usage(event["usage"])
        elif kind == "message_stop":
            answer.done += 1
            self.check()

    def check(self):
        blocks = self.seen.count("content_block_start")
        if blocks > 1 or self.seen.count("content_block_stop") != blocks or self.seen.count("message_start") != 1:
            self.answer.fault("DOUBLED", f"events: {self.seen}")


READERS = {
    "chat": ChatReader, "completions": CompletionReader, "responses": ResponseReader, "messages": MessageReader,
}
