"""A GPU's code on Mesa's software driver: slow kernels, but the backend and the offload of a real one.
`make gpu-test` builds what it needs and runs it."""

import os
import re

import openai
import pytest
from conftest import forebay
from scheduling import ask

if not os.environ.get("TEST_VULKAN"):
    pytest.skip("needs a build with Vulkan: make gpu-test", allow_module_level=True)

NOWHERE = {"VK_DRIVER_FILES": "/nowhere.json", "VK_ICD_FILENAMES": "/nowhere.json"}


def test_it_is_listed_and_what_fits_is_said(models):
    assert re.search(r"Vulkan0 \(llvmpipe.*\): [\d.]+ GiB free", forebay("devices"))
    said = forebay("fit", "--model", models["chat"])
    assert "30 of 30 layers and the output matrix on GPUs" in said and "Vulkan0: weights" in said


def test_a_driver_that_is_missing_leaves_the_cpu(start, models, monkeypatch):
    assert "Vulkan" not in forebay("devices", **NOWHERE)
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    answer = ask(start(models["chat"]), [{"role": "user", "content": "Hello."}], 4)
    assert answer.usage.completion_tokens == 4


def vectors(server, texts):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0)
    return [item.embedding for item in client.embeddings.create(model="m", input=texts).data]


def test_vectors_are_the_cpus(start, models):
    texts = ["a cat", "a kitten on a mat " * 20, "Bread is baked in an oven."]
    on_gpu, on_cpu = (vectors(start(models["embedding"], gpu_layers=layers), texts) for layers in ("all", 0))
    for one, other in zip(on_gpu, on_cpu):
        assert sum(a * b for a, b in zip(one, other)) > 0.999
