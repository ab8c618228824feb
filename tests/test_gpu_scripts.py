"""What the GPU measurement is made of, as far as it runs without one: the made-up model is a model,
and the comparison of a program with itself finds it the same."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BINARY, REPO, forebay, required

GPU = Path(__file__).resolve().parent / "gpu"
sys.path.insert(0, str(GPU))
import measure  # noqa: E402


def run(script, *arguments):
    command = [sys.executable, str(GPU / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_made_up_model_is_measured(tmp_path):
    model, out = tmp_path / "tiny.gguf", tmp_path / "figures.json"
    run("../models/random_gguf.py", model, "--shape", "tiny")
    run("measure.py", "--forebay", BINARY, "--peer", BINARY, "--model", model, "--streams", 1, 4, "--prompt", 64,
        "--tokens", 16, "--vocab", 2000, "--rounds", 1, "--gpu-layers", 0, "--out", out)
    [measured] = json.loads(out.read_text())["rounds"]
    assert [scenario for scenario, _ in measured] == ["1 streams", "4 streams", "shared prefix", "mixed"]
    for _, sides in measured:
        for values in sides.values():
            assert values["tokens/s"] > 0 and values["ttft p50"] > 0
            assert values["forward ms"] > values["plan ms"] > 0 and values["step_tokens"] > 0
    table = run("summary.py", out)
    assert re.search(r"\| 4 streams: ttft p50, ms \| [\d.]+ \| [\d.]+ \| \d+\.\d\d \|", table), table
    parts = re.search(r"\| a step of ours, ms \| tokens \| (.*) \|", table)[1].split(" | ")
    assert parts[0] == "all" and sorted(parts[1:]) == ["forward", "kv", "plan", "sample", "send"]


@pytest.mark.parametrize("sampling, verdict", [(3.4, "halves do not pay"), (3.6, "halves pay")])
def test_whether_sampling_is_worth_overlapping(tmp_path, sampling, verdict):
    ours = {"tokens/s": 1.0, "sample ms": sampling}
    measured = {"title": "m", "rounds": [[["64 streams", {"forebay": ours, "peer": {"tokens/s": 1.0}}]]]}
    samples = [{"rows": rows, "chunk": 0, "depth": 512, "ms": ms} for rows, ms in ((32, 6.0), (64, 8.5))]
    for name, content in (("figures.json", measured), ("costs.json", {"samples": samples, "logits": [{"rows": 64, "ms": 1.2}]})):
        (tmp_path / name).write_text(json.dumps(content))
    said = run("summary.py", tmp_path / "figures.json", "--costs", tmp_path / "costs.json")
    assert f"two passes of 32 rows take 12.00 ms, one of 64 and its sampling 8.50 + {sampling:.2f} ms: {verdict}" in said
    assert "All logits add 1.20 ms to the pass." in said


def test_what_would_not_end_in_time_is_left_out(tmp_path):
    model, out = tmp_path / "tiny.gguf", tmp_path / "figures.json"
    run("../models/random_gguf.py", model, "--shape", "tiny")
    said = run("measure.py", "--forebay", BINARY, "--peer", BINARY, "--model", model, "--streams", 2, "--prompt", 32,
               "--tokens", 8, "--vocab", 2000, "--rounds", 50, "--seconds", 8, "--gpu-layers", 0, "--out", out)
    assert re.search(r"round \d+: no time for ", said), said
    assert 0 < len(json.loads(out.read_text())["rounds"]) < 50
    assert Path(f"{out}.md").read_text() == run("summary.py", out).removesuffix("\n")


def test_a_scenario_in_which_an_engine_died_does_not_count():
    before, after = {"steps": 4.0, "step_tokens": 8.0, "deaths": 0.0}, {"steps": 6.0, "step_tokens": 14.0, "deaths": 0.0}
    assert measure.each_step(dict(before), dict(after)) == {"step_tokens": 3.0}
    with pytest.raises(measure.EngineDied):
        measure.each_step(before, after | {"deaths": 1.0})


def test_rounds_of_several_files_are_put_together(tmp_path):
    def measured(title, scenario, ours):
        sides = {"forebay": {"itl p99": ours}, "peer": {"itl p99": 60.0}}
        return {"title": title, "device": "a GPU", "date": "2026-01-01", "load": "few", "rounds": [[[scenario, sides]]]}

    files = [measured("Q4", "mixed", 10.0), measured("Q4", "mixed", 20.0), measured("Q8", "64 streams", 12.0),
             measured("Q8", "8 streams", 12.0)]
    for number, file in enumerate(files):
        (tmp_path / f"{number}.json").write_text(json.dumps(file))
    table = run("summary.py", *(tmp_path / f"{number}.json" for number in range(len(files)))).splitlines()
    assert table[0] == "a GPU, 2026-01-01, few. Medians of rounds: Q4 2, Q8 1."
    assert table[4:7] == [
        "| 8 streams: itl p99, ms |  |  |  | 12.0 | 60.0 | 5.00 |  |",
        "| 64 streams: itl p99, ms |  |  |  | 12.0 | 60.0 | 5.00 |  |",
        "| mixed: itl p99, ms | 15.0 | 60.0 | 4.00 |  |  |  | 5 |",
    ]


def copy_of_what_is_there(folder):
    """The scripts where a machine with a GPU would have them."""
    for script in [*GPU.glob("*.sh"), *GPU.glob("*.py"), REPO / "tests/models/random_gguf.py"]:
        copy = folder / script.relative_to(REPO)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(script, copy)


def test_a_call_ends_with_its_tables(tmp_path):
    """All of what is run beside a GPU, on a CPU, with the other kind of weights."""
    copy_of_what_is_there(tmp_path)
    programs = {"BACKEND": "cpu", "SHAPE": "tiny", "VOCAB": "2000", "BUDGET": "100", "FOREBAY": BINARY, "PEER": BINARY}
    out = tmp_path / "out"
    done = subprocess.run([tmp_path / "tests/gpu/run.sh", "2"], env=os.environ | programs | {"OUT": str(out)},
                          capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "FAILED" not in said, said
    assert re.search(r"a step    [\d.]+ ms", said), said
    assert "| Q8_0: ours | peer | ratio |" in (out / "summary.md").read_text()
    assert json.loads((out / "gpu.json").read_text())["samples"]
    assert len([path for path in out.rglob("*") if path.is_file()]) <= 8, "so many come back"


def test_costs_are_what_was_measured_in_time(tmp_path):
    model, out = tmp_path / "tiny.gguf", tmp_path / "costs.json"
    run("../models/random_gguf.py", model, "--shape", "tiny")
    measure_costs = ["bench", "--model", model, "--costs", out, "--kv-layout", "shared", "--seconds"]
    forebay(*measure_costs, 1)
    table = out.read_text()
    # All of them are 168.
    assert 0 < len(json.loads(table)["samples"]) < 168
    assert "nothing was measured" in forebay(*measure_costs, 0, code=1)
    assert out.read_text() == table, "a table with samples is not replaced by one without"


def test_pieces_are_put_together_or_refused(tmp_path):
    whole, folder = tmp_path / "module.so", tmp_path / "pieces"
    whole.write_bytes(os.urandom(16 << 20))
    run("pieces.py", "split", whole, folder)
    pieces = sorted(folder.iterdir())
    assert [piece.name for piece in pieces] == ["module.so.1-of-2", "module.so.2-of-2"]
    run("pieces.py", "join", folder, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == whole.read_bytes()
    pieces[1].unlink()
    done = subprocess.run([sys.executable, GPU / "pieces.py", "join", folder, tmp_path / "none"], capture_output=True, text=True)
    assert done.returncode == 1 and "holds 1 pieces" in done.stderr and not (tmp_path / "none").exists()


def test_a_program_agrees_with_itself():
    assert "10 of 10 equal, 0 differ" in run("check.py", BINARY, required("TEST_CHAT_MODEL"))
