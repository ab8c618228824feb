"""What the GPU measurement is made of, as far as it runs without one: the made-up model is a model,
and the comparison of a program with itself finds it the same."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BINARY, required

GPU = Path(__file__).resolve().parent / "gpu"


def run(script, *arguments):
    command = [sys.executable, str(GPU / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["q4_k_m", "q8_0"])
def test_the_made_up_model_is_measured(tmp_path, kind):
    model, out = tmp_path / "tiny.gguf", tmp_path / "figures.json"
    run("../models/random_gguf.py", model, "--kind", kind, "--shape", "tiny")
    run("measure.py", "--forebay", BINARY, "--peer", BINARY, "--model", model, "--streams", 1, 4, "--prompt", 64,
        "--tokens", 16, "--vocab", 2000, "--rounds", 1, "--gpu-layers", 0, "--out", out)
    [measured] = json.loads(out.read_text())["rounds"]
    assert [scenario for scenario, _ in measured] == ["1 streams", "4 streams", "shared prefix", "mixed"]
    for _, sides in measured:
        for values in sides.values():
            assert values["tokens/s"] > 0 and values["ttft p50"] > 0
            assert values["forward ms"] > values["plan ms"] > 0 and values["step_tokens"] > 0
    table = run("report.py", out)
    assert re.search(r"\| 4 streams: ttft p50, ms \| [\d.]+ \| [\d.]+ \| \d+\.\d\d \|", table), table
    parts = re.search(r"\| a step of ours, ms \| tokens \| (.*) \|", table)[1].split(" | ")
    assert sorted(parts) == ["forward", "kv", "plan", "sample", "send"]


@pytest.mark.parametrize("sampling, verdict", [(3.4, "halves do not pay"), (3.6, "halves pay")])
def test_whether_sampling_is_worth_overlapping(tmp_path, sampling, verdict):
    ours = {"tokens/s": 1.0, "sample ms": sampling}
    measured = {"title": "m", "rounds": [[["64 streams", {"forebay": ours, "peer": {"tokens/s": 1.0}}]]]}
    samples = [{"rows": rows, "chunk": 0, "depth": 512, "ms": ms} for rows, ms in ((32, 6.0), (64, 8.5))]
    for name, content in (("figures.json", measured), ("costs.json", {"samples": samples, "logits": [{"rows": 64, "ms": 1.2}]})):
        (tmp_path / name).write_text(json.dumps(content))
    said = run("report.py", tmp_path / "figures.json", "--costs", tmp_path / "costs.json")
    assert f"two passes of 32 rows take 12.00 ms, one of 64 and its sampling 8.50 + {sampling:.2f} ms: {verdict}" in said
    assert "All logits add 1.20 ms to the pass." in said


def test_no_round_begins_that_would_not_end_in_time(tmp_path):
    model, out = tmp_path / "tiny.gguf", tmp_path / "figures.json"
    run("../models/random_gguf.py", model, "--shape", "tiny")
    said = run("measure.py", "--forebay", BINARY, "--peer", BINARY, "--model", model, "--streams", 2, "--prompt", 32,
               "--tokens", 8, "--vocab", 2000, "--rounds", 50, "--seconds", 6, "--gpu-layers", 0, "--out", out)
    assert "no time for round" in said and 0 < len(json.loads(out.read_text())["rounds"]) < 50


def test_a_program_agrees_with_itself():
    assert "10 of 10 equal, 0 differ" in run("check.py", BINARY, required("TEST_CHAT_MODEL"))
