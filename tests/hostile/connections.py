"""Connections that do nothing, or stall: are others served meanwhile, and are they all closed in time?"""

import json
import selectors
import socket
import time

import frames
from attacks import chat
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
    body = {"model": "smollm2", "tokens": [7] * 400_000}
    return h1("POST", "/v1/detokenize", body) if i % 10 == 0 else h1("GET", "/openapi.json", close=False) * 40


def hello(**values):
    return frames.PREFACE + frames.settings(table=0, **values)


def h2_idle(i):
    return hello()


def h2_preface_only(i):
    return frames.PREFACE[: 3 + i % 20]


def h2_half_a_head(i):
    return hello() + frame(frames.HEADERS, 0, 1, h2_head("POST", "/v1/chat/completions"))


def h2_half_a_body(i):
    return hello() + frame(frames.HEADERS, frames.END_HEADERS, 1, h2_head("POST", "/v1/chat/completions")) + frame(frames.DATA, 0, 1, b"{")


def h2_no_window(i):
    """Answers that cannot be sent, on connections that are otherwise well: pings are answered."""
    return hello(window=0) + b"".join(h2_request(n, "GET", "/openapi.json") for n in (1, 3, 5))


def h2_no_window_chat(i):
    body = json.dumps(chat(max_tokens=1)).encode()
    return hello(window=0) + h2_request(1, "POST", "/v1/chat/completions" if i % 8 == 0 else "/v1/tokenize", body if i % 8 == 0 else
                                        {"model": "smollm2", "prompt": "a" * 50})


# Name, what is sent, whether what comes is read (and pings answered).
IDLE = [("HTTP/1 idle, nothing sent", nothing, True), ("HTTP/1 idle after an answer", after_an_answer, True),
        ("HTTP/2 idle, pings answered", h2_idle, True)]
STALLED = [("HTTP/1 half a head", half_a_head, True), ("HTTP/1 half a body", half_a_body, True),
           ("HTTP/1 answer not read", unread_answer, False), ("HTTP/2 part of the preface", h2_preface_only, True),
           ("HTTP/2 half a head", h2_half_a_head, True), ("HTTP/2 half a body", h2_half_a_body, True),
           ("HTTP/2 window of 0, pings answered", h2_no_window, True), ("HTTP/2 window of 0, chats", h2_no_window_chat, True)]


class Held:
    """Many connections. Pings are answered where what comes is read."""

    def __init__(self, port, count, first, reads):
        self.selector, self.open, self.refused, self.reads = selectors.DefaultSelector(), {}, 0, reads
        self.streams = {}
        begin = time.monotonic()
        for i in range(count):
            try:
                stream = self.connect(port)
                frames.send(stream, first(i))
                stream.setblocking(False)
            except OSError:
                self.refused += 1
                continue
            self.open[stream.fileno()] = stream
            self.streams[stream.fileno()] = b""
            self.selector.register(stream, selectors.EVENT_READ)
            if time.monotonic() - begin > 20:
                break
            if i % 50 == 49:
                self.step(0)

    def connect(self, port):
        stream = socket.socket()
        stream.settimeout(2)
        if not self.reads:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.connect((frames.HOST, port))
        return stream

    def step(self, timeout):
        for key, _ in self.selector.select(timeout):
            stream = key.fileobj
            if not self.reads:
                # Only the end is looked for; it shows once it is an error.
                self.look(stream)
                continue
            try:
                data = stream.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self.drop(stream)
                continue
            self.answer(stream, data)

    def look(self, stream):
        error = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        state = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if error or state not in (1,):  # not ESTABLISHED any more
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
                self.write(stream, frame(frames.PING, 1, 0, held[9 : 9 + size]))
            held = held[9 + size :]
        self.streams[stream.fileno()] = held[-20_000:]

    def write(self, stream, data):
        try:
            stream.send(data)
        except OSError:
            pass

    def drop(self, stream):
        self.selector.unregister(stream)
        self.open.pop(stream.fileno(), None)
        self.streams.pop(stream.fileno(), None)
        stream.close()

    def hold(self, seconds, until=lambda: False):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.open and not until():
            self.step(0.1)
            if not self.reads:
                for stream in list(self.open.values()):
                    self.look(stream)
                time.sleep(0.2)

    def close(self):
        for stream in list(self.open.values()):
            self.drop(stream)
        self.selector.close()



def hold(port, name, count, first, reads):
    """Holds connections: whether others are answered meanwhile and when all were closed."""
    held = Held(port, count, first, reads)
    opened = len(held.open)
    begin, faults = time.monotonic(), []
    held.hold(0.5)
    ask = frames.request(port, "GET", "/health", timeout=5)
    health_ms = ask.seconds * 1e3
    if ask.status != 200:
        faults.append(f"/health: {ask.status or ask.error}")
    wrong = is_answered(port, patience=15)
    if wrong:
        faults.append(f"a new request is not answered: {wrong}")
    held.hold(REAPED_S - (time.monotonic() - begin))
    seconds, left = time.monotonic() - begin, len(held.open)
    if left:
        faults.append(f"{left} not closed after {REAPED_S} s")
    held.close()
    return {"name": name, "asked": count, "opened": opened, "refused": held.refused, "health_ms": health_ms,
            "reaped_s": None if left else seconds, "faults": faults}
