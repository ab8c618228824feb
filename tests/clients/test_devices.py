"""Where a model is put, as far as a machine without a GPU shows it; how that is said and refused."""

import os
import re
import sys

import openai
import pytest
from conftest import REPO, Server, forebay
from gguf import GGUFWriter
from numpy import ones

sys.path.insert(0, str(REPO / "tests/models"))
import tiny_gguf  # noqa: E402


def fit(model, *arguments):
    return forebay("fit", "--model", model, *arguments)


def test_devices_are_listed():
    assert re.search(r"CPU \(.+\): [\d.]+ [MG]iB free of [\d.]+ [MG]iB", forebay("devices"))


def test_what_would_fit_is_said_before_anything_is_loaded(models):
    chat = models["chat"]
    big = fit(chat, "--gpu", "24", "--ctx-size", "4096")
    assert "30 of 30 layers and the output matrix on GPUs" in big and ": fits" in big
    # 30 layers, 3 heads of 64 numbers, keys and values, two bytes each.
    assert f"KV cache {30 * 3 * 64 * 2 * 2 * 4096 // 2**20} MiB" in big
    eighth = fit(chat, "--gpu", "24", "--ctx-size", "4096", "--kv-type", "q8_0")
    assert f"KV cache {30 * 3 * 64 * 2 * 34 / 32 * 4096 / 2**20:.0f} MiB" in eighth
    some = fit(chat, "--gpu", "1.25", "--ctx-size", "16384")
    assert 0 < int(re.search(r"(\d+) of 30 layers on GPUs", some)[1]) < 30, some
    forced = fit(chat, "--gpu", "1.25", "--ctx-size", "65536", "--parallel", "8", "--gpu-layers", "all")
    assert "DOES NOT FIT" in forced
    assert ": 0 of 30 layers" in fit(chat, "--gpu", "24", "--gpu-layers", "0")
    shares = re.findall(r"GPU\d.*KV cache (\d+) MiB", fit(chat, "--gpu", "24", "--gpu", "12"))
    assert len(shares) == 2 and int(shares[0]) > 1.5 * int(shares[1]) > 0


