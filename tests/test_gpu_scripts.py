"""What the GPU measurement is made of, as far as it runs without one: the made-up model is a model,
and the comparison of a program with itself finds it the same."""

import ast
import asyncio
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import BINARY, REPO, forebay, required

GPU = Path(__file__).resolve().parent / "gpu"
sys.path.insert(0, str(GPU))
import measure  # noqa: E402


def ended(command, code=0, **more):
    """What a command that ends with `code` prints."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def run(script, *arguments, python=sys.executable, code=0):
    return ended([python, GPU / script, *arguments], code)


def tiny_model(folder):
    model = folder / "tiny.gguf"
    run("../models/random_gguf.py", model, "--shape", "tiny")
    return model


def measured_in(folder, name, rounds, title="m"):
    """A file as measure.py writes it."""
    path = folder / name
    path.write_text(json.dumps({"title": title, "rounds": rounds}))
    return path


# A server that is ready and does not answer.
STUCK = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        time.sleep(60)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def stub(folder, **programs):
    """The folder, with these programs as shell scripts in it."""
    folder.mkdir(exist_ok=True)
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


def test_the_made_up_model_is_measured(tmp_path):
    model, out = tiny_model(tmp_path), tmp_path / "figures.json"
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
    parts = re.search(r"\| a step of ours, mean ms \| tokens \| (.*) \|", table)[1].split(" | ")
    assert parts[0] == "all" and sorted(parts[1:]) == ["forward", "kv", "plan", "sample", "send"]


def sampled_in(folder, sampling):
    """Figures of two models: Q8, and Q4 with these milliseconds of sampling."""
    def rounds(ms):
        return [[["64 streams", {"forebay": {"tokens/s": 1.0, "sample ms": ms}, "peer": {"tokens/s": 1.0}}]]]

    return [measured_in(folder, "q8.json", rounds(100.0), "Q8"), measured_in(folder, "q4.json", rounds(sampling), "Q4")]


def costs_in(folder, logits=()):
    """A file as `forebay bench --costs` writes it."""
    samples = [{"rows": rows, "chunk": 0, "depth": 512, "ms": ms} for rows, ms in ((32, 6.0), (64, 8.5))]
    path = folder / "costs.json"
    path.write_text(json.dumps({"shared": True, "block": 64, "samples": samples, "logits": list(logits)}))
    return path


@pytest.mark.parametrize("sampling, verdict", [(3.4, "halves do not pay"), (3.6, "halves pay")])
def test_whether_sampling_is_worth_overlapping(tmp_path, sampling, verdict):
    files = sampled_in(tmp_path, sampling)
    said = run("summary.py", *files, "--costs", f"Q4={costs_in(tmp_path, [{'rows': 64, 'ms': 1.2}])}")
    assert (f"Q4, 64 streams, 512 tokens deep: two passes of 32 rows take 12.00 ms, one of 64 and its sampling 8.50 + "
            f"{sampling:.2f} ms: {verdict}. Sampling is the mean of all steps, some of them with fewer rows. "
            "All logits add 1.20 ms to the pass.") in said
    assert said.count("two passes") == 1, "the other model has costs of its own"


def test_costs_belong_to_a_model_that_was_measured(tmp_path):
    files, costs = sampled_in(tmp_path, 3.4), costs_in(tmp_path)
    assert "no figures have the title Q5, only Q8, Q4" in run("summary.py", *files, "--costs", f"Q5={costs}", code=2)
    assert "--costs takes TITLE=COSTS.json" in run("summary.py", *files, "--costs", costs, code=2)
    assert "has no samples" in run("summary.py", *files, "--costs", f"Q4={files[0]}", code=1)


@pytest.mark.parametrize("logits", [[], [{"rows": 32, "ms": 1.0}], [{"rows": 64, "ms": float("nan")}]])
def test_what_logits_add_is_left_out_if_it_was_not_measured(tmp_path, logits):
    said = run("summary.py", *sampled_in(tmp_path, 3.4), "--costs", f"Q4={costs_in(tmp_path, logits)}")
    assert "halves do not pay" in said and "logits" not in said and "nan" not in said


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize("rounds", [
    [], [[]], [[["mixed", {}]]], [[["", {"forebay": {"itl p99": 1.0}}]]], [[["mixed", {"peer": {"itl p99": 1.0}}]]],
    [[["64 streams", {"forebay": {"itl p99": NAN, "sample ms": INFINITE, "step_tokens": None}, "peer": {"itl p99": 1.0}}]]],
])
def test_a_file_without_figures_has_no_table(tmp_path, rounds):
    files = [measured_in(tmp_path, "0.json", rounds, "Q4")]
    said = run("summary.py", *files, "--costs", f"Q4={costs_in(tmp_path)}")
    assert "Nothing was measured on both sides." in said and "|" not in said
    other = measured_in(tmp_path, "1.json", [[["mixed", {side: {"itl p99": 2.0} for side in ("forebay", "peer")}]]], "Q8")
    both = run("summary.py", *files, other)
    assert re.search(r"^\| mixed: itl p99, ms \|.* 2.0 \| 2.0 \| 1.00 \| 5 \|$", both, re.M), both
    assert not re.search("nan|inf", said + both), said + both


def test_figures_that_cannot_be_compared_have_no_ratio(tmp_path):
    rounds = [[["mixed", {"forebay": {"tokens/s": 4.0, "itl p50": 0.0, "itl p99": NAN, "ttft p50": 1e308},
                          "peer": {"tokens/s": 0.0, "itl p50": 2.0, "itl p99": 3.0, "ttft p50": 1e-308}}]]]
    table = run("summary.py", measured_in(tmp_path, "0.json", rounds))
    assert "| mixed: tokens/s | 4.0 | 0.0 |  |" in table and "| mixed: itl p50, ms | 0.0 | 2.0 |  |" in table
    assert "itl p99" not in table and not re.search("nan|inf", table), table


def test_targets_are_not_predictions(tmp_path):
    rounds = [[["mixed", {side: {"itl p99": 2.0} for side in ("forebay", "peer")}]]]
    table = run("summary.py", measured_in(tmp_path, "0.json", rounds))
    assert "| target ratio |" in table and "\nTarget ratios are those that the issue asks for, not predictions.\n" in table


def test_other_files_are_refused(tmp_path):
    assert "costs.json is another kind of file: it has no title, no rounds" in run("summary.py", costs_in(tmp_path), code=1)
    (tmp_path / "half.json").write_text('{"title"')
    assert "half.json cannot be read" in run("summary.py", tmp_path / "half.json", code=1)


def test_what_would_not_end_in_time_is_left_out(tmp_path):
    model, out = tiny_model(tmp_path), tmp_path / "figures.json"
    said = run("measure.py", "--forebay", BINARY, "--peer", BINARY, "--model", model, "--streams", 2, "--prompt", 32,
               "--tokens", 8, "--vocab", 2000, "--rounds", 50, "--seconds", 8, "--gpu-layers", 0, "--out", out)
    assert re.search(r"round \d+: no time for ", said), said
    assert 0 < len(json.loads(out.read_text())["rounds"]) < 50
    assert Path(f"{out}.md").read_text() == run("summary.py", out).removesuffix("\n")


@pytest.mark.parametrize("program, reason", [
    (BINARY, "was not ready within 0 s"), ("slow", "was not ready within 1 s"), ("stuck", "not loaded and warmed up within 2 s")])
def test_a_time_shorter_than_loading_is_an_error(tmp_path, program, reason):
    """`slow` is never ready, `stuck` never answers."""
    seconds = int(reason.split()[-2])
    if program != BINARY:
        stubs = {"slow": "exec sleep 60", "stuck": f"exec {sys.executable} {tmp_path}/stuck.py \"$@\""}
        program = stub(tmp_path / "bin", **stubs) / program
        (tmp_path / "stuck.py").write_text(STUCK)
    said = run("measure.py", "--forebay", program, "--peer", program, "--model", tmp_path / "any.gguf", "--streams", 1,
               "--prompt", 8, "--tokens", 4, "--seconds", seconds, "--out", tmp_path / "figures.json", code=1)
    assert "nothing was measured: " in said and reason in said and "Traceback" not in said, said
    assert not (tmp_path / "figures.json").exists()


def test_a_time_in_which_no_scenario_ends_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "Server", lambda *_: SimpleNamespace(process=SimpleNamespace(poll=lambda: None), stop=lambda: 0))
    monkeypatch.setattr(measure, "warm_up", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["measure.py", "--forebay", "f", "--peer", "p", "--model", "m", "--seconds", "0",
                                      "--out", str(tmp_path / "figures.json")])
    with pytest.raises(SystemExit, match="nothing was measured within 0 s"):
        measure.main()


def test_asyncios_own_timeout_ends_a_scenario(monkeypatch):
    """Before Python 3.11 it is another exception than Python's."""
    monkeypatch.setattr(asyncio, "TimeoutError", type("OwnTimeoutError", (Exception,), {}))
    spec = importlib.util.spec_from_file_location("measure_before_3_11", GPU / "measure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def ask(*_):
        raise asyncio.TimeoutError

    monkeypatch.setattr(module, "ask", ask)
    args = SimpleNamespace(first_round=0, rounds=2, streams=[1], prompt=8, tokens=4, vocab=2000)
    assert module.run({"forebay": None, "peer": None}, args, float("inf"), print) == []


def test_answers_of_one_token_have_no_times_between_tokens():
    assert measure.figures([(0.0, [0.5]), (0.0, [1.0])]) == {"tokens/s": 2.0, "ttft p50": 1000.0, "ttft p99": 1000.0}


@pytest.mark.parametrize("script", ["measure.py", "summary.py", "check.py", "pieces.py", "../models/random_gguf.py"])
def test_scripts_have_the_syntax_of_python_3_8(script):
    ast.parse((GPU / script).read_text(), feature_version=(3, 8))


def test_scripts_run_with_python_3_8(tmp_path):
    old = shutil.which("python3.8")
    if not old or subprocess.run([old, "--version"], capture_output=True).returncode:
        pytest.skip("there is no Python 3.8")
    model, out = tiny_model(tmp_path), tmp_path / "figures.json"
    run("measure.py", "--forebay", BINARY, "--peer", BINARY, "--model", model, "--streams", 1, "--prompt", 8, "--tokens", 4,
        "--vocab", 2000, "--rounds", 1, "--gpu-layers", 0, "--out", out, python=old)
    assert "| 1 streams: tokens/s |" in run("summary.py", out, python=old)
    assert "a step of ours" in run("summary.py", out, python=old)
    said = run("measure.py", "--forebay", BINARY, "--peer", BINARY, "--model", model, "--streams", 256, "--prompt", 16,
               "--tokens", 64, "--vocab", 2000, "--rounds", 1, "--seconds", 4, "--gpu-layers", 0, "--out", tmp_path / "none.json",
               python=old, code=1)
    assert "nothing was measured" in said and "Traceback" not in said, said
    assert "10 of 10 equal" in run("check.py", BINARY, model, 0, 4, python=old)
    run("pieces.py", "split", model, tmp_path / "pieces", python=old)
    run("pieces.py", "join", tmp_path / "pieces", tmp_path / "again.gguf", python=old)
    assert (tmp_path / "again.gguf").read_bytes() == model.read_bytes()


def test_a_scenario_in_which_an_engine_died_does_not_count():
    before, after = {"steps": 4.0, "step_tokens": 8.0, "deaths": 0.0}, {"steps": 6.0, "step_tokens": 14.0, "deaths": 0.0}
    assert measure.each_step(dict(before), dict(after)) == {"step_tokens": 3.0}
    with pytest.raises(measure.EngineDied):
        measure.each_step(before, after | {"deaths": 1.0})


def test_counters_that_could_not_be_read_are_no_figures():
    counters = {"steps": 6.0, "step_tokens": 12.0, "deaths": 1.0}
    assert measure.each_step({}, counters) == measure.each_step(counters, {}) == measure.each_step({}, {}) == {}
    assert measure.each_step(counters, dict(counters)) == {}
    assert measure.each_step({"steps": 2.0}, {"steps": 6.0, "step_tokens": 12.0}) == {"step_tokens": 3.0}


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
    """`run.sh 2` on a CPU with a tiny model: each of its steps works, and its table and its costs come back."""
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


def test_a_step_that_fails_leaves_the_others(tmp_path):
    """There is no time to load the servers, and no table of nothing."""
    copy_of_what_is_there(tmp_path)
    settings = {"BACKEND": "cpu", "SHAPE": "tiny", "VOCAB": "2000", "BUDGET": "100", "FOREBAY": BINARY, "PEER": BINARY}
    said = ended([tmp_path / "tests/gpu/run.sh", "models", "measure", "table", "breakdown"],
                 env=os.environ | settings | {"OUT": str(tmp_path / "out"), "PERCENT": "1"})
    assert re.search(r"^nothing was measured: .* was not ready", said, re.M), said
    assert "== measure FAILED (1), took" in said and "nothing was measured: no table" in said, said
    assert "== table FAILED (1), took" in said and "== breakdown took" in said, said


@pytest.mark.parametrize("kinds, joined", [(["q8_0"], []), (["q4_k_m", "q8_0"], ["Q4_K_M"])])
def test_costs_are_joined_with_their_model(tmp_path, kinds, joined):
    """Figures of Q8_0 alone do not get the costs that were measured with Q4_K_M."""
    copy_of_what_is_there(tmp_path)
    figures = tmp_path / "gpu-work/figures"
    figures.mkdir(parents=True)
    for kind, file in zip(kinds, sampled_in(tmp_path, 3.4)):
        measured_in(figures, f"{kind}-1.json", json.loads(file.read_text())["rounds"], kind.upper())
    costs_in(tmp_path).rename(tmp_path / "gpu-work/gpu.json")
    said = ended([tmp_path / "tests/gpu/run.sh", "table"], env=os.environ | {"OUT": str(tmp_path / "out")})
    assert "FAILED" not in said and re.findall("^(.*), 64 streams, 512 tokens deep", said, re.M) == joined, said


def test_the_usage_names_all_steps(tmp_path):
    text = (GPU / "run.sh").read_text()
    [listed] = re.findall(r"^# Usage: .* with the steps (.*)$", text, re.M)
    assert sorted(listed.split()) == sorted(re.findall(r"^step_(\w+)\(\)", text, re.M))
    copy_of_what_is_there(tmp_path)
    said = ended([tmp_path / "tests/gpu/run.sh", "models", "measures"], code=2)
    assert said == f"no step is called measures; the steps are: {listed}\n" and not (tmp_path / "gpu-work").exists()


@pytest.mark.parametrize("nvidia_smi, name", [
    ("printf 'NVIDIA H100, 570.1\\n'", "NVIDIA H100 with driver 570.1"),
    ("printf 'NVIDIA H100, 570.1\\nNVIDIA L4, 570.1\\n'", "NVIDIA H100 with driver 570.1, the first of 2 GPUs"),
    ("echo failed; exit 9", os.uname().machine),
])
def test_a_device_has_one_line(tmp_path, nvidia_smi, name):
    definition = re.search(r"^device_name\(\) \{\n.*?^\}\n", (GPU / "run.sh").read_text(), re.M | re.S)[0]
    path = {"PATH": f"{stub(tmp_path, **{'nvidia-smi': nvidia_smi})}:{os.environ['PATH']}"}
    script = f"set -euo pipefail; backend=cuda forebay=false\n{definition}device_name"
    assert ended(["bash", "-c", script], env=os.environ | path) == name + "\n"


def test_an_engine_that_does_not_come_up_is_an_error(tmp_path):
    """The trap ends what was started, also before there is anything."""
    programs = stub(tmp_path, docker="exit 1", dockerd="echo it needs root; exit 1")
    script = f"set -euo pipefail; trap stop_engine EXIT; . {REPO}/tests/docker/engine.sh; echo it goes on"
    said = ended(["bash", "-c", script], code=1, env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)})
    assert said == f"no Docker engine is up; the end of {tmp_path}/forebay-dockerd.log:\nit needs root\n"


