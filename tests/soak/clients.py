"""Clients that ask without pause: which request, in which dialect, on which HTTP, read how, is chance
with a seed."""

import base64
import collections
import json
import random
import struct
import threading
import time
from dataclasses import dataclass

import judge
from asks import CHAT, EMBEDDED, FOLLOW_UPS, GENERATED, PROMPTS, RANKED, TEXTS
from dialects import READERS, SPELL, ResponseReader
from wire import Broken, Events, Line, Pace, Vanished, random_pace

POLL_S, BACKGROUND_S = 0.2, 240
LOOKED_AT = ["/health", "/health/live", "/health/ready", "/v1/models", f"/v1/models/{CHAT}", "/metrics"]
CHATS = [ask for ask in GENERATED if ask.kind != "prompt"]


@dataclass(frozen=True)
class Stream:
    """When the tokens of a stream came, and the comments that its engine was started again."""

    what: str
    begin: float
    end: float
    stamps: list
    restarts: list


class Record:
    """What all clients have seen."""

    def __init__(self):
        self.lock, self.finished, self.running = threading.Lock(), 0, 0
        self.answers, self.vanished, self.faults, self.streams = collections.Counter(), 0, [], []
        self.tokens = 0

    def fault(self, what, faults):
        with self.lock:
            self.faults += [(time.monotonic(), kind, f"{what}: {detail}") for kind, detail in faults]

    def count(self, kind, tokens=0):
        """An answer that came whole. Asking whether one is there is not counted."""
        if kind == "poll":
            return
        with self.lock:
            self.finished += 1
            self.answers[kind] += 1
            self.tokens += tokens or 0

    def run(self, change):
        with self.lock:
            self.running += change

    def kinds(self):
        return collections.Counter(kind for _, kind, _ in self.faults)


