"""HTTP by hand: requests as bytes on a plain socket, and HTTP/2 frames.

No HTTP library sends what a hostile client sends, so both versions are spelled out here.
"""

import json
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
STATIC_STATUS = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}


@dataclass
class Reply:
    """What came back. `error` says why there is no whole answer."""

    status: int = 0
    body: bytes = b""
    seconds: float = 0.0
    error: str = ""
    name: str = ""
    # Whether it was sent so slowly that the server need not have waited.
    late: bool = False

    def json(self):
        return json.loads(self.body)


def connect(port, timeout=60.0):
    stream = socket.create_connection((HOST, port), timeout=timeout)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def reset(stream):
    """Closes with RST instead of FIN."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


# --- HTTP/1.1 ---------------------------------------------------------------------------------


def h1(method, path, body=b"", headers=(), close=True):
    """A request's bytes. A body that is no bytes is sent as JSON."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    head = [f"{method} {path} HTTP/1.1", "host: localhost"]
    if body or method == "POST":
        head += ["content-type: application/json", f"content-length: {len(body)}"]
    if close:
        head.append("connection: close")
    head += [f"{name}: {value}" for name, value in dict(headers).items()]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def send(stream, data):
    """Sends what the peer takes: it may answer and close before it has read everything."""
    try:
        stream.sendall(data)
        return True
    except (BrokenPipeError, ConnectionResetError):
        return False


def receive(stream, most=256 << 20):
    """Reads to the end of the connection: (bytes, why it broke off)."""
    pieces, size = [], 0
    try:
        while piece := stream.recv(1 << 18):
            pieces.append(piece)
            size += len(piece)
            if size > most:
                return b"".join(pieces), "too long"
    except ConnectionResetError:
        return b"".join(pieces), "reset"
    except TimeoutError:
        return b"".join(pieces), "no answer in time"
    return b"".join(pieces), ""


def parse(data, error=""):
    """The last final response of a connection that was read to its end."""
    while data.startswith(b"HTTP/1.1 100"):
        data = data.partition(b"\r\n\r\n")[2]
    head, found, body = data.partition(b"\r\n\r\n")
    if not found or not head.startswith(b"HTTP/1."):
        return Reply(error=error or ("closed without an answer" if not data else "not HTTP/1"))
    status = int(head.split(b" ", 2)[1])
    fields = head.lower().split(b"\r\n")
    if b"transfer-encoding: chunked" in fields:
        body, whole = unchunk(body)
        if not whole:
            error = f"stream broke off {error}".strip()
    else:
        length = next((int(f[15:]) for f in fields if f.startswith(b"content-length:")), None)
        if length is not None and len(body) < length:
            error = f"answer broke off {error}".strip()
        elif length is not None:
            # Whole; how the connection ends afterwards does not matter.
            body, error = body[:length], ""
    return Reply(status, body, error=error)


def unchunk(data):
    pieces, at = [], 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return b"".join(pieces), False
        size = int(data[at:end].split(b";")[0] or b"0", 16)
        if size == 0:
            return b"".join(pieces), True
        piece = data[end + 2 : end + 2 + size]
        pieces.append(piece)
        if len(piece) < size:
            return b"".join(pieces), False
        at = end + 2 + size + 2


def request(port, method, path, body=b"", headers=(), timeout=60.0):
    """One request on a connection of its own."""
    return exchange(port, h1(method, path, body, headers), timeout)


def exchange(port, data, timeout=60.0):
    begin = time.monotonic()
    try:
        with connect(port, timeout) as stream:
            send(stream, data)
            reply = parse(*receive(stream))
    except OSError as error:
        reply = Reply(error=f"{type(error).__name__}: {error}")
    reply.seconds = time.monotonic() - begin
    return reply


