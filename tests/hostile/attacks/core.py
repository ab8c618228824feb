"""What an attack is, and what attacks share."""

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Callable

import frames
from frames import h1
from server import CHAT

MESSAGES = [{"role": "user", "content": "Hi"}]
MB = 1 << 20


@dataclass
class Attack:
    name: str
    # Its number in issue 14 (see `__init__.py`), or nothing.
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
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters or {"type": "object"}, **more},
    }


def json_schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}


def pipelined(port, one, count):
    """The same request so many times on a connection, all answers read."""
    begin = time.monotonic()
    try:
        with frames.connect(port, 30) as stream:
            frames.send(stream, one * (count - 1) + one.replace(b"host:", b"connection: close\r\nhost:"))
            data, error = frames.receive(stream)
        return frames.Reply(
            200 if data.count(b"HTTP/1.1 200") == count else frames.parse(data, error).status,
            seconds=time.monotonic() - begin,
        )
    except OSError as error:
        return frames.Reply(error=f"{type(error).__name__}: {error}")