class Client:
    """One that asks, one request after the other."""

    def __init__(self, port, seed, number, record, judge_):
        self.rng = random.Random(f"{seed}/{number}")
        self.line, self.record, self.judge = Line(port, self.rng), record, judge_
        weights = {
            self.chat: 30, self.completion: 12, self.response: 14, self.message: 14, self.background: 4,
            self.resumed: 3, self.follow_up: 4, self.conversation: 3, self.embed: 9, self.rank: 2,
            self.count_tokens: 4, self.tokenize: 2, self.look: 4,
        }
        self.kinds, self.weights = list(weights), list(weights.values())

    def run(self, until):
        while time.monotonic() < until:
            (job,) = self.rng.choices(self.kinds, self.weights)
            try:
                job()
            except Vanished:
                with self.record.lock:
                    self.record.vanished += 1
            except Exception as error:  # whatever it is, an answer is lost
                self.record.fault(job.__name__, [("LOST", f"{type(error).__name__}: {error}")])
        self.line.close()

    # --- One exchange ---------------------------------------------------------------------------

    def version(self):
        return "h2" if self.rng.random() < 0.35 else "h1"

    def call(self, kind, method, path, body=None, pace=Pace(), version=None):
        """A whole answer as JSON or text; `None` where its status is not 200."""
        with self.line.ask(method, path, body, version or self.version(), pace) as exchange:
            data = exchange.body()
        if exchange.status != 200:
            self.record.fault(f"{method} {path}", [("LOST", f"{exchange.status} {data[:200]!r}")])
            return None
        self.record.count(kind)
        return data.decode() if path == "/metrics" else json.loads(data)

    def generate(self, ask, dialect, pace, more, what):
        """One answer, whole or as a stream, as its reader has it. `None` where there is none."""
        path, body = SPELL[dialect](ask, **more)
        reader, version = READERS[dialect](), self.version()
        begin = time.monotonic()
        self.record.run(1)
        try:
            with self.line.ask("POST", path, body, version, pace) as exchange:
                if exchange.status != 200:
                    data = exchange.body()
                    self.record.fault(what, [("LOST", f"{exchange.status} {data[:200]!r}")])
                    return None
                if body.get("stream"):
                    self.read(exchange, reader)
                else:
                    reader.whole(json.loads(exchange.body()))
        finally:
            self.record.run(-1)
        answer = reader.answer
        if body.get("stream") and pace.quick:
            stream = Stream(what, begin, time.monotonic(), answer.stamps, answer.restarts)
            with self.record.lock:
                self.record.streams.append(stream)
        return answer

    def read(self, exchange, reader):
        events = Events()
        for piece in exchange.pieces():
            for data, comment in events.feed(piece):
                if data is None:
                    reader.answer.comment(comment)
                else:
                    reader.event(data)
        if events.held.strip():
            reader.answer.fault("LOST", f"the stream ends with {events.held[-80:]!r}")

    def checked(self, ask, dialect, pace=None, choices=1, **more):
        """An answer that has a reference, judged."""
        pace = pace or random_pace(self.rng)
        sampled = "seed" in more
        what = f"{dialect} {ask.name} {'stream' if more.get('stream') else 'whole'}"
        answer = self.generate(ask, dialect, pace, more, what)
        if answer is None:
            return None
        self.record.count(f"{dialect} {'streamed' if more.get('stream') else 'whole'}", answer.completion_tokens)
        faults = self.judge.check(ask, dialect, answer, choices, sampled)
        if faults:
            self.record.fault(f"{what} {json.dumps(more)} {pace if not pace.quick else ''}", faults)
        return None if faults else answer

    # --- Text -------------------------------------------------------------------------------------

    def options(self, sampling=0.15):
        more = {"stream": True} if self.rng.random() < 0.65 else {}
        if self.rng.random() < sampling:
            more |= {"temperature": 0.8, "seed": self.rng.randrange(1000)}
        return more

    def chat(self):
        ask, more = self.rng.choice(CHATS), self.options()
        if self.rng.random() < 0.4:
            more |= {"logprobs": True, "top_logprobs": self.rng.choice([0, 2, 5])}
        choices = 2 if self.rng.random() < 0.08 else 1
        self.checked(ask, "chat", choices=choices, **more, **({"n": 2} if choices == 2 else {}))

    def completion(self):
        more = self.options()
        if self.rng.random() < 0.4:
            more["logprobs"] = self.rng.choice([0, 3])
        self.checked(self.rng.choice(PROMPTS), "completions", **more)

    def message(self):
        more = self.options(sampling=0)
        self.checked(self.rng.choice(CHATS), "messages", **more)

    def response(self):
        ask, more = self.rng.choice(CHATS), self.options(sampling=0)
        more["store"] = self.rng.random() < 0.3
        if ask.kind == "text" and self.rng.random() < 0.3:
            more |= {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
        self.checked(ask, "responses", **more)

    # --- Responses that are kept ------------------------------------------------------------------

    def background(self):
        """Made in the background and asked for until it is there."""
        ask = self.rng.choice(CHATS)
        path, body = SPELL["responses"](ask, background=True)
        made = self.call("background", "POST", path, body)
        if made is None:
            return
        self.record.run(1)
        try:
            made = self.poll(made)
        finally:
            self.record.run(-1)
        if made is None:
            return
        reader = ResponseReader()
        reader.whole(made)
        self.record.fault(f"background {ask.name}", self.judge.check(ask, "responses", reader.answer))
        if self.rng.random() < 0.5:
            self.call("store", "DELETE", f"/v1/responses/{made['id']}")

    def poll(self, made):
        until = time.monotonic() + BACKGROUND_S
        while made["status"] in ("queued", "in_progress"):
            if time.monotonic() > until:
                self.record.fault("background", [("LOST", f"{made['status']} after {BACKGROUND_S} s")])
                return None
            time.sleep(POLL_S)
            made = self.call("poll", "GET", f"/v1/responses/{made['id']}")
            if made is None:
                return None
        return made

    def resumed(self):
        """Streamed from the background, left in the middle, and read on from there."""
        ask = self.rng.choice(TEXTS)
        path, body = SPELL["responses"](ask, background=True, stream=True)
        reader, most = ResponseReader(), self.rng.randint(1, 30)
        with self.line.ask("POST", path, body, "h1", Pace()) as exchange:
            events, pieces = Events(), exchange.pieces()
            while exchange.status == 200 and reader.answer.events < most and (piece := next(pieces, None)):
                for data, comment in events.feed(piece):
                    reader.event(data) if data else reader.answer.comment(comment)
        if not reader.answer.done:
            last = reader.answer.events - 1
            path = f"/v1/responses/{reader.answer.id}?stream=true&starting_after={last}"
            with self.line.ask("GET", path, None, self.version(), Pace()) as exchange:
                if exchange.status != 200:
                    self.record.fault("read on", [("LOST", f"{exchange.status} {exchange.body()[:200]!r}")])
                    return
                self.read(exchange, reader)
        self.record.count("background, read on")
        self.record.fault(f"read on {ask.name}", self.judge.check(ask, "responses", reader.answer))

    def follow_up(self):
        """A stored response, and another one after it."""
        ask, further = self.rng.choice(TEXTS[:14]), self.rng.choice(FOLLOW_UPS)
        first = self.checked(ask, "responses", Pace(), store=True)
        if first is None:
            return
        body = {"model": CHAT, "previous_response_id": first.id, "input": further, "max_output_tokens": 32,
                "temperature": 0, "instructions": ask.system or None}
        made = self.call("follow-up", "POST", "/v1/responses", body)
        if made is None:
            return
        reader = ResponseReader()
        reader.whole(made)
        said = [{"role": "assistant", "content": first.texts[0]}, {"role": "user", "content": further}]
        turns = [*ask.with_system(), *said]
        self.record.fault(f"follow-up {ask.name}", self.judge.later(f"{ask.name}, {further}", turns, reader.answer))
        kept = self.call("store", "GET", f"/v1/responses/{made['id']}")
        if kept is not None and kept["output"] != made["output"]:
            self.record.fault("store", [("WRONG", f"kept {kept['output']}, made {made['output']}")])
        items = self.call("store", "GET", f"/v1/responses/{made['id']}/input_items")
        if items is not None and items["data"][0]["content"][0]["text"] != further:
            self.record.fault("store", [("WRONG", f"input items: {items}")])
        if self.rng.random() < 0.5:
            self.call("store", "DELETE", f"/v1/responses/{first.id}")

    def conversation(self):
        """A conversation with turns from before; the next one is answered and kept in it."""
        ask = self.rng.choice([ask for ask in TEXTS if len(ask.turns) > 1])
        *before, last = ask.messages()
        items = [{"type": "message", **message} for message in before]
        made = self.call("conversation", "POST", "/v1/conversations", {"items": items})
        if made is None:
            return
        at = f"/v1/conversations/{made['id']}"
        stream = {"stream": True} if self.rng.random() < 0.5 else {}
        answer = self.checked(ask, "responses", Pace(), conversation=made["id"], input=[last], **stream)
        kept = self.call("conversation", "GET", f"{at}/items?order=asc&limit=50")
        if answer and kept is not None:
            texts = [item["content"][0]["text"] for item in kept["data"]]
            if texts != [*ask.turns, answer.texts[0]]:
                self.record.fault("conversation", [("WRONG", f"kept {texts}")])
        self.call("conversation", "DELETE", at)

    # --- The rest ---------------------------------------------------------------------------------

    def embed(self):
        index = self.rng.randrange(len(EMBEDDED))
        path, body = judge.embedding(EMBEDDED[index])
        packed = self.rng.random() < 0.4
        given = self.call("embeddings", "POST", path, {**body, **({"encoding_format": "base64"} if packed else {})},
                          random_pace(self.rng))
        if given is None:
            return
        if packed:
            for entry in given["data"]:
                data = base64.b64decode(entry["embedding"])
                entry["embedding"] = struct.unpack(f"<{len(data) // 4}f", data)
        self.record.fault(f"embeddings {index}", self.judge.check_vectors(index, given))

    def rank(self):
        index = self.rng.randrange(len(RANKED))
        given = self.call("rerank", "POST", *judge.ranking(RANKED[index]))
        if given is None:
            return
        scores = lambda body: {result["index"]: result["relevance_score"] for result in body["results"]}
        wanted, found = scores(self.judge.ranks[index]), scores(given)
        if wanted.keys() != found.keys() or any(abs(wanted[i] - found[i]) > 0.01 for i in wanted):
            self.record.fault("rerank", [("WRONG", f"{found}, not {wanted}")])

    def count_tokens(self):
        ask, dialect = self.rng.choice(CHATS), self.rng.choice(list(judge.COUNTING))
        path, body = judge.counting(dialect, ask)
        given = self.call("count tokens", "POST", path, body)
        if given is not None and given["input_tokens"] != self.judge.references[ask.name, dialect].prompt_tokens:
            self.record.fault(path, [("WRONG", f"{ask.name}: {given}")])

    def tokenize(self):
        text = self.rng.choice(TEXTS).turns[-1]
        given = self.call("tokenize", "POST", "/v1/tokenize", {"model": CHAT, "prompt": text})
        if given is None:
            return
        back = self.call("detokenize", "POST", "/v1/detokenize", {"model": CHAT, "tokens": given["tokens"]})
        if back is not None and back["prompt"] != text:
            self.record.fault("detokenize", [("WRONG", f"{back['prompt']!r}, not {text!r}")])

    def look(self):
        path = self.rng.choice(LOOKED_AT)
        given = self.call("models, health, metrics", "GET", path)
        if given is not None and path == "/v1/models" and len(given["data"]) != 2:
            self.record.fault(path, [("WRONG", f"{given}")])
        if given is not None and path == "/health" and given["status"] not in ("ok", "degraded"):
            self.record.fault(path, [("WRONG", f"{given}")])


class Crowd:
    """Clients, each with a thread."""

    def __init__(self, port, seed, count, record, judge_, until):
        self.threads = [
            threading.Thread(target=Client(port, seed, i, record, judge_).run, args=(until,), daemon=True)
            for i in range(count)
        ]
        for thread in self.threads:
            thread.start()

    def wait(self, seconds):
        """How many have not ended after so long."""
        until = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0, until - time.monotonic()))
        return sum(thread.is_alive() for thread in self.threads)