# --- HTTP/2 -----------------------------------------------------------------------------------


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    """A frame. `length` may differ from the payload's: that is what hostile frames do."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(**values):
    codes = {"table": HEADER_TABLE_SIZE, "push": 2, "streams": 3, "window": INITIAL_WINDOW_SIZE, "frame": 5}
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", codes[k], v) for k, v in values.items()))


def integer(value, prefix, first=0):
    """An integer as HPACK spells it (RFC 7541, 5.1)."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([first | value])
    out, value = [first | most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def literal(name, value):
    """A header field without indexing, both texts as they are (RFC 7541, 6.2.2)."""
    as_bytes = lambda text: text if isinstance(text, bytes) else text.encode()
    name, value = as_bytes(name), as_bytes(value)
    return b"\0" + integer(len(name), 7) + name + integer(len(value), 7) + value


def h2_head(method, path, headers=(), length=None):
    fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost")]
    if method == "POST":
        fields.append(("content-type", "application/json"))
    if length is not None:
        fields.append(("content-length", str(length)))
    return b"".join(literal(*field) for field in [*fields, *headers])


def h2_request(stream, method, path, body=b"", headers=()):
    """The frames of one request. The body goes in frames of 16 kB, as settings allow by default."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    has_body = method == "POST"
    flags = END_HEADERS | (0 if has_body else END_STREAM)
    out = [frame(HEADERS, flags, stream, h2_head(method, path, headers, len(body) if has_body else None))]
    pieces = [body[at : at + 16384] for at in range(0, len(body), 16384)] or [b""]
    if has_body:
        for i, piece in enumerate(pieces):
            out.append(frame(DATA, END_STREAM if i == len(pieces) - 1 else 0, stream, piece))
    return b"".join(out)


HUFFMAN_DIGITS = {
    "00000": "0",
    "00001": "1",
    "00010": "2",
    "011001": "3",
    "011010": "4",
    "011011": "5",
    "011100": "6",
    "011101": "7",
    "011110": "8",
    "011111": "9",
}


def status_of(block):
    """`:status` of a header block whose encoder has no dynamic table; 0 where it cannot be told."""
    at = 0
    while at < len(block) and block[at] & 0xE0 == 0x20:  # a table size update
        at += 1
    if at >= len(block):
        return 0
    if block[at] & 0x80:
        return STATIC_STATUS.get(block[at] & 0x7F, 0)
    if at + 1 >= len(block) or block[at] & 0x0F not in STATIC_STATUS and block[at] & 0x3F not in STATIC_STATUS:
        return 0
    coded, size = block[at + 1] & 0x80, block[at + 1] & 0x7F
    text = block[at + 2 : at + 2 + size]
    if not coded:
        return int(text) if text.isdigit() else 0
    bits, digits = "".join(f"{byte:08b}" for byte in text), ""
    while len(digits) < 3:
        size = 5 if bits[:5] in HUFFMAN_DIGITS else 6
        digit = HUFFMAN_DIGITS.get(bits[:size])
        if digit is None:
            return 0
        digits, bits = digits + digit, bits[size:]
    return int(digits)


class H2:
    """An HTTP/2 connection. It answers pings and settings and keeps what each stream said."""

    def __init__(self, port, timeout=60.0, window=None, connection_window=True):
        self.socket = connect(port, timeout)
        values = {"table": 0} if window is None else {"table": 0, "window": window}
        hello = PREFACE + settings(**values)
        if connection_window:
            hello += frame(WINDOW, payload=struct.pack(">I", 1 << 30))
        self.socket.sendall(hello)
        self.held, self.status, self.ended, self.body, self.error = b"", {}, {}, {}, ""
        self.goaway = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        return send(self.socket, data)

    def step(self, timeout):
        """Reads once and handles whole frames. False where the peer is gone."""
        self.socket.settimeout(max(timeout, 0.001))
        try:
            data = self.socket.recv(1 << 18)
        except TimeoutError:
            return True
        except OSError as error:
            self.error = type(error).__name__
            return False
        if not data:
            return False
        self.held += data
        while len(self.held) >= 9:
            size = int.from_bytes(self.held[:3], "big")
            if len(self.held) < 9 + size:
                break
            kind, flags = self.held[3], self.held[4]
            stream = int.from_bytes(self.held[5:9], "big") & 0x7FFFFFFF
            self.handle(kind, flags, stream, self.held[9 : 9 + size])
            self.held = self.held[9 + size :]
        return True

    def handle(self, kind, flags, stream, payload):
        if kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK))
        elif kind == HEADERS:
            self.status.setdefault(stream, status_of(payload))
        elif kind == DATA:
            self.body[stream] = self.body.get(stream, b"") + payload
            if payload:
                self.send(frame(WINDOW, 0, stream, struct.pack(">I", len(payload))))
        elif kind == RST:
            self.ended[stream] = int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big")
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            self.ended.setdefault(stream, 0)

    def run(self, until, seconds):
        """Handles frames until `until()` holds, for so long at most. False where the peer is gone."""
        end = time.monotonic() + seconds
        while not until() and (left := end - time.monotonic()) > 0:
            if not self.step(min(left, 0.5)):
                return False
        return True


def h2_exchange(port, method, path, body=b"", headers=(), timeout=60.0):
    begin = time.monotonic()
    try:
        with H2(port, timeout) as connection:
            connection.send(h2_request(1, method, path, body, headers))
            connection.run(lambda: 1 in connection.ended, timeout)
            error = "" if connection.ended.get(1) == 0 else f"no end of stream {connection.error}".strip()
            reply = Reply(connection.status.get(1, 0), connection.body.get(1, b""), error=error)
    except OSError as error:
        reply = Reply(error=f"{type(error).__name__}: {error}")
    reply.seconds = time.monotonic() - begin
    return reply


def process_memory(pid):
    """What a process has in memory, and had at most since the mark was reset, in bytes."""
    with open(f"/proc/{pid}/status") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    size = lambda name: int(fields.get(name, "0 kB").split()[0]) << 10
    return size("VmRSS"), size("VmHWM")


def family(pid):
    """A process and its engines."""
    children = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    return [pid, *(int(child) for some in children for child in some)]


def family_memory(pid):
    """The same of a process and its engines together."""
    each = [process_memory(member) for member in family(pid)]
    return sum(now for now, _ in each), sum(most for _, most in each)


def reset_peak(pid):
    with open(f"/proc/{pid}/clear_refs", "w") as file:
        file.write("5")
