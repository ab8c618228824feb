"""Whether an answer is what it has to be.

A greedy text is compared with the one that the server gave without faults. Batches change the order
in which floating point numbers are added up, so texts may part where two tokens are nearly tied; what
comes after that is computed again, as a prompt, when the faults are over: each token has to be nearly
the most likely one there too.
"""

import json
import math
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jsonschema_rs
from asks import CHAT, EMBEDDED, GENERATED, RANKED
from dialects import READERS, SPELL, TOOL
from wire import Line

TOLERANCE = 1.2  # of a log probability
COSINE = 0.999
# Tokens before the one where texts differ at which they may have parted.
BACK = 5
AT_ONCE = 4
COUNTING = {
    "chat": "/v1/chat/completions/input_tokens",
    "responses": "/v1/responses/input_tokens",
    "messages": "/v1/messages/count_tokens",
}
END = "<|im_end|>"


@dataclass
class Reference:
    """A request's answer without faults. `tokens`: each with its log probability, and those of the
    most likely ones by text."""

    text: str
    end: str
    prompt_tokens: int
    completion_tokens: int
    tokens: list


def part(reference, text):
    """How a text compares: `same`, `tie` where it parts at a near tie, `open` where the reference
    does not tell, else what is wrong."""
    if text == reference.text:
        return "same"
    raw = "".join(token for token, _, _ in reference.tokens)
    before, found, after = raw.partition(reference.text)
    if not found or not reference.tokens or "\ufffd" in raw:
        return "open"
    target, at, starts = before + text + after, 0, []
    for i, (token, chance, tops) in enumerate(reference.tokens):
        starts.append(at)
        if target.startswith(token, at):
            at += len(token)
            continue
        # A longer token may begin with the text of those before.
        for j in range(i, max(-1, i - BACK), -1):
            if is_near(reference.tokens[j], target[starts[j] :]):
                return "tie"
        if min(tops.values()) > chance - TOLERANCE:
            return "open"
        return f"after {target[max(0, at - 60) : at]!r}: {target[at : at + 40]!r} instead of {token!r}"
    return "open"


def is_near(entry, rest):
    """Whether a text goes on with another token that is about as likely."""
    token, chance, tops = entry
    near = [top for top, value in tops.items() if top != token and value >= chance - TOLERANCE]
    return any(top and rest.startswith(top) and not token.startswith(top) for top in near) or (not rest and END in near)