def test_gpus_get_the_parts_that_they_are_given(models):
    def layers(*arguments):
        said = fit(models["chat"], *arguments, "--ctx-size", "4096")
        return [int(mib) // 3 for mib in re.findall(r"GPU\d.*KV cache (\d+) MiB", said)]

    two = ["--gpu", "24", "--gpu", "12"]
    # 4096 tokens of a layer's keys and values are 3 MiB, and the output matrix counts as one more layer.
    assert layers(*two, "--tensor-split", "1,3") == [8, 22]
    assert layers(*two, "--ts", "0,1") == [30]
    wrong = forebay("fit", "--model", models["chat"], *two, "--tensor-split", "1,1,1", code=1)
    assert "tensor_split has 3 parts, but the GPUs are 2: GPU0, GPU1; 0 leaves one out" in wrong
    wrong = forebay("check-config", "--model", models["chat"], "--main-gpu", "1", code=64)
    assert 'main_gpu: it counts with split_mode "none" alone' in wrong
    wrong = forebay("check-config", "--model", models["chat"], "--tensor-split", "1,0.0000001", code=64)
    assert "0.0000001 is less than 0.000001; 0 leaves a GPU out" in wrong
    off = ["--split-mode", "tensor", "--flash-attention", "off"]
    for settings, why in [(off, 'split_mode: "tensor" needs flash_attention'),
                          (["--kv-type", "q8_0", *off[2:]], "kv_type: quantised types need flash_attention")]:
        assert why in forebay("check-config", "--model", models["chat"], *settings, code=64)
    wrong = forebay("fit", "--model", models["chat"], *two, "--split-mode", "none", "--main-gpu", "2", code=1)
    assert "main_gpu is 2, but the GPUs are 0 to 1: GPU0, GPU1" in wrong


LAYERS = {"blk.0.attn_k.weight": (32, 32), "blk.1.attn_k.weight": (32, 32)}


def write_header(path, add, tensors=LAYERS, split=None, **numbers):
    """A GGUF file that says such numbers of itself and has two layers of 4 KiB, with attention, or other
    tensors. `split`: its number and how many files there are."""
    writer = GGUFWriter(path, "llama")
    for key, number in numbers.items():
        getattr(writer, add)("llama." + key.replace("attention_", "attention."), number)
    for key, number in zip(["split.no", "split.count"], split or []):
        writer.add_uint16(key, number)
    for name, shape in tensors.items():
        writer.add_tensor(name, ones(shape, dtype="f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


SENSIBLE = {
    "block_count": 2, "embedding_length": 32, "context_length": 2048, "attention_head_count": 4,
    "attention_head_count_kv": 2, "feed_forward_length": 64,
}


@pytest.mark.parametrize("add", ["add_uint16", "add_int32", "add_uint32", "add_uint64", "add_int64"])
def test_numbers_of_all_types_are_read(tmp_path, add):
    said = fit(write_header(tmp_path / "m.gguf", add, **SENSIBLE), "--gpu", "1", "--ctx-size", "65536")
    # 2 layers, 2 heads of 8 numbers, keys and values, two bytes each.
    assert f"KV cache {2 * 2 * 8 * 2 * 2 * 65536 // 2**20} MiB" in said


@pytest.mark.parametrize("wrong", [
    dict.fromkeys(SENSIBLE, 0), {"block_count": 0}, {"embedding_length": 0}, {"context_length": 0},
    {"attention_head_count": 0}, {"attention_head_count_kv": 0}, dict.fromkeys(SENSIBLE, 2**64 - 1),
    {"block_count": 2**32}, {"attention_head_count": 2**63},
], ids=str)
def test_a_header_that_no_model_can_have_is_refused(tmp_path, wrong):
    model = write_header(tmp_path / "m.gguf", "add_uint64", **(SENSIBLE | wrong))
    assert re.search(r"m\.gguf is not a model: its header", forebay("fit", "--model", model, code=1))


def test_a_model_in_several_files_is_planned_with_all_of_them(tmp_path):
    first, second = (tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2))
    layers = {f"blk.{layer}.attn_q.weight": (1024, 1024) for layer in range(4)}
    numbers = SENSIBLE | {"block_count": 4}
    write_header(first, "add_uint32", {}, (0, 2), **numbers)
    said = forebay("fit", "--model", first, code=1)
    assert re.search(r"cannot read .*m-00002-of-00002.gguf: No such file", said), said
    write_header(second, "add_uint32", layers, (1, 2), **numbers)
    assert "model 16 MiB: 4 of 4 layers" in fit(first, "--gpu", "24", "--ctx-size", "1024")
    assert "the first is to be named" in forebay("fit", "--model", second, code=1)


def test_the_largest_numbers_do_not_fit(tmp_path):
    numbers = SENSIBLE | {"feed_forward_length": 2**64 - 1, "embedding_length": 2**31 - 1}
    model = write_header(tmp_path / "m.gguf", "add_uint64", **numbers)
    said = fit(model, "--gpu", "24", "--gpu-layers", "all")
    assert "DOES NOT FIT" in said and "compute 17179869184.00 GiB" in said


def test_what_is_wrong_is_said(models, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 60)
    assert "is not a GGUF file" in forebay("fit", "--model", broken, code=1)
    os.mkfifo(tmp_path / "pipe.gguf")
    whole = write_header(tmp_path / "m.gguf", "add_uint32", **SENSIBLE)
    (tmp_path / "cut.gguf").write_bytes(whole.read_bytes()[:-100])
    for name, why in [("pipe.gguf", "is not a regular file"), (".", "is not a regular file"),
                      ("broken.gguf", "is not a GGUF file"), ("not-there.gguf", "No such file"),
                      ("cut.gguf", r"it has \d+ bytes, and its header wants \d+: it is cut short")]:
        for command in (["fit"], ["serve", "--port", 0, "--cache-dir", "", "--no-store"]):
            said = forebay(*command, "--model", tmp_path / name, code=1)
            assert re.search(why, said) and "it needs about" not in said, said
    # llama.cpp's own reason, and no advice about memory.
    said = forebay("serve", "--port", 0, "--cache-dir", "", "--no-store", "--model", whole, code=1)
    reason = r"llama.cpp cannot load .*m.gguf: error loading model: .*(not found|missing)"
    assert re.search(reason, said) and "it needs about" not in said, said
    wrong = forebay("check-config", "--model", models["chat"], "--gpu-layers", "some", code=64)
    assert "neither a number" in wrong
    # Far more memory than there is, and no crash.
    said = forebay("serve", "--port", 0, "--cache-dir", "", "--model", models["chat"], "--ctx-size", 16_000_000, code=1)
    assert re.search(r"it needs about \d+\.\d+ GiB and CPU has \d+\.\d+ GiB free", said), said


@pytest.mark.parametrize("layout", ["shared", "split"])
def test_batches_may_be_smaller_than_there_are_slots(start, models, layout):
    """llama.cpp aborts where a batch has no room for an output of each sequence."""
    server = start(models["chat"], batch_size=1, kv_layout=layout, parallel=3)
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0)
    message = [{"role": "user", "content": "Count to five."}]
    answer = client.chat.completions.create(model="m", messages=message, max_tokens=4)
    assert answer.usage.completion_tokens == 4


@pytest.mark.parametrize("layout", ["shared", "split"])
@pytest.mark.parametrize("kind", ["mamba", "gemma3", "jamba", "lfm2"])
def test_what_a_context_keeps_is_what_llama_cpp_allocates(models, tmp_path, monkeypatch, kind, layout):
    """States, windows and both: nothing that SmolLM2 has."""
    model = tmp_path / "m.gguf"
    tiny_gguf.main(kind, models["chat"], model)
    # So many that a state is megabytes.
    settings = ["--model", f"m={model}", "--ctx-size", 262144, "--parallel", 256, "--kv-layout", layout]
    planned = int(re.search(r"^KV cache (\d+) MiB", forebay("fit", *settings), re.M)[1])
    monkeypatch.setenv("FOREBAY_LOG__LEVEL", "llama-cpp-2=info")
    with open(tmp_path / "log", "w+") as log:
        Server(*map(str, settings), "--no-store", log=log).stop()
        log.seek(0)
        allocated = [float(mib) for mib in re.findall(r"(?:KV|RS) buffer size = +([\d.]+) MiB", log.read())]
    assert allocated and planned == pytest.approx(sum(allocated), abs=0.6)


@pytest.mark.parametrize("settings", [
    {"kv_type": "q8_0", "flash_attention": "on"}, {"kv_type": "f32", "flash_attention": "off"}, {"gpu_layers": "all"},
    {"gpu_layers": 0, "split_mode": "none"},
])
def test_answers_do_not_depend_on_it(start, models, steady, settings):
    server = start(models["chat"], parallel=4, speculate=False, reproducible=True, **settings)
    ask = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 8, "temperature": 0}
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0)
    text = client.chat.completions.create(model="m", **ask).choices[0].message.content
    usual = steady.client.chat.completions.create(model="smollm2", **ask).choices[0].message.content
    assert text[:6] == usual[:6]  # Rounding decides the words after "1. Red: ".


def test_the_health_check_knows_ready_from_not(start, models):
    server = start(models["chat"])
    forebay("healthcheck", "--port", server.port)
    server.stop()
    assert "no answer" in forebay("healthcheck", "--port", server.port, code=1)
