"""All of a GPU's code on Mesa's software driver: slow kernels, but the backend, the offload and the KV layout
of a real one. `make gpu-test` builds what it needs and runs it."""

import os
import re
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import check
import openai
import pytest
from conftest import BINARY, REPO, forebay
from engines import children
from scheduling import ask, cached, metric, same_text

if not os.environ.get("TEST_VULKAN"):
    pytest.skip("needs a build with Vulkan: make gpu-test", allow_module_level=True)

# Of a log probability: sums are added up in another order than on a CPU, and partly with fewer bits.
TOLERANCE = 0.15
HEAD = "You are a careful teacher who answers with short words. " * 12
TOPICS = ["the sea", "a train", "bread", "winter", "a lighthouse", "music", "an old clock", "rain"]
NOWHERE = {"VK_DRIVER_FILES": "/nowhere.json", "VK_ICD_FILENAMES": "/nowhere.json"}


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def tiny(models, tmp_path_factory):
    """Models of a few layers, with random weights and a real vocabulary, by kind."""
    folder = tmp_path_factory.mktemp("tiny")

    def made(kind):
        out = folder / f"{kind}.gguf"
        if not out.exists():
            tiny_gguf, random_gguf = (REPO / "tests/models" / name for name in ("tiny_gguf.py", "random_gguf.py"))
            command = [tiny_gguf, kind, models["chat"], out]
            if kind == "llama":
                command = [random_gguf, out, "--shape", "tiny-qwen", "--vocabulary", models["chat"]]
            subprocess.run([sys.executable, *command], check=True)
        return str(out)

    return made


@pytest.fixture(autouse=True)
def llama_cpp_tells(monkeypatch):
    monkeypatch.setenv("FOREBAY_LOG__LEVEL", "info,llama-cpp-2=info")


def placed(server):
    """Weights and KV cache on each device in MiB, as llama.cpp's log has them; the plan has to say the same."""
    log = server.log.read_text()
    planned = {device: (float(weights), float(kv)) for device, weights, kv in re.findall(
        r"(Vulkan\d): weights ([\d.]+) MiB \+ KV cache ([\d.]+) MiB", log)}
    weights, kv = ({}, {})
    for device, what, mib in re.findall(r"(Vulkan\d) (model|KV|RS) buffer size = +([\d.]+) MiB", log):
        found = weights if what == "model" else kv
        found[device] = found.get(device, 0) + float(mib)
    assert planned.keys() == weights.keys() == kv.keys(), log
    for device, (planned_weights, planned_kv) in planned.items():
        assert planned_weights == pytest.approx(weights[device], abs=1), log
        assert planned_kv == pytest.approx(kv[device], abs=1), log
    return planned


# --- Where a model goes ----------------------------------------------------------------------


def test_it_is_listed_and_what_fits_is_said(models):
    assert re.search(r"Vulkan0 \(llvmpipe.*\): [\d.]+ GiB free", forebay("devices"))
    said = forebay("fit", "--model", models["chat"])
    assert "30 of 30 layers and the output matrix on GPUs" in said and "Vulkan0: weights" in said


def test_a_driver_that_is_missing_leaves_the_cpu(start, models, monkeypatch):
    assert "Vulkan" not in forebay("devices", **NOWHERE)
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    server = start(models["chat"])
    assert ask(server, user("Hello."), 4).usage.completion_tokens == 4


@pytest.mark.parametrize("layers", ["all", "12"])
def test_answers_are_the_cpus(models, layers):
    """Ten prompts, greedy: they part at near ties alone."""
    assert check.main(BINARY, models["chat"], layers=layers, tokens=8) == 0


def test_as_many_layers_as_fit(start, models):
    """The driver says that it has 2 GiB; all but a little is to stay free."""
    server = start(models["chat"], gpu_margin_mib=1700, ctx_size=8192)
    layers = int(re.search(r"(\d+) of 30 layers on GPUs", server.log.read_text())[1])
    assert 0 < layers < 30, server.log.read_text()
    assert ask(server, user("Hello."), 4, extra_body={"ignore_eos": True}).usage.completion_tokens == 4


