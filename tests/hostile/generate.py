"""Hostile requests by number: the same number gives the same bytes.

A case is a request to some endpoint (`whole.py`), mutated a few times as JSON (`mutations.py`), then
as bytes, then sent in some way (`sending.py`). Numbers that once found something are in `seeds.txt`
and are always sent again.
"""

import json
import random
import time
from pathlib import Path

import frames
from mutations import MUTATIONS
from sending import Case, encode, over_h1, over_h2
from whole import ENDPOINTS

SEEDS = Path(__file__).with_name("seeds.txt")
# What a case may take before it counts as one that hangs.
PATIENCE_S = 120.0
# A server may hang up on who takes longer than this to send: it waits for a head for 10 s (`header_timeout_s`), and
# senders have the idle policy, so that a busy machine may keep them from sending. No answer is expected then.
LATE_S = 9.0
# The longest body.
MOST_BODY = 8 << 20


def generate(number, names):
    """The case with this number."""
    rng, case = random.Random(number), Case(number)
    make = rng.choices([e for e, _ in ENDPOINTS], [w for _, w in ENDPOINTS])[0]
    method, path, body = make(rng, names)
    case.title.append(f"{method} {path[:60]}")
    if body is None:
        raw = b""
    else:
        # A copy: mutations change it, and lists in it may be the same list twice.
        body = json.loads(json.dumps(body))
        for _ in range(rng.choices([0, 1, 2, 3], [2, 6, 2, 1])[0]):
            mutate = rng.choices([m for m, _ in MUTATIONS], [w for _, w in MUTATIONS])[0]
            case.title.append(mutate.__name__)
            mutate(rng, body, names)
        raw = encode_deep(rng, body, case)
    if rng.random() < 0.05:
        path = rng.choice(
            [
                path + "?" + "x=y&" * 100,
                path.replace("/v1", ""),
                "/" + path,
                path + "/../" * 50,
                path + "%00",
                "/v1/%C3%A9%FF",
            ]
        )
    (over_h2 if rng.random() < 0.2 else over_h1)(rng, case, method, path, raw)
    return case


def encode_deep(rng, body, case):
    try:
        return encode(rng, body, case)[:MOST_BODY]
    except RecursionError:
        # Deeper than Python's encoder goes: as text, which is all that matters of it.
        depth = rng.choice([1000, 5000, 100_000])
        return b'{"model": "smollm2", "messages": [], "x": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"


def run(case, port):
    """Sends a case. `error` of the reply says what was not as it has to be."""
    begin, reply, data, error, sent_s = time.monotonic(), frames.Reply(), b"", "", None
    try:
        with frames.connect(port, PATIENCE_S) as stream:
            gone = False
            for step, *value in case.steps:
                if step == "send" and not frames.send(stream, value[0]):
                    gone = True
                elif step == "wait":
                    time.sleep(value[0])
                elif step == "read":
                    stream.settimeout(5)
                    data += stream.recv(value[0])
                elif step == "rst":
                    frames.reset(stream)
                if step == "rst" or gone:
                    break
            sent_s = time.monotonic() - begin
            if case.owed or stream.fileno() >= 0:
                reply, error = finish(case, stream, data)
    except OSError as broken:
        error = f"{type(broken).__name__}: {broken}"
    reply.late = (time.monotonic() - begin if sent_s is None else sent_s) > LATE_S
    reply.error = error if case.owed and not reply.late else ""
    reply.seconds, reply.name = time.monotonic() - begin, str(case.number)
    return reply


def finish(case, stream, data):
    stream.settimeout(PATIENCE_S if case.owed else 3)
    if not case.http2:
        reply = frames.parse(*(lambda got: (data + got[0], got[1]))(frames.receive(stream)))
        return reply, reply.error
    connection = frames.H2.__new__(frames.H2)
    connection.socket, connection.held, connection.error, connection.goaway = stream, data, "", None
    connection.status, connection.ended, connection.body = {}, {}, {}
    connection.run(lambda: 1 in connection.ended or connection.goaway is not None, PATIENCE_S if case.owed else 1)
    error = "" if connection.ended.get(1) == 0 else f"no end of stream 1 {connection.error}".strip()
    return frames.Reply(connection.status.get(1, 0), connection.body.get(1, b"")), error


def seeds():
    """Numbers that once found something."""
    lines = SEEDS.read_text().splitlines() if SEEDS.exists() else []
    return [int(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]
