"""One way to ask and to read in all three dialects: whole answers and streams, with what SDKs hide:
comments, the time of each event, and how often an answer ends."""

import json
import time
from dataclasses import dataclass, field

import httpx

PAUSE = ": the model is started again"
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


@dataclass
class Choice:
    thoughts: str = ""
    text: str = ""
    calls: list = field(default_factory=list)  # [name, arguments]
    finishes: list = field(default_factory=list)
    tokens: list = field(default_factory=list)  # entries of log probabilities

    def parts(self):
        return [self.thoughts, self.text, *(part for call in self.calls for part in call)]


@dataclass
class Answer:
    status: int = 0
    choices: dict = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: dict = None
    pauses: int = 0
    times: list = field(default_factory=list)  # of each event with text
    seconds: float = 0.0
    whole: bool = False  # the stream came to its proper end

    def choice(self, index=0):
        return self.choices.setdefault(index, Choice())

    def parts(self):
        return [choice.parts() for _, choice in sorted(self.choices.items())]


def ask(url, path, body, headers=None, on_event=lambda: None, timeout=180):
    """Asks, and reads the answer to its end."""
    answer, begin = Answer(), time.monotonic()
    with httpx.Client(timeout=timeout, trust_env=False) as client:
        if body.get("stream"):
            with client.stream("POST", url + path, json=body, headers=headers) as response:
                answer.status = response.status_code
                if response.status_code == 200:
                    read_lines(answer, path, response.iter_lines(), on_event)
                else:
                    answer.error = json.loads(response.read())["error"]
        else:
            response = client.post(url + path, json=body, headers=headers)
            answer.status = response.status_code
            read_whole(answer, path, response.json())
    answer.seconds = time.monotonic() - begin
    return answer


def read_lines(answer, path, lines, on_event=lambda: None):
    """Reads the lines of a stream."""
    read = {CHAT: chat_event, RESPONSES: response_event, MESSAGES: message_event}[path]
    for line in lines:
        if line.startswith(PAUSE):
            answer.pauses += 1
        elif line == "data: [DONE]":
            answer.whole = True
        elif line.startswith("data: "):
            event = json.loads(line[6:])
            assert not answer.whole, f"an event after the last one: {event}"
            if error := event.get("error") or event.get("response", {}).get("error"):
                answer.error = error
            elif read(answer, event):
                answer.times.append(time.monotonic())
                on_event()


def read_whole(answer, path, body):
    if error := body.get("error"):
        answer.error = error
        return
    {CHAT: whole_chat, RESPONSES: whole_response, MESSAGES: whole_message}[path](answer, body)
    answer.whole = True


# --- Chat completions ---------------------------------------------------------------------------


def chat_usage(answer, usage):
    answer.prompt_tokens, answer.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]


def whole_chat(answer, body):
    for one in body["choices"]:
        choice, message = answer.choice(one["index"]), one["message"]
        choice.text, choice.thoughts = message["content"] or "", message.get("reasoning_content") or ""
        choice.calls = [[c["function"]["name"], c["function"]["arguments"]] for c in message.get("tool_calls", [])]
        choice.tokens = (one["logprobs"] or {}).get("content") or []
        choice.finishes.append(one["finish_reason"])
    chat_usage(answer, body["usage"])


def chat_event(answer, event):
    if event.get("usage"):
        chat_usage(answer, event["usage"])
    said = False
    for one in event["choices"]:
        choice, delta = answer.choice(one["index"]), one["delta"]
        text, thoughts = delta.get("content") or "", delta.get("reasoning_content") or ""
        choice.text, choice.thoughts = choice.text + text, choice.thoughts + thoughts
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert call["index"] == len(choice.calls)
                choice.calls.append([call["function"]["name"], ""])
            choice.calls[call["index"]][1] += call["function"]["arguments"]
        choice.tokens += (one["logprobs"] or {}).get("content") or []
        if one["finish_reason"]:
            choice.finishes.append(one["finish_reason"])
        said = said or bool(text or thoughts or delta.get("tool_calls"))
    return said


# --- Responses ----------------------------------------------------------------------------------


