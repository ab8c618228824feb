"""What a client does on the wire: requests over HTTP/1.1 and HTTP/2, read quickly, slowly, with a
stall, or not to the end."""

import contextlib
import http.client
import json
import select
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "hostile"))
import frames  # noqa: E402

# The longest that nothing may come: a death of an engine that hangs takes 15 s and a restart.
TIMEOUT_S = 150
# A connection that idles for longer is not used again: the server closes it at 10 s.
IDLE_S = 4
HEADERS = {"content-type": "application/json"}


class Broken(Exception):
    """The answer has no end."""


class Vanished(Exception):
    """The client has left, as it was asked to."""


@dataclass(frozen=True)
class Pace:
    """How an answer is read: `most` bytes at a time with a pause after each, a stall of some seconds
    and leaving, both after so many bytes."""

    most: int = 1 << 16
    pause: float = 0.0
    stall: float = 0.0
    leave: bool = False
    after: int = 0
    rude: bool = False

    @property
    def quick(self):
        return self == Pace()


def random_pace(rng):
    draw = rng.random()
    if draw < 0.1:
        return Pace(leave=True, after=rng.choice([0, 1, 400, 2000, 5000]), rude=rng.random() < 0.5)
    if draw < 0.15:
        return Pace(most=rng.randint(40, 400), pause=0.03)
    if draw < 0.19:
        return Pace(stall=rng.uniform(2, 8), after=rng.randint(0, 2000))
    return Pace()


class Line:
    """A client's connections, one for each version of HTTP, used again for a while."""

    def __init__(self, port, rng):
        self.port, self.rng, self.kept = port, rng, {}

    def close(self):
        for version in list(self.kept):
            self.drop(version)

    def drop(self, version):
        connection, _, _ = self.kept.pop(version, (None, 0, 0))
        if connection:
            with contextlib.suppress(OSError):
                (connection.socket if version == "h2" else connection).close()

    def connection(self, version, small):
        """One that is open, and how many requests it has had."""
        connection, used, last = self.kept.get(version, (None, 0, 0))
        if connection and (small or time.monotonic() - last > IDLE_S or used >= 20 or is_closed(connection, version)):
            self.drop(version)
            connection = None
        if connection is None:
            open_ = open_h2 if version == "h2" else open_h1
            connection, used = open_(self.port, small), 0
        self.kept[version] = connection, used + 1, time.monotonic()
        return connection, used

    @contextlib.contextmanager
    def ask(self, method, path, body=None, version="h1", pace=Pace()):
        """One request: its exchange, whose `pieces` are to be read to the end."""
        connection, used = self.connection(version, bool(pace.pause or pace.stall))
        data = b"" if body is None else json.dumps(body).encode()
        whole = False
        try:
            exchange = (H2Exchange if version == "h2" else H1Exchange)(connection, used, method, path, data, pace)
            yield exchange
            whole = exchange.over
        except Vanished:
            whole = version == "h2" and not pace.rude
            raise
        except (OSError, http.client.HTTPException) as error:
            raise Broken(f"{type(error).__name__}: {error}"[:120]) from error
        finally:
            if whole:
                self.kept[version] = connection, used + 1, time.monotonic()
            else:
                self.drop(version)


def is_closed(connection, version):
    stream = connection.socket if version == "h2" else connection.sock
    if version == "h2":
        return connection.goaway is not None or (readable(stream) and not connection.step(0))
    return stream is None or readable(stream)


def readable(stream):
    return bool(select.select([stream], [], [], 0)[0])


def open_h1(port, small):
    connection = http.client.HTTPConnection(frames.HOST, port, timeout=TIMEOUT_S)
    if not small:
        connection.connect()
        return connection
    # What is not read is to be felt by the server, not to lie in the kernel.
    connection.sock = socket.socket()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sock.settimeout(TIMEOUT_S)
    connection.sock.connect((frames.HOST, port))
    return connection


def open_h2(port, small):
    return frames.H2(port, TIMEOUT_S, window=1024 if small else None)


class Exchange:
    """`status`, then pieces of the body; `over` when the last one was read."""

    def __init__(self, pace):
        self.pace, self.over, self.read_bytes = pace, False, 0

    def pieces(self):
        stall = self.pace.stall
        while True:
            if self.pace.leave and self.read_bytes >= self.pace.after:
                self.leave()
                raise Vanished
            if stall and self.read_bytes >= self.pace.after:
                time.sleep(stall)
                stall = 0
            piece = self.read(self.pace.most)
            if not piece:
                self.over = True
                return
            self.read_bytes += len(piece)
            yield piece
            if self.pace.pause:
                time.sleep(self.pace.pause)

    def body(self):
        return b"".join(self.pieces())


class H1Exchange(Exchange):
    def __init__(self, connection, used, method, path, data, pace):
        super().__init__(pace)
        self.connection = connection
        connection.request(method, path, body=data or None, headers=HEADERS if data else {})
        if pace.leave and pace.after == 0:
            time.sleep(0.05)
            self.leave()
            raise Vanished
        self.response = connection.getresponse()
        self.status = self.response.status

    def read(self, most):
        piece = self.response.read1(most)
        if not piece and self.response.length:
            raise Broken(f"{self.response.length} bytes are missing")
        if not piece:
            self.response.close()
        return piece

    def leave(self):
        if self.pace.rude:
            frames.reset(self.connection.sock)
        self.connection.close()


class H2Exchange(Exchange):
    def __init__(self, connection, used, method, path, data, pace):
        super().__init__(pace)
        self.connection, self.number, self.at = connection, 2 * used + 1, 0
        connection.send(frames.h2_request(self.number, method, path, data))
        if pace.leave and pace.after == 0:
            time.sleep(0.05)
            self.leave()
            raise Vanished
        self.run(lambda: self.number in connection.status)
        self.status = connection.status.get(self.number, 0)

    def run(self, until):
        ended = lambda: until() or self.number in self.connection.ended
        if not self.connection.run(ended, TIMEOUT_S) and not ended():
            raise Broken(f"the connection ended {self.connection.error}".strip())
        if not ended():
            raise Broken("nothing comes")

    def read(self, most):
        body = lambda: self.connection.body.get(self.number, b"")
        self.run(lambda: len(body()) > self.at)
        piece = body()[self.at : self.at + most]
        self.at += len(piece)
        if not piece:
            if self.connection.ended.get(self.number):
                raise Broken(f"the stream was reset: {self.connection.ended[self.number]}")
            self.connection.body.pop(self.number, None)
        return piece

    def leave(self):
        if self.pace.rude:
            frames.reset(self.connection.socket)
        else:
            self.connection.send(frames.frame(frames.RST, 0, self.number, b"\0\0\0\x08"))


class Events:
    """Server-sent events from pieces: (data, comment), one of them `None`."""

    def __init__(self):
        self.held = b""

    def feed(self, piece):
        self.held += piece
        *blocks, self.held = self.held.split(b"\n\n")
        for block in blocks:
            data = []
            for line in block.decode().split("\n"):
                if line.startswith("data:"):
                    data.append(line[5:].strip())
                elif line.startswith(":"):
                    yield None, line[1:].strip()
            if data:
                yield "\n".join(data), None