def test_two_devices_share_a_model(start, models, monkeypatch):
    """The same driver twice."""
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0,0")
    # Both have the same free memory, and llama.cpp counts the output matrix as one more layer than the 30: one device
    # gets 16 layers, the other one 14 and the output matrix. A layer's KV cache takes 3 MiB.
    server = start(models["chat"], gpu_layers="all", ctx_size=4096)
    assert [kv // 3 for _, kv in placed(server).values()] == [16, 14]
    given = start(models["chat"], gpu_layers="all", ctx_size=4096, tensor_split=[1, 3])
    assert [kv // 3 for _, kv in placed(given).values()] == [8, 22]
    assert list(placed(start(models["chat"], gpu_layers="all", tensor_split=[0, 1]))) == ["Vulkan1"]
    one = start(models["chat"], gpu_layers="all", split_mode="none", main_gpu=1)
    assert list(placed(one)) == ["Vulkan1"]
    for setting, why in [("--tensor-split=1,1,1", "tensor_split has 3 parts, but the GPUs are 2: Vulkan0, Vulkan1"),
                         ("--split-mode=none --main-gpu=2", "main_gpu is 2, but the GPUs are 0 to 1")]:
        assert why in forebay("serve", "--port", 0, "--model", models["chat"], *setting.split(), code=1)


@pytest.mark.parametrize("kind", ["mamba", "gemma3", "jamba"])
def test_what_keeps_states_or_windows_is_planned_as_well(start, tiny, kind):
    [(_, kv)] = placed(start(tiny(kind), gpu_layers="all", ctx_size=262144, parallel=128)).values()
    assert kv > 1


def test_an_encoder_is_planned_as_well(start, models):
    """It has no output matrix, and keeps nothing of tokens."""
    log = start(models["embedding"], gpu_layers="all").log.read_text()
    planned, kv = re.search(r"Vulkan0: weights ([\d.]+) MiB \+ KV cache (\d+) MiB", log).groups()
    real = re.search(r"Vulkan0 model buffer size = +([\d.]+) MiB", log)[1]
    assert float(planned) == pytest.approx(float(real), abs=1) and kv == "0"


def test_answers_do_not_depend_on_the_devices(start, tiny, monkeypatch):
    path = tiny("llama")
    alone = ask(start(path, gpu_layers="all"), user("Tell me about rain."), 16)
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0,0")
    for settings in [{}, {"tensor_split": [1, 3]}, {"split_mode": "none", "main_gpu": 1}]:
        same_text(alone, ask(start(path, gpu_layers="all", **settings), user("Tell me about rain."), 16), TOLERANCE)


def test_every_layer_is_spread_over_two_devices(start, models, monkeypatch):
    """llama.cpp's tensor parallelism, with what leaves the cells kept in host memory."""
    rain = user("Tell me about rain. " * 12)
    alone = ask(start(models["chat"], gpu_layers="all"), rain, 4)
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0,0")
    server = start(models["chat"], gpu_layers="all", split_mode="tensor", parallel=2, ctx_size=160)
    same_text(alone, ask(server, rain, 4), TOLERANCE)
    for other in ["An old clock. ", "A lighthouse. "]:
        ask(server, user(other * 24), 1)
    again = ask(server, rain, 4)
    assert metric(server, "forebay_prefix_evictions_total") > 0 and cached(again) > 40
    same_text(alone, again, TOLERANCE)


def test_experts_stay_on_the_cpu(start, tiny):
    """The rest of their layers is on the device. This driver dies of experts, so none are computed there."""
    path, rain = tiny("qwen3moe"), user("Tell me about rain.")
    # 3 matrices of 8 experts, each 256 x 64, of 4 bytes.
    experts = 3 * 8 * 256 * 64 * 4 / 2**20
    on_device = {}
    for layers in (0, 4, 6):
        server = start(path, gpu_layers="all", ctx_size=4096, cpu_moe_layers=layers)
        [on_device[layers]] = placed(server).values()
        assert ("experts of the first" in server.log.read_text()) == (layers > 0)
    for layers in (4, 6):
        assert on_device[layers][0] == pytest.approx(on_device[0][0] - layers * experts, abs=1)
        assert on_device[layers][1] == on_device[0][1]
    same_text(ask(server, rain, 12), ask(start(path, gpu_layers=0), rain, 12), TOLERANCE)


# --- What is computed there ------------------------------------------------------------------


def test_beginnings_are_shared_and_answers_stay_the_same(start, tiny):
    """The layout of a GPU: one pool of cells, where a beginning is there once."""
    server = start(tiny("llama"), gpu_layers="all", parallel=4, ctx_size=8192)
    asks = [[{"role": "system", "content": HEAD}, *user(f"Tell me about {topic}.")] for topic in TOPICS[:5]]
    alone = [ask(server, one, 8, extra_body={"cache_salt": str(n)}) for n, one in enumerate(asks)]
    assert not any(cached(answer) for answer in alone)
    with ThreadPoolExecutor(len(asks)) as pool:
        together = list(pool.map(lambda one: ask(server, one, 8), asks))
    shared = sum(cached(answer) > 100 for answer in together)
    assert shared >= len(asks) - 1, [cached(answer) for answer in together]
    same = sum(same_text(a, b, TOLERANCE) for a, b in zip(alone, together))
    print(f"{same} of {len(asks)} the same")
    choices = ask(server, asks[0], 8, n=3)
    assert len({choice.message.content for choice in choices.choices}) == 1


def test_when_the_cells_are_full_answers_wait_and_go_on(start, tiny):
    server = start(tiny("llama"), gpu_layers="all", parallel=4, ctx_size=512, kv_host_mib=64)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(
            lambda n: ask(server, user(f"{n}. Tell me about rain."), 130, extra_body={"ignore_eos": True}), range(4)))
    assert [answer.usage.completion_tokens for answer in answers] == [130] * 4
    assert metric(server, "forebay_preemptions_total") > 0


@pytest.mark.parametrize("kind", ["gemma3", "mamba", "lfm2"])
def test_checkpoints_are_saved_and_restored(start, tiny, kind):
    server = start(tiny(kind), gpu_layers="all", parallel=2, ctx_size=4096)
    first = ask(server, user(HEAD * 3), 12)
    again, other = ask(server, user(HEAD * 3), 12), ask(server, user(HEAD * 3 + "Why?"), 12)
    assert again.usage.prompt_tokens - cached(again) <= 32
    assert cached(other) >= 100
    same_text(first, again, TOLERANCE)


def vectors(server, texts):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0)
    return [item.embedding for item in client.embeddings.create(model="m", input=texts).data]