def whole_response(answer, body):
    choice = answer.choice()
    for item in body["output"]:
        if item["type"] == "reasoning":
            choice.thoughts += "".join(part["text"] for part in item["content"])
        elif item["type"] == "message":
            choice.text += "".join(part["text"] for part in item["content"])
            choice.tokens += [entry for part in item["content"] for entry in part["logprobs"]]
        else:
            choice.calls.append([item["name"], item["arguments"]])
    choice.finishes.append(body["status"])
    answer.prompt_tokens, answer.completion_tokens = body["usage"]["input_tokens"], body["usage"]["output_tokens"]


def response_event(answer, event):
    kind, choice = event["type"], answer.choice()
    answer.numbers = [*getattr(answer, "numbers", []), event["sequence_number"]]
    if kind == "response.output_text.delta":
        choice.text += event["delta"]
        choice.tokens += event["logprobs"]
    elif kind == "response.reasoning_text.delta":
        choice.thoughts += event["delta"]
    elif kind == "response.output_item.added" and event["item"]["type"] == "function_call":
        choice.calls.append([event["item"]["name"], ""])
    elif kind == "response.function_call_arguments.delta":
        choice.calls[-1][1] += event["delta"]
    elif kind in ("response.completed", "response.incomplete", "response.failed"):
        told = Answer()
        whole_response(told, event["response"])
        assert told.parts() == answer.parts(), "the events and the whole response differ"
        choice.finishes.append(event["response"]["status"])
        answer.prompt_tokens, answer.completion_tokens = told.prompt_tokens, told.completion_tokens
        answer.whole = answer.numbers == list(range(len(answer.numbers)))
    return kind.endswith(".delta")


# --- Messages -----------------------------------------------------------------------------------


def message_usage(answer, usage):
    cached = usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"]
    answer.prompt_tokens, answer.completion_tokens = usage["input_tokens"] + cached, usage["output_tokens"]


def whole_message(answer, body):
    choice = answer.choice()
    for block in body["content"]:
        if block["type"] == "thinking":
            choice.thoughts += block["thinking"]
        elif block["type"] == "text":
            choice.text += block["text"]
        else:
            choice.calls.append([block["name"], json.dumps(block["input"])])
    choice.finishes.append(body["stop_reason"])
    message_usage(answer, body["usage"])


def message_event(answer, event):
    kind, choice = event["type"], answer.choice()
    if kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
        choice.calls.append([event["content_block"]["name"], ""])
    elif kind == "content_block_delta":
        delta = event["delta"]
        choice.text += delta.get("text", "")
        choice.thoughts += delta.get("thinking", "")
        if "partial_json" in delta:
            choice.calls[-1][1] += delta["partial_json"]
    elif kind == "message_delta":
        choice.finishes.append(event["delta"]["stop_reason"])
        message_usage(answer, event["usage"])
    answer.whole = kind == "message_stop"
    return kind == "content_block_delta"


# --- Near ties ----------------------------------------------------------------------------------


def parts_at_a_near_tie(reference, parts, tolerance):
    """Whether an answer's parts are those of a reference, a chat choice with its log probabilities, up
    to a token that might as well have been another one."""
    # In bytes: a character may come in several tokens, none of which shows it.
    raw = b"".join(bytes(entry["bytes"]) for entry in reference.tokens)
    expected, parts = ([part.encode() for part in of] for of in (reference.parts(), parts))
    at = next((i for i, (a, b) in enumerate(zip(expected, parts)) if a != b), None)
    if at is None:
        return len(expected) == len(parts)
    same = next((i for i, (a, b) in enumerate(zip(expected[at], parts[at])) if a != b), None)
    same = min(len(expected[at]), len(parts[at])) if same is None else same
    # Where the part begins among the tokens: arguments and text are there as they are.
    begin = raw.find(expected[at]) if expected[at] else len(raw)
    offset, seen = begin + same, 0
    for entry in reference.tokens:
        if seen + len(entry["bytes"]) > offset:
            rest = raw[seen:offset] + parts[at][same:]
            near = [bytes(t["bytes"]) for t in entry["top_logprobs"] if t["logprob"] > entry["logprob"] - tolerance]
            if not rest:
                # It ends here: by a control token, or by the marker behind thoughts.
                return any(token[:1] in (b"<", b"\n") for token in near)
            # A stop string may end it within a token.
            return any(token and (rest.startswith(token) or token.startswith(rest)) for token in near)
        seen += len(entry["bytes"])
    # The reference has ended by itself, and this one goes on.
    return reference.finishes == ["stop"]
