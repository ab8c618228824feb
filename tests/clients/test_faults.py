"""What else goes wrong around engines in processes of their own: clients that do not read, a full disk, no
descriptors left, a parent that ends."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import httpx
import pytest

from conftest import BINARY, REPO
from dialects import CHAT, RESPONSES, Answer, ask, parts_at_a_near_tie, read_lines
from engines import RESTART, Meter, children, engine, health, maps, starting, wait_for
from scheduling import metric

sys.path.insert(0, str(REPO / "tests/hostile"))
from frames import H2, h1, h2_request  # noqa: E402

TOLERANCE = 1.2  # of a log probability, as in test_scheduling.py


@pytest.fixture
def start_crashing(tmp_path, models):
    with starting(tmp_path, models) as start:
        yield start


def story(**fields):
    return {"model": "m", "messages": [{"role": "user", "content": "Tell me a story of the sea."}], "max_tokens": 300,
            "temperature": 0, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}, **fields}


# --- Clients that do not read -------------------------------------------------------------------

# Each token has some 2 kB, more than fits on the way.
HEAVY = story(logprobs=True, top_logprobs=20)


def slow_h1(server, between):
    """Reads 4 kB, then waits, then reads 16 kB at a time, slowly."""
    with socket.socket() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.settimeout(120)
        stream.connect(("127.0.0.1", server.port))
        stream.sendall(h1("POST", CHAT, HEAVY))
        data = stream.recv(4096)
        between()
        while piece := stream.recv(1 << 14):
            data += piece
            time.sleep(0.002)
    head, _, rest = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


def slow_h2(server, between):
    """Has room for 4 kB and makes no more, then reads on."""
    with H2(server.port, window=4096) as connection:
        connection.send(h2_request(1, "POST", CHAT, HEAVY))
        # What is read is acknowledged: so it reads nothing.
        between()
        assert connection.run(lambda: 1 in connection.ended, 120)
        assert connection.status[1] == 200 and connection.ended[1] == 0
        return connection.body[1]


@pytest.mark.parametrize("read", [slow_h1, slow_h2])
def test_who_reads_slowly_gets_everything(start_crashing, models, read):
    server = start_crashing(parallel=2, speculate=False, reproducible=True)
    calm = ask(server.url, CHAT, HEAVY).choice()
    steps = lambda: metric(server, "forebay_engine_steps_total")
    before = steps()

    def between():
        # The engine dies in the middle, and the answer is finished long before it is read.
        wait_for(lambda: steps() > before + 40, 60, "the answer begins")
        assert steps() < before + 250
        engine(server, models["chat"]).kill()
        wait_for(lambda: steps() >= before + 250, 60, "the answer goes on")
        time.sleep(2)

    answer = Answer(status=200)
    read_lines(answer, CHAT, read(server, between).decode().split("\n"))
    assert answer.whole and answer.error is None and answer.completion_tokens == 300 and answer.pauses <= 1
    choice = answer.choice()
    assert choice.finishes == ["length"] and len(choice.tokens) == 300
    assert "".join(entry["token"] for entry in choice.tokens) == choice.text
    assert parts_at_a_near_tie(calm, choice.parts(), TOLERANCE)


def H1(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


# --- A full disk --------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder):
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk needs root")
    try:
        yield folder
    finally:
        # Lazily: a server that is killed has the file open a moment longer.
        subprocess.run(["umount", "--lazy", folder], check=True)


def respond(server, **fields):
    return ask(server.url, RESPONSES, {"model": "m", "input": "Hello there. " * 400, "max_output_tokens": 2, **fields})


def http(server, method, path, body=b""):
    with H1(server) as stream:
        stream.sendall(h1(method, path, body))
        head, _, rest = b"".join(iter(lambda: stream.recv(1 << 16), b"")).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(rest)


def test_a_full_disk_keeps_nothing_and_answers_all(start_crashing, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        server = start_crashing(parallel=2, more=f'[store]\npath = "{disk}/kept.sqlite"\n')
        kept = http(server, "POST", RESPONSES, {"model": "m", "input": "Hello", "max_output_tokens": 2})[1]
        with contextlib.suppress(OSError), open(disk / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        for i in range(12):
            answer = respond(server, stream=i % 2 == 0)
            assert (answer.status == 200 and answer.whole) or answer.status >= 500, answer
        status, body = http(server, "POST", RESPONSES, {"model": "m", "input": "Hello " * 300, "max_output_tokens": 2})
        found = http(server, "GET", f"{RESPONSES}/{body['id']}")[0] if status == 200 else None
        print(f"with a full disk: {status}, store {body.get('store')}, then {found}; "
              f"a conversation: {http(server, 'POST', '/v1/conversations', {})}")
        assert ask(server.url, CHAT, story(max_tokens=4)).completion_tokens == 4
        assert respond(server, store=False).whole
        assert health(server) == (200, "ok") and server.process.poll() is None
        # What was kept before can be read; with room again, things are kept again.
        assert http(server, "GET", f"{RESPONSES}/{kept['id']}")[0] == 200
        (disk / "ballast").unlink()
        again = http(server, "POST", RESPONSES, {"model": "m", "input": "Hello", "max_output_tokens": 2})[1]
        assert http(server, "GET", f"{RESPONSES}/{again['id']}")[0] == 200
        # What is not kept does not say that it is.
        assert status >= 500 or body["store"] is False or found == 200


def test_a_file_that_may_not_grow_is_a_full_disk(start_crashing, tmp_path):
    server = start_crashing(parallel=2, more=f'[store]\npath = "{tmp_path}/kept.sqlite"\n')
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))
    for _ in range(12):
        answer = respond(server)
        assert answer.status == 200 or answer.status >= 500
    assert health(server) == (200, "ok") and server.process.poll() is None


# --- No descriptors left ------------------------------------------------------------------------


def test_an_engine_comes_back_when_descriptors_have_run_out(start_crashing, models):
    """It needs some for its socket and its start, when connections have taken all there are."""
    server, meter = start_crashing(parallel=2, server="header_timeout_s = 60"), Meter()
    pid = server.process.pid
    used = lambda: len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))
    with ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as connections:
        streams = [pool.submit(ask, server.url, CHAT, story(max_tokens=400), on_event=meter) for _ in range(2)]
        meter.wait(20)
        for _ in range(130):
            connection = connections.enter_context(H1(server))
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
        wait_for(lambda: used() == 64, 10, "all descriptors are taken")
        engine(server, models["chat"]).kill()
        # The connections are there for longer than it takes to try.
        for _ in range(30):
            time.sleep(0.1)
            assert server.process.poll() is None, "the server has ended"
        print(f"while there are no descriptors: {[child.pid for child in children(server)]}")
        connections.close()
        engine(server, models["chat"], patience=RESTART)
        for stream in streams:
            answer = stream.result(timeout=120)
            assert answer.whole and answer.completion_tokens == 400 and answer.pauses == 1, answer
    assert health(server) == (200, "ok")


# --- The end of the parent ----------------------------------------------------------------------


def gone(processes):
    alive = lambda p: p.is_running() and p.status() != psutil.STATUS_ZOMBIE
    still = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if alive(process):
                still.append(process)
    return not still


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", ["streams run", "a child is stopped"])
def test_no_child_outlives_its_parent(start_crashing, models, number, moment):
    server, meter = start_crashing(parallel=2, embeddings=True, server="drain_timeout_s = 2"), Meter()
    both = children(server)
    assert len(both) == 2
    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(ask, server.url, CHAT, story(max_tokens=3000), on_event=meter) for _ in range(4)]
        meter.wait(10)
        if moment == "a child is stopped":
            engine(server, models["chat"]).send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        server.process.send_signal(number)
        # The drain, a second to read its error, and five until it ends whatever hangs.
        server.process.wait(timeout=2 + 1 + 5 + 5)
        ended = time.monotonic() - begin
        wait_for(lambda: gone(both), 5, "no child is left")
        print(f"{number.name}, {moment}: the parent ended after {ended:.2f} s, the children after "
              f"{time.monotonic() - begin:.2f} s")
        for stream in streams:
            answer = None
            with contextlib.suppress(OSError, ValueError, httpx.HTTPError):
                answer = stream.result(timeout=30)
            assert answer is None or not answer.whole
    assert server.process.returncode == (0 if number == signal.SIGTERM else -9)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("stopped", [False, True], ids=["loads", "stopped while it loads"])
def test_no_loading_child_outlives_its_parent(models, tmp_path, number, stopped):
    (tmp_path / "forebay.toml").write_text(
        f'[server]\nengine_processes = true\ndrain_delay_s = 0\ndrain_timeout_s = 2\n[[model]]\nname = "m"\n'
        f'path = "{models["chat"]}"\n')
    command = [BINARY, "serve", "--port", "0", "--cache-dir", "", "--config", str(tmp_path / "forebay.toml")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        parent = psutil.Process(process.pid)
        wait_for(parent.children, 10, "a child")
        (child,) = parent.children()
        time.sleep(0.2)
        if stopped:
            child.send_signal(signal.SIGSTOP)
        process.send_signal(number)
        begin = time.monotonic()
        process.wait(timeout=2 + 1 + 5 + 5)
        ended = time.monotonic() - begin
        wait_for(lambda: gone([child]), 5, "no child is left")
        print(f"{number.name}: the parent ended after {ended:.2f} s, the child after {time.monotonic() - begin:.2f} s")
    finally:
        process.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


# --- Memory -------------------------------------------------------------------------------------


def test_the_parent_is_small_and_has_no_model(start_crashing, models):
    server, meter = start_crashing(parallel=8, embeddings=True), Meter()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, server.url, CHAT, story(max_tokens=30), on_event=meter) for _ in range(8)]
        assert all(one.result().whole for one in asked)
    rss = psutil.Process(server.process.pid).memory_info().rss / 1e6
    print(f"the parent has {rss:.1f} MB; its children "
          f"{[round(child.memory_info().rss / 1e6) for child in children(server)]} MB")
    assert ".gguf" not in Path(f"/proc/{server.process.pid}/maps").read_text()
    assert all(maps(engine(server, path).pid, path) for path in models.values())
    assert rss < 60
