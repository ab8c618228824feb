"""What steps cost is kept between starts, in files that may be anything and a directory that may not be there."""

import json
import os
import re
import signal
import time

import openai
import psutil
import pytest

from conftest import Server


def children(server):
    return psutil.Process(server.process.pid).children()


def run(models, folder, cache_dir, number, *flags, then=lambda server: None):
    """Starts a server, asks it a few things, stops it: its log."""
    path = folder / f"log-{number}"
    with open(path, "w") as log:
        # One thread does not wait for another that has no core, whatever else the machine does.
        command = ["--model", f"m={models['chat']}", "--parallel", "2", "--threads", "1", *flags]
        server = Server(*command, "--log-level", "info,forebay_server=debug", log=log, cache_dir=cache_dir)
    try:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, timeout=60)
        for word in ("red", "green", "blue"):
            answer = client.completions.create(model="m", prompt=f"The colour {word} is " * 20, max_tokens=20)
            assert answer.usage.completion_tokens
        # Engines send their costs every two seconds.
        time.sleep(2.5)
        then(server)
    finally:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=30) == 0
    return path.read_text()


def used(log):
    """With how many samples engines started, one after the other."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    return [int(line[1]) for line in re.finditer(r"restored learned costs.*samples=(\d+)", plain)]


def files(cache_dir):
    return sorted((cache_dir / "costs").iterdir())


def test_a_start_goes_on_from_what_was_kept(models, tmp_path):
    cache = tmp_path / "cache"
    assert used(run(models, tmp_path, cache, 1)) == []
    (file,) = files(cache)
    assert file.suffix == ".json" and file.stat().st_mode & 0o777 == 0o600
    kept = json.loads(file.read_text())
    samples = sum(len(kind) for kind in kept["costs"].values())
    assert kept["costs"]["rows"] and samples > 3
    assert used(run(models, tmp_path, cache, 2)) == [samples]
    # Other settings are other costs.
    assert used(run(models, tmp_path, cache, 3, "--ctx-size", "2048")) == []
    assert len(files(cache)) == 2

    # In the server's own process.
    plain = tmp_path / "plain.toml"
    plain.write_text("[server]\nengine_processes = false\n")
    assert len(used(run(models, tmp_path, cache, 4, "--config", str(plain)))) == 1


def test_what_was_learned_last_is_kept(models, tmp_path):
    def ask(server):
        # After all that was sent before: a decode step this deep is new, and the server is stopped at once.
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, timeout=60)
        answer = client.completions.create(model="m", prompt="red green " * 300, max_tokens=4)
        assert answer.usage.prompt_tokens > 500

    run(models, tmp_path, tmp_path / "cache", 1, then=ask)
    (file,) = files(tmp_path / "cache")
    rows = json.loads(file.read_text())["costs"]["rows"]
    assert max(row["depth"] / row["tokens"] for row in rows) > 500


def test_the_next_engine_goes_on_from_what_was_learned(models, tmp_path):
    def kill(server):
        (child,) = children(server)
        child.kill()
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, timeout=60)
        until = time.monotonic() + 30
        while not [now for now in children(server) if now.pid != child.pid]:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert client.completions.create(model="m", prompt="Red is", max_tokens=5).usage.completion_tokens

    (samples,) = used(run(models, tmp_path, "", 1, then=kill))
    assert samples > 3


@pytest.mark.parametrize("content", [
    b"\0\xff" * 1000, b"[" * 50_000, b" " * (2 << 20),
], ids=["bytes", "deep", "large"])
def test_a_broken_file_is_ignored_and_replaced(models, tmp_path, content):
    cache = tmp_path / "cache"
    run(models, tmp_path, cache, 1)
    (file,) = files(cache)
    file.write_bytes(content)
    log = run(models, tmp_path, cache, 2)
    assert used(log) == [] and "kept costs are ignored" in log
    assert json.loads(file.read_text())["costs"]["rows"]


def unwritable(tmp_path):
    """A directory in which nobody can make files, root included."""
    return "/proc/forebay" if os.geteuid() == 0 else readonly(tmp_path)


def readonly(tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    return folder


def test_without_a_directory_to_write_in_it_serves_all_the_same(models, tmp_path):
    log = run(models, tmp_path, unwritable(tmp_path), 1)
    assert used(log) == [] and log.count("cannot write learned costs") == 1


def test_nothing_is_kept_if_that_is_asked_for(models, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    before = dict(os.environ)
    try:
        os.environ.update(HOME=str(home), XDG_CACHE_HOME=str(home / "cache"))
        run(models, tmp_path, "", 1)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert list(home.iterdir()) == []
