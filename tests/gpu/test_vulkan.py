"""A GPU's code on Mesa's software driver: slow kernels, but the backend and the offload of a real one.
`make gpu-test` builds what it needs and runs it."""

import os
import re
import subprocess

import openai
import pytest
from conftest import BINARY, Server
from scheduling import ask

if not os.environ.get("TEST_VULKAN"):
    pytest.skip("needs a build with Vulkan: make gpu-test", allow_module_level=True)

NOWHERE = {"VK_DRIVER_FILES": "/nowhere.json", "VK_ICD_FILENAMES": "/nowhere.json"}


def forebay(*arguments, code=0, **environment):
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **environment})
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture
def serve(tmp_path):
    """Starts servers with one model, `m`; their logs are in `log`. They end with the test."""
    servers = []

    def serve(path, *flags):
        log = open(tmp_path / f"{len(servers)}.log", "w+")
        server = Server("--model", f"m={path}", *map(str, flags), log=log)
        server.log = lambda: (log.seek(0), log.read())[1]
        servers.append(server)
        return server

    yield serve
    for server in servers:
        server.stop()


# --- Where a model goes ----------------------------------------------------------------------


def test_it_is_listed_and_what_fits_is_said(models):
    assert re.search(r"Vulkan0 \(llvmpipe.*\): [\d.]+ GiB free", forebay("devices"))
    said = forebay("fit", "--model", models["chat"])
    assert "30 of 30 layers and the output matrix on GPUs" in said and "Vulkan0: weights" in said


def test_a_driver_that_is_missing_leaves_the_cpu(serve, models, monkeypatch):
    assert "Vulkan" not in forebay("devices", **NOWHERE)
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    server = serve(models["chat"])
    assert ask(server, user("Hello."), 4).usage.completion_tokens == 4


def vectors(server, texts):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0)
    return [item.embedding for item in client.embeddings.create(model="m", input=texts).data]


def test_vectors_are_the_cpus(serve, models):
    texts = ["a cat", "a kitten on a mat " * 20, "Bread is baked in an oven."]
    on_gpu, on_cpu = (vectors(serve(models["embedding"], "--gpu-layers", n), texts) for n in ("all", 0))
    for one, other in zip(on_gpu, on_cpu):
        assert sum(a * b for a, b in zip(one, other)) > 0.999