def packed(folder, mib, code=0):
    """What pack.sh prints when it packs a model of zeros without building, with paths relative to `folder`."""
    repo, home = folder / "repo", folder / "cargo"
    copy_of_what_is_there(repo)
    sources = ["peer", *(f"cargo/registry/src/{name}/llama-cpp-sys-2-1.0/llama.cpp" for name in ("first", "second"))]
    for part in [f"{source}/{part}" for source in sources for part in ("ggml/src", "include", "src")]:
        (folder / part).mkdir(parents=True)
    for path in ["peer/CMakeLists.txt", "gomp", "repo/Cargo.lock"]:
        (folder / path).write_text('name = "llama-cpp-sys-2"\nversion = "1.0"\n')
    (folder / "module.so").write_bytes(b"module")
    with open(folder / "model.gguf", "wb") as file:
        file.truncate(mib << 20)
    stub(repo / "docker", **{"collect.sh": "mkdir -p $2/usr/lib/forebay; touch $2/usr/lib/forebay/libllama.so.0"})
    programs = stub(folder / "bin", cargo="", strip="", readelf="", gcc=f"echo {folder}/gomp",
                    cmake="mkdir -p target/portable/peer/bin; touch target/portable/peer/bin/llama-server")
    more = {"PATH": f"{programs}:{os.environ['PATH']}", "CARGO_HOME": str(home), "CUDA_MODULE": "module.so", "PEER_SOURCES": "peer"}
    return ended([repo / "tests/gpu/pack.sh", "model.gguf"], code, cwd=folder, env=os.environ | more)