def test_vectors_are_the_cpus(start, models):
    texts = ["a cat", "a kitten on a mat " * 20, "Bread is baked in an oven."]
    on_gpu, on_cpu = (vectors(start(models["embedding"], gpu_layers=n), texts) for n in ("all", 0))
    for one, other in zip(on_gpu, on_cpu):
        assert sum(a * b for a, b in zip(one, other)) > 0.999


def test_scores_are_the_cpus(start, models, tmp_path):
    model = tmp_path / "ranker.gguf"
    subprocess.run([sys.executable, REPO / "tests/models/ranker.py", models["embedding"], model], check=True)
    body = {"model": "m", "query": "What is a panda?", "documents": TOPICS}

    def scores(layers):
        client = openai.OpenAI(base_url=start(model, gpu_layers=layers).url + "/v1", api_key="x", max_retries=0)
        results = client.post("/rerank", body=body, cast_to=object)["results"]
        return [each["relevance_score"] for each in sorted(results, key=lambda each: each["index"])]

    assert scores("all") == pytest.approx(scores(0), abs=0.01)


# --- What goes wrong --------------------------------------------------------------------------


def test_what_the_device_cannot_hold_is_refused(models):
    """The driver itself promises any memory, and the process is killed when it uses it."""
    said = forebay("serve", "--port", 0, "--cache-dir", "", "--model", models["chat"], "--gpu-layers", "all",
                   "--ctx-size", 4_000_000, code=1)
    assert re.search(r"Vulkan0 has 2.00 GiB in all, and cannot hold 92 MiB of weights and 85.\d+ GiB of KV cache; it "
                     r"needs about [\d.]+ GiB", said), said


@pytest.mark.parametrize("gib", [2.4, 1.5])
def test_an_allocation_that_fails_at_load_says_what_is_needed(models, gib):
    """The system gives the process less memory than the driver promises."""
    limit = int(gib * 2**30)
    said = forebay("serve", "--port", 0, "--cache-dir", "", "--no-store", "--model", models["chat"], "--gpu-layers", "all",
                   "--ctx-size", 65536, code=1, before=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert re.search(r"cannot make a context of 65536 tokens: .*alloc.*; it needs about 1\.\d+ GiB and Vulkan0 has 2.00 GiB free", said)


def test_an_allocation_that_fails_while_it_runs_costs_nobody_else(start, models):
    """The engine's process gets no more memory from the system and dies of it: another one goes on."""
    server = start(models["chat"], gpu_layers="all", parallel=2, ctx_size=4096)
    assert ask(server, user("Hello."), 2).usage.completion_tokens == 2
    engine = children(server)[0].pid
    resource.prlimit(engine, resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
    assert ask(server, user("Bread. " * 16), 2).usage.completion_tokens == 2
    after = [child.pid for child in children(server)]
    print(f"engine {engine}, then {after}")
    assert engine not in after, "it went on without memory: nothing was tested"
