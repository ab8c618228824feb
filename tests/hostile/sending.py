"""A request's bytes, and the steps in which they are sent, over both versions of HTTP."""

import json
import struct
from dataclasses import dataclass, field

import frames
from frames import frame, h2_head, h2_request, literal

BIG = 60_000


@dataclass
class Case:
    number: int
    title: list = field(default_factory=list)
    # ("send", bytes), ("wait", seconds), ("read", most bytes), ("rst",)
    steps: list = field(default_factory=list)
    http2: bool = False
    # Whether it is a whole request, which is owed an answer.
    owed: bool = True

    def data(self):
        return b"".join(step[1] for step in self.steps if step[0] == "send")


def encode(rng, body, case):
    """JSON as bytes, in whatever encoding."""
    raw = json.dumps(body, ensure_ascii=rng.random() < 0.5, allow_nan=True).encode("utf-8", "surrogatepass")
    kind = rng.choices(
        ["plain", "repeated", "utf-16", "bad utf-8", "bom", "nul", "flipped", "cut json", "number", "twice", "spaces"],
        [60, 4, 2, 4, 2, 2, 6, 4, 4, 2, 2],
    )[0]
    if kind == "plain":
        return raw
    case.title.append(kind)
    if kind == "repeated" and raw.startswith(b"{"):
        return b"{" + (raw[1:-1] + b",") * rng.choice([1, 3, 100]) + raw[1:]
    if kind == "utf-16":
        return json.dumps(body).encode("utf-16" if rng.random() < 0.5 else "utf-32")
    at = rng.randrange(len(raw)) if raw else 0
    if kind == "bad utf-8":
        return (
            raw[:at] + rng.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]) + raw[at:]
        )
    if kind == "bom":
        return b"\xef\xbb\xbf" + raw
    if kind == "nul":
        return raw[:at] + b"\0" + raw[at:]
    if kind == "flipped":
        flipped = bytearray(raw)
        for _ in range(rng.randint(1, 8)):
            flipped[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if kind == "cut json":
        return raw[:at]
    if kind == "number":
        return raw.replace(b"1", rng.choice([b"1e999", b"-1e999", b"1" * 5000, b"0x1", b"01", b"1."]), 1)
    return raw + raw if kind == "twice" else b" " * BIG + raw + b"\n" * BIG


def odd_headers(rng):
    return rng.choice(
        [
            [(f"x-{i}", "v") for i in range(rng.choice([90, 101, 2000]))],
            [("x-long", "v" * rng.choice([8000, 70_000, 1_000_000]))],
            [("authorization", "Bearer " + "k" * 5000)],
            [("x-request-timeout", rng.choice(["-1", "nan", "1e400", "0", "0.001", ""]))],
            [("x-request-id", "é" * 100)],
            [("expect", "100-continue")],
            [("accept-encoding", "gzip, br;q=nan")],
            [("cookie", "a=b; " * 10_000)],
            [("content-encoding", "gzip")],
            [("upgrade", "h2c"), ("connection", "upgrade, http2-settings"), ("http2-settings", "AAMAAABk")],
            [("origin", "null"), ("access-control-request-method", "POST")],
            [("x-priority", "9" * 400)],
            [("host", "b"), ("host", "c")],
        ]
    )


def head(method, path, fields):
    return f"{method} {path} HTTP/1.1\r\n".encode() + b"".join(f"{n}: {v}\r\n".encode() for n, v in fields) + b"\r\n"


def over_h1(rng, case, method, path, raw):
    fields = [("host", "localhost"), ("connection", "close")]
    if raw or method in ("POST", "PUT"):
        fields += [("content-type", "application/json"), ("content-length", str(len(raw)))]
    way = rng.choices(
        [
            "whole",
            "headers",
            "types",
            "chunks",
            "smuggled",
            "pipelined",
            "drip",
            "cut body",
            "cut head",
            "rst",
            "unread",
            "line",
        ],
        [50, 8, 4, 6, 6, 4, 4, 4, 3, 5, 3, 4],
    )[0]
    if way != "whole":
        case.title.append(way)
    whole = head(method, path, fields) + raw
    send = lambda data: case.steps.append(("send", data))
    if way == "headers":
        send(head(method, path, fields + odd_headers(rng)) + raw)
    elif way == "types":
        odd = rng.choice(
            [
                "text/plain",
                "application/x-www-form-urlencoded",
                "multipart/form-data; boundary=x",
                "application/json; charset=utf-16",
                "",
                "a/b/c",
                "\t",
            ]
        )
        send(head(method, path, [(n, odd if n == "content-type" else v) for n, v in fields]) + raw)
    elif way in ("chunks", "smuggled"):
        kept = [f for f in fields if f[0] != "content-length"]
        chunks = b"".join(
            b"%x%s\r\n%s\r\n" % (len(p), rng.choice([b"", b";a=b", b";" + b"x" * 500]), p)
            for p in (raw[i : i + 997] for i in range(0, min(len(raw), 200_000), 997))
        )
        end = rng.choice(
            [
                b"0\r\n\r\n",
                b"0\r\n\r\n",
                b"0\r\nx-trailer: a\r\n\r\n",
                b"ffffffffffffffff\r\n",
                b"-1\r\n\r\n",
                b"0\r\n" + b"t: v\r\n" * 5000 + b"\r\n",
            ]
        )
        extra = [("transfer-encoding", "chunked")]
        if way == "smuggled":
            extra = rng.choice(
                [
                    [("transfer-encoding", "chunked"), ("content-length", "5")],
                    [("transfer-encoding", "chunked, identity")],
                    [("transfer-encoding", "xchunked")],
                    [("content-length", "5"), ("content-length", "6")],
                    [("content-length", "+5")],
                    [("content-length", "99999999999999999999")],
                    [("transfer-encoding", "chunked"), ("transfer-encoding", "identity")],
                ]
            )
        case.owed = end == b"0\r\n\r\n" and way == "chunks" and len(raw) <= 200_000
        send(head(method, path, kept + extra) + chunks + end)
    elif way == "pipelined":
        one = head(method, path, [f for f in fields if f[0] != "connection"]) + raw
        send(one * rng.choice([2, 5, 40]) if len(one) < 20_000 else one + whole)
        case.owed = False
        case.steps.append(("read", 1))
    elif way == "drip":
        at = rng.choice([0, len(whole) - len(raw)])
        send(whole[:at])
        size = max(1, (len(whole) - at) // 20)
        for i in range(at, len(whole), size):
            case.steps += [("send", whole[i : i + size]), ("wait", 0.05)]
    elif way in ("cut body", "cut head"):
        least = 0 if way == "cut head" else len(whole) - len(raw)
        send(whole[: rng.randint(least, max(least, len(whole) - 1))])
        case.steps.append(("rst",) if rng.random() < 0.5 else ("wait", 0.5))
        case.owed = False
    elif way == "rst":
        send(whole)
        case.steps += [("read", rng.choice([1, 200, 2000])), ("rst",)]
        case.owed = False
    elif way == "unread":
        send(whole)
        case.steps += [("wait", 2.0), ("rst",)]
        case.owed = False
    elif way == "line":
        line = rng.choice(
            [
                b"GET / HTTP/9.9\r\n\r\n",
                b"\0" * 500,
                b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
                b"\x16\x03\x01" + b"\xaa" * 300,
                b"GET http://[::1/%zz HTTP/1.1\r\nhost: a\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
                b"POST  /v1/models HTTP/1.1\r\n\r\n",
                b"GET /v1/models?" + b"a=b&" * 10_000 + b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
                b"\r\n" * 5000,
            ]
        )
        send(line)
        case.steps.append(("wait", 0.3))
        case.owed = False
    else:
        send(whole)


def over_h2(rng, case, method, path, raw):
    case.http2 = True
    request = h2_request(1, method, path, raw)
    hello = frames.PREFACE + frames.settings(table=0)
    way = rng.choices(
        [
            "whole",
            "window 0",
            "rapid reset",
            "pings",
            "settings",
            "huge headers",
            "continuation",
            "many streams",
            "data after end",
            "bad lengths",
            "bad hpack",
            "odd frames",
            "unfinished",
            "content-length",
        ],
        [30, 6, 6, 4, 4, 6, 6, 6, 5, 6, 6, 6, 5, 4],
    )[0]
    case.title.append(f"h2 {way}")
    # Bodies beyond the first window are sent all the same, which is an error of ours.
    case.owed = way in ("whole", "pings") and len(raw) <= 65_535
    number = lambda value: struct.pack(">I", value)
    grow = frame(frames.WINDOW, payload=number(1 << 30))
    data = {
        "whole": lambda: hello + grow + request,
        "window 0": lambda: frames.PREFACE + frames.settings(table=0, window=0) + request,
        "rapid reset": lambda: (
            hello
            + b"".join(
                h2_request(1 + 2 * i, method, path, raw) + frame(frames.RST, 0, 1 + 2 * i, number(8))
                for i in range(200 if len(raw) < 2000 else 5)
            )
        ),
        "pings": lambda: hello + grow + frame(frames.PING, 0, 0, b"12345678") * 5000 + request,
        "settings": lambda: hello + frames.settings(window=0) + frames.settings(window=(1 << 31) - 1) * 2000 + request,
        "huge headers": lambda: hello + big_headers(rng, method, path),
        "continuation": lambda: (
            hello
            + frame(frames.HEADERS, 0, 1, h2_head(method, path))
            + frame(frames.CONTINUATION, 0, 1, literal("x", "y" * 1000)) * 500
        ),
        "many streams": lambda: hello + b"".join(h2_request(1 + 2 * i, "GET", "/v1/models") for i in range(600)),
        "data after end": lambda: (
            hello + request + frame(frames.DATA, 0, 1, b"more") * 100 + frame(frames.HEADERS, 5, 1, b"\x82")
        ),
        "bad lengths": lambda: (
            hello + frame(frames.HEADERS, 5, 1, h2_head(method, path), length=rng.choice([1, 0xFFFFFF])) + request
        ),
        "bad hpack": lambda: (
            hello
            + frame(
                frames.HEADERS,
                5,
                1,
                rng.choice([b"\xff" * 50, b"\x80", bytes(rng.randbytes(300)), b"\x3f\xff\xff\xff\xff\x0f"]),
            )
        ),
        "odd frames": lambda: (
            hello
            + b"".join(
                frame(rng.randrange(256), rng.randrange(256), rng.randrange(9), rng.randbytes(rng.randrange(40)))
                for _ in range(50)
            )
        ),
        "unfinished": lambda: (
            hello + frame(frames.HEADERS, 4, 1, h2_head("POST", path)) + frame(frames.DATA, 0, 1, raw[:100])
        ),
        "content-length": lambda: (
            hello
            + frame(frames.HEADERS, 4, 1, h2_head("POST", path, length=7))
            + frame(frames.DATA, 1, 1, raw[:16_000])
        ),
    }[way]()
    case.steps.append(("send", data))
    if not case.owed:
        case.steps.append(("wait", 0.5))
        if rng.random() < 0.5:
            case.steps.append(("rst",))


def big_headers(rng, method, path):
    block = h2_head(method, path, [(f"x-{i}", "v" * 1000) for i in range(rng.choice([20, 200]))])
    pieces = [block[i : i + 16_384] for i in range(0, len(block), 16_384)]
    out = frame(frames.HEADERS, 1 | (4 if len(pieces) == 1 else 0), 1, pieces[0])
    for i, piece in enumerate(pieces[1:], 2):
        out += frame(frames.CONTINUATION, 4 if i == len(pieces) else 0, 1, piece)
    return out