class Judge:
    """References and verdicts. Threads share it."""

    def __init__(self, port):
        self.port, self.references, self.vectors, self.ranks = port, {}, [], []
        self.lock, self.open, self.counts = threading.Lock(), {}, Counter()

    # --- References ---------------------------------------------------------------------------

    def learn(self):
        """Asks everything once, a few at a time. Returns what is wrong already."""
        faults = []

        def work(ask):
            line = Line(self.port, None)
            if ask.kind == "prompt":
                self.references[ask.name, "completions"] = self.by_completion(line, ask)
            else:
                faults.extend(self.learn_chat(line, ask))
            line.close()

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(work, GENERATED))
        line = Line(self.port, None)
        for texts in EMBEDDED:
            self.vectors.append(self.post(line, *embedding(texts)))
        self.ranks = [self.post(line, *ranking(ranked)) for ranked in RANKED]
        line.close()
        return faults

    def learn_chat(self, line, ask):
        """The other dialects have the same answer where they make the same prompt of it."""
        self.references[ask.name, "chat"] = known = self.by_chat(line, ask)
        for dialect in ("responses", "messages"):
            path, body = counting(dialect, ask)
            same = self.post(line, path, body)["input_tokens"] == known.prompt_tokens
            self.references[ask.name, dialect] = known if same else self.by_other(line, ask, dialect)
        path, body = counting("chat", ask)
        counted = self.post(line, path, body)["input_tokens"]
        wrong = f"{ask.name}: {known.prompt_tokens} prompt tokens, counted as {counted}"
        return [] if counted == known.prompt_tokens else [("WRONG", wrong)]

    def post(self, line, path, body):
        with line.ask("POST", path, body) as exchange:
            data = exchange.body()
            if exchange.status != 200:
                raise RuntimeError(f"{path}: {exchange.status} {data[:300]!r} to {json.dumps(body)[:300]}")
            return json.loads(data)

    def by_chat(self, line, ask):
        body = self.post(line, *SPELL["chat"](ask, logprobs=True, top_logprobs=20))
        entries = body["choices"][0]["logprobs"]["content"]
        tops = lambda entry: {top["token"]: top["logprob"] for top in entry["top_logprobs"]}
        tokens = [(entry["token"], entry["logprob"], tops(entry)) for entry in entries]
        return self.reference("chat", body, tokens)

    def by_completion(self, line, ask):
        body = self.post(line, *SPELL["completions"](ask, logprobs=5))
        given = body["choices"][0]["logprobs"]
        tokens = list(zip(given["tokens"], given["token_logprobs"], given["top_logprobs"]))
        return self.reference("completions", body, tokens)

    def by_other(self, line, ask, dialect):
        return self.reference(dialect, self.post(line, *SPELL[dialect](ask)), [])

    def reference(self, dialect, body, tokens):
        reader = READERS[dialect]()
        reader.whole(body)
        answer = reader.answer
        return Reference(
            answer.texts[0], answer.ends[0][0], answer.prompt_tokens, answer.completion_tokens, tokens
        )

    # --- Answers ------------------------------------------------------------------------------

    def check(self, ask, dialect, answer, choices=1, sampled=False):
        """Faults of an answer that ended."""
        reference = self.references[ask.name, dialect]
        faults = self.check_form(answer, choices)
        if faults:
            return faults
        if answer.prompt_tokens != reference.prompt_tokens:
            faults.append(("WRONG", f"{answer.prompt_tokens} prompt tokens, not {reference.prompt_tokens}"))
        same = []
        for choice, text in answer.texts.items():
            end = answer.ends[choice][0]
            if ask.schema and end == "stop":
                faults += check_schema(ask, answer, text)
            if not sampled:
                verdict = self.compare(ask, reference, text, end)
                same.append(verdict == "same" and end == reference.end)
                faults += [] if verdict in ("same", "tie", "open") else [("WRONG", verdict)]
        most = ask.tokens * choices
        if all(end == ["length"] for end in answer.ends.values()) and answer.completion_tokens != most:
            faults.append(("WRONG", f"{answer.completion_tokens} tokens, not {most}"))
        if same and all(same) and answer.completion_tokens != reference.completion_tokens * choices:
            faults.append(("DOUBLED", f"{answer.completion_tokens} tokens, not {reference.completion_tokens}"))
        return faults

    def check_form(self, answer, choices):
        """What has to hold for any answer."""
        faults = list(answer.faults)
        if answer.done != 1:
            faults.append(("LOST" if not answer.done else "DOUBLED", f"{answer.done} ends of the stream"))
        if faults:
            return faults
        if len(answer.ends) != choices or any(len(ends) != 1 for ends in answer.ends.values()):
            faults.append(("DOUBLED", f"finish reasons: {answer.ends}"))
        if set(answer.texts) != set(range(choices)) or answer.completion_tokens is None:
            faults.append(("LOST", "a choice or the usage is missing"))
        if answer.final is not None and answer.final != answer.texts.get(0):
            faults.append(("DOUBLED", f"streamed {answer.texts.get(0)!r}, whole {answer.final!r}"))
        if answer.tokens and not faults:
            faults += check_tokens(answer)
        return faults

    def compare(self, ask, reference, text, end):
        if ask.kind == "tool" and text != reference.text and as_json(text) == as_json(reference.text):
            text = reference.text
        verdict = part(reference, text)
        with self.lock:
            self.counts[verdict if verdict in ("same", "tie", "open") else "wrong"] += 1
            if verdict in ("tie", "open") and not ask.schema:
                before = ("prompt", ask.prompt) if ask.kind == "prompt" else ("messages", ask.with_system())
                self.open.setdefault((ask.name, text, end), before)
        return verdict

    def later(self, name, messages, answer):
        """An answer that has no reference: it is computed again in the end."""
        faults = self.check_form(answer, 1)
        if not faults:
            with self.lock:
                self.open.setdefault((name, answer.texts[0], answer.ends[0][0]), ("messages", messages))
        return faults

    def check_vectors(self, index, body):
        expected = self.vectors[index]
        faults = []
        if body["usage"] != expected["usage"] or len(body["data"]) != len(expected["data"]):
            faults.append(("WRONG", f"embeddings: {body['usage']} of {len(body['data'])} texts"))
        for given, wanted in zip(body["data"], expected["data"]):
            if given["index"] != wanted["index"] or cosine(given["embedding"], wanted["embedding"]) < COSINE:
                faults.append(("WRONG", f"the vector of text {given['index']} of list {index}"))
        return faults

    # --- What parted --------------------------------------------------------------------------

    def settle(self, seconds):
        """Computes texts that parted again. Returns (name, fault) and how many were not looked at."""
        until, faults, left = time.monotonic() + seconds, [], []

        def work(item):
            (name, text, end), (kind, before) = item
            if time.monotonic() > until:
                left.append(name)
                return
            line = Line(self.port, None)
            if wrong := self.compute(line, kind, before, text, end):
                faults.append((name, ("WRONG", wrong)))
            line.close()

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(work, list(self.open.items())))
        return faults, len(left)

    def compute(self, line, kind, before, text, end):
        ids = lambda **fields: self.post(line, "/v1/tokenize", {"model": CHAT, **fields})["tokens"]
        prompt = before if isinstance(before, list) and kind == "prompt" else ids(**{kind: before})
        tokens = prompt + (ids(prompt=text, add_special_tokens=False) if text else [])
        if end == "stop":
            tokens += ids(prompt=END, parse_special=True)
        body = {"model": CHAT, "prompt": tokens, "max_tokens": 0, "temperature": 0, "echo": True, "logprobs": 5}
        given = self.post(line, "/v1/completions", body)["choices"][0]["logprobs"]
        rest = "".join(given["tokens"][len(prompt) :])
        entries = zip(given["tokens"], given["token_logprobs"], given["top_logprobs"])
        for token, chance, tops in list(entries)[len(prompt) :]:
            best = max(tops.values())
            near = chance >= best - TOLERANCE or any(
                top and rest.startswith(top) for top, value in tops.items() if value >= best - TOLERANCE
            )
            if not near and "\ufffd" not in token:
                return f"{rest[:30]!r} in {text!r} is {best - chance:.1f} less likely than {max(tops, key=tops.get)!r}"
            rest = rest[len(token) :]
        return ""