def test_a_model_is_packed_in_two_parts(tmp_path):
    """Paths are relative to the caller's folder, and cargo has two registries."""
    assert "are the same in llama-cpp-sys-2 1.0 and in the peer" in packed(tmp_path, 57)
    out = tmp_path / "repo/gpu-out"
    files = {str(path.relative_to(out)): path.stat().st_size for path in out.rglob("*") if path.is_file()}
    assert files.pop("programs/programs.tar.xz") and files.pop("module/module.so.1-of-1")
    assert sorted(files) == ["model-1/2-1", "model-2/2-2"] and sum(files.values()) == 57 << 20


def test_a_model_of_more_than_two_parts_is_refused(tmp_path):
    said = packed(tmp_path, 113, code=1)
    assert said == f"{tmp_path}/model.gguf has 113 MiB: at most 112 are taken along, in two parts\n"


def test_sources_of_the_caller_are_not_replaced(tmp_path):
    (tmp_path / "model.gguf").touch()
    said = ended([GPU / "pack.sh", "model.gguf"], code=1, cwd=tmp_path, env=os.environ | {"PEER_SOURCES": "."})
    assert said == f"{tmp_path} has no sources of llama.cpp\n"


def test_costs_are_what_was_measured_in_time(tmp_path):
    model, out = tiny_model(tmp_path), tmp_path / "costs.json"
    measure_costs = ["bench", "--model", model, "--costs", out, "--kv-layout", "shared", "--seconds"]
    forebay(*measure_costs, 1)
    table = out.read_text()
    # All of them are 168.
    assert 0 < len(json.loads(table)["samples"]) < 168
    assert "nothing was measured" in forebay(*measure_costs, 0, code=1)
    assert out.read_text() == table, "a table with samples is not replaced by one without"


