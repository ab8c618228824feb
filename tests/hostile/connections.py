"""Connections that do nothing, or stall: are others served meanwhile, and are they all closed in time?"""

import contextlib
import json
import os
import selectors
import socket
import threading
import time

import frames
from attacks.core import chat
from frames import frame, h1, h2_head, h2_request
from probe import is_answered

# The time limits of the servers below, in seconds. A stalled connection is closed by the sum of those
# that may follow each other, and of what the server takes to notice.
HEADER_S, BODY_S, WRITE_S = 3, 3, 3
REAPED_S = 30
LIMITS = f"header_timeout_s = {HEADER_S}\nbody_timeout_s = {BODY_S}\nwrite_timeout_s = {WRITE_S}"


def nothing(i):
    return b""


def after_an_answer(i):
    return h1("GET", "/health", close=False)


def half_a_head(i):
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-a: "


def half_a_body(i):
    return h1("POST", "/v1/chat/completions", b" " * 1000, close=False)[:-500]


def unread_answer(i):
    """More than what fits in the buffers of both sides."""
    return h1("GET", "/openapi.json", close=False) * 8


def hello(**values):
    return frames.PREFACE + frames.settings(table=0, **values)


def h2_idle(i):
    return hello()


def h2_preface_only(i):
    return frames.PREFACE[: 3 + i % 20]


def h2_half_a_head(i):
    return hello() + frame(frames.HEADERS, 0, 1, h2_head("POST", "/v1/chat/completions"))


def h2_half_a_body(i):
    return (
        hello()
        + frame(frames.HEADERS, frames.END_HEADERS, 1, h2_head("POST", "/v1/chat/completions"))
        + frame(frames.DATA, 0, 1, b"{")
    )


def h2_no_window(i):
    """Answers that cannot be sent, on connections that are otherwise well: pings are answered."""
    return hello(window=0) + b"".join(h2_request(n, "GET", "/openapi.json") for n in (1, 3, 5))


def h2_no_window_chat(i):
    body = json.dumps(chat(max_tokens=1)).encode()
    return hello(window=0) + h2_request(
        1,
        "POST",
        "/v1/chat/completions" if i % 8 == 0 else "/v1/tokenize",
        body if i % 8 == 0 else {"model": "smollm2", "prompt": "a" * 50},
    )


# Name, what is sent, whether what comes is read (and pings answered).
IDLE = [
    ("HTTP/1 idle, nothing sent", nothing, True),
    ("HTTP/1 idle after an answer", after_an_answer, True),
    ("HTTP/2 idle, pings answered", h2_idle, True),
]
STALLED = [
    ("HTTP/1 half a head", half_a_head, True),
    ("HTTP/1 half a body", half_a_body, True),
    ("HTTP/1 answer not read", unread_answer, False),
    ("HTTP/2 part of the preface", h2_preface_only, True),
    ("HTTP/2 half a head", h2_half_a_head, True),
    ("HTTP/2 half a body", h2_half_a_body, True),
    ("HTTP/2 window of 0, pings answered", h2_no_window, True),
    ("HTTP/2 window of 0, chats", h2_no_window_chat, True),
]


class Held:
    """Many connections, kept by a thread of their own. Pings are answered where what comes is read."""

    def __init__(self, port, count, first, reads):
        self.port, self.first, self.reads = port, first, reads
        self.selector, self.open, self.streams = selectors.DefaultSelector(), {}, {}
        self.left, self.closing = count, False
        self.thread = threading.Thread(target=self.keep, daemon=True)
        self.thread.start()

    def keep(self):
        number = 0
        while not self.closing:
            # A few more, then what has come: those that are open are to stay so.
            for _ in range(min(50, self.left)):
                self.add(number)
                number, self.left = number + 1, self.left - 1
            if self.reads:
                self.step(0 if self.left else 0.1)
            else:
                time.sleep(0.1)
        for stream in list(self.open.values()):
            self.drop(stream)
        self.selector.close()

    def add(self, number):
        stream = socket.socket()
        stream.settimeout(2)
        if not self.reads:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            stream.connect((frames.HOST, self.port))
            frames.send(stream, self.first(number))
        except OSError:
            stream.close()
            return
        stream.setblocking(False)
        self.open[stream.fileno()], self.streams[stream.fileno()] = stream, b""
        self.selector.register(stream, selectors.EVENT_READ)

    def step(self, timeout):
        for key, _ in self.selector.select(timeout):
            stream = key.fileobj
            try:
                data = stream.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if data:
                self.answer(stream, data)
            else:
                self.drop(stream)

    def answer(self, stream, data):
        """Answers pings: nothing else keeps an HTTP/2 connection open."""
        held = self.streams[stream.fileno()] + data
        if held.startswith(b"HTTP/1"):
            return
        while len(held) >= 9:
            size = int.from_bytes(held[:3], "big")
            if len(held) < 9 + size:
                break
            if held[3] == frames.PING and not held[4] & 1:
                with contextlib.suppress(OSError):
                    stream.send(frame(frames.PING, 1, 0, held[9 : 9 + size]))
            held = held[9 + size :]
        self.streams[stream.fileno()] = held

    def drop(self, stream):
        self.selector.unregister(stream)
        self.open.pop(stream.fileno(), None)
        self.streams.pop(stream.fileno(), None)
        stream.close()

    def close(self):
        self.closing = True
        self.thread.join(10)


def sockets(server):
    """Sockets that the server has open. A client that does not read does not see that it was left."""
    folder, count = f"/proc/{server.process.pid}/fd", 0
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                count += os.readlink(f"{folder}/{name}").startswith("socket:")
    return count


def hold(server, name, count, first, reads):
    """Holds connections: whether others are answered meanwhile, and when the server has closed all."""
    before, faults = sockets(server), []
    held, begin = Held(server.port, count, first, reads), time.monotonic()
    while held.left and time.monotonic() < begin + 20:
        time.sleep(0.05)
    opened, most, begin = len(held.open), sockets(server) - before, time.monotonic()
    ask = frames.request(server.port, "GET", "/health", timeout=5)
    if ask.status != 200:
        faults.append(f"/health: {ask.status or ask.error}")
    if wrong := is_answered(server.port, patience=15):
        faults.append(f"a new request is not answered: {wrong}")
    # The few that may be ours.
    while (left := sockets(server) - before) > 3 and time.monotonic() < begin + REAPED_S:
        time.sleep(0.1)
    seconds = time.monotonic() - begin
    if left > 3:
        faults.append(f"{left} not closed after {REAPED_S} s")
    held.close()
    return {
        "name": name,
        "asked": count,
        "opened": opened,
        "most": most,
        "health_ms": ask.seconds * 1e3,
        "reaped_s": None if left > 3 else seconds,
        "faults": faults,
    }