def check_tokens(answer):
    """Tokens are as many as were counted, and together they are the text. The one that ends an answer
    is counted, but not listed."""
    listed = sum(len(tokens) for tokens in answer.tokens.values())
    hidden = sum(ends == ["stop"] for ends in answer.ends.values())
    if not listed <= answer.completion_tokens <= listed + hidden:
        return [("DOUBLED", f"{listed} tokens came, {answer.completion_tokens} were counted")]
    if answer.names:
        return []
    clean = lambda text: text.replace("\ufffd", "")
    for choice, tokens in answer.tokens.items():
        joined = b"".join(tokens).decode(errors="replace")
        if "\ufffd" not in joined and clean(joined) != clean(answer.texts[choice]):
            return [("DOUBLED", f"the tokens are {joined!r}, the text is {answer.texts[choice]!r}")]
    return []


def check_schema(ask, answer, text):
    try:
        jsonschema_rs.validate(ask.schema, json.loads(text))
    except (ValueError, jsonschema_rs.ValidationError) as error:
        return [("WRONG", f"{text!r} is not valid: {str(error)[:80]}")]
    return [("WRONG", f"calls of {answer.names}")] if ask.kind == "tool" and answer.names != {TOOL} else []


def as_json(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def cosine(one, other):
    length = math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))
    return sum(a * b for a, b in zip(one, other)) / length if length else 0


def counting(dialect, ask):
    """The request that counts an ask's prompt tokens."""
    _, body = SPELL[dialect](ask)
    sampling = ("max_tokens", "max_output_tokens", "temperature")
    return COUNTING[dialect], {name: value for name, value in body.items() if name not in sampling}


def embedding(texts):
    return "/v1/embeddings", {"model": "minilm", "input": texts}


def ranking(ranked):
    return "/v1/rerank", {"model": "minilm", **ranked}