@pytest.mark.parametrize("settings", [
    ["--ctx-size", 700], ["--batch-size", 3, "--kv-layout", "shared"], ["--ctx-size", 9001, "--batch-size", 130],
])
def test_costs_are_measured_as_far_as_they_fit(tmp_path, settings):
    model, out = tmp_path / "tiny.gguf", tmp_path / "costs.json"
    run("../models/random_gguf.py", model, "--shape", "tiny")
    forebay("bench", "--model", model, "--costs", out, "--rounds", 1, "--depth", 512, "--seconds", 3, *settings)
    assert json.loads(out.read_text())["samples"]


def test_costs_of_a_recurrent_model_are_those_of_empty_slots(tmp_path):
    tiny, out = tmp_path / "tiny.gguf", tmp_path / "costs.json"
    run("../models/tiny_gguf.py", "mamba", required("TEST_CHAT_MODEL"), tiny)
    forebay("bench", "--model", tiny, "--costs", out, "--rounds", 1, "--depth", 512, "--seconds", 3)
    assert {sample["depth"] for sample in json.loads(out.read_text())["samples"]} == {0}


@pytest.mark.parametrize("wrong", [["--streams", 0], ["--batch-size", 3_000_000_000], ["--threads", 5000], ["--seconds", 1]])
def test_numbers_for_measuring_are_checked(tmp_path, wrong):
    forebay("bench", "--model", tmp_path / "none.gguf", *wrong, code=64)


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
