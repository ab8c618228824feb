"""The real binary with the real models, once for all tests."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import openai
import pytest

REPO = Path(__file__).resolve().parent.parent
BINARY = os.environ.get("TEST_BINARY", str(REPO / "target/release/forebay"))


def required(name):
    value = os.environ.get(name)
    if not value:
        pytest.exit(f"{name} is not set; `make test` sets it", returncode=2)
    return value


def forebay(*arguments, code=0, before=None, **environment):
    """What the program prints with these arguments, and more environment; it has to end with `code`. `before` is called
    in the new process."""
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **environment}, preexec_fn=before)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


class Server:
    """A running server. `url` has no /v1. It keeps nothing for the next one, unless there is a cache directory."""

    def __init__(self, *flags, log=None, cache_dir=""):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [BINARY, "serve", "--port", str(self.port), "--cache-dir", str(cache_dir), *flags]
        self.process = subprocess.Popen(command, stderr=log or subprocess.DEVNULL)
        self.wait_until_ready()

    def wait_until_ready(self):
        for _ in range(600):
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}")
            try:
                urllib.request.urlopen(self.url + "/health", timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("the server is not ready after a minute")

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture(scope="session")
def models():
    chat, embedding = (required(f"TEST_{kind}_MODEL") for kind in ("CHAT", "EMBEDDING"))
    return {"chat": chat, "embedding": embedding}


@pytest.fixture(scope="session")
def server(models, tmp_path_factory):
    config = tmp_path_factory.mktemp("config") / "forebay.toml"
    config.write_text(
        f"""
        [server]
        drain_delay_s = 0
        [[model]]
        name = "smollm2"
        path = "{models['chat']}"
        aliases = ["gpt-4o", "org/model:7b"]
        parallel = 8
        # Clients compare texts that they ask for twice.
        reproducible = true
        [[model]]
        name = "minilm"
        path = "{models['embedding']}"
        aliases = ["text-embedding-3-small"]
        """
    )
    server = Server("--config", str(config))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0)


@pytest.fixture(scope="session")
def steady(models, tmp_path_factory):
    """The same chat model without drafts, and reproducible: drafts change no text but where two tokens are nearly tied,
    and how many there are depends on how busy the machine is. For tests that compare texts."""
    config = tmp_path_factory.mktemp("config") / "steady.toml"
    config.write_text(
        f"""
        [server]
        drain_delay_s = 0
        [[model]]
        name = "smollm2"
        path = "{models['chat']}"
        parallel = 4
        speculate = false
        reproducible = true
        """
    )
    server = Server("--config", str(config))
    server.client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, timeout=120)
    yield server
    server.stop()


@pytest.fixture
def start(tmp_path):
    """Starts servers with one model, `m`, and given settings; they end with the test. Each has its `log`, a file."""
    servers = []

    def start(path, **settings):
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
        config = tmp_path / f"{len(servers)}.toml"
        config.write_text(f'[server]\ndrain_delay_s = 0\n[[model]]\nname = "m"\npath = "{path}"\n{lines}\n')
        log = tmp_path / f"{len(servers)}.log"
        with log.open("w") as file:
            servers.append(Server("--config", str(config), log=file))
        servers[-1].log = log
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
