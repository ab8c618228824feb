"""The benchmark itself: its scenarios run, and what it has kept becomes a table."""

import json
import sys

import pytest
from conftest import REPO, Server, required

sys.path.insert(0, str(REPO / "tests/bench"))
import compare  # noqa: E402
import load  # noqa: E402
import report  # noqa: E402


@pytest.fixture(scope="module")
def url():
    server = Server("--model", f"m={required('TEST_CHAT_MODEL')}", "--parallel", "2", "-c", "4096")
    yield server.url
    server.stop()


@pytest.mark.parametrize("scenario, more", [("short", {}), ("warm", {}), ("chats", {"count": 2, "turns": 2})])
def test_scenarios_run(url, scenario, more):
    figures = load.run(scenario, url, "m", seed=1, slots=2, **more)
    assert all(value > 0 for value in figures.values()), figures


def test_an_answer_that_is_too_short_is_no_figure(url):
    async def ask():
        async with load.Load(url, "m", 2) as loaded:
            return await loaded.stream("Say hello.", 64, stop=["e", "a", "o"])

    with pytest.raises(RuntimeError, match="tokens came, not 64"):
        load.asyncio.run(ask())


def test_rounds_that_were_kept_become_a_table(tmp_path, capsys):
    kept = tmp_path / "kept.json"
    ours = {"short": [30, 10, 20], "warm": [90, 90, 90]}
    lines = [
        {"measured": "then, there", "setup": "qwen-0.5b", "scenario": scenario, "round": turn, "side": side,
         "seconds": 1.0, "cores_elsewhere": 0.7 if scenario == "warm" and turn == 1 else 0.0,
         "figures": {"tokens/s": rate if side == "forebay" else 10, "ttft_p50_ms": rate, "errors": 0}}
        for scenario, rates in ours.items() for turn, rate in enumerate(rates) for side in compare.SIDES
    ]
    kept.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert compare.tell_earlier(kept) == "then, there; 3 rounds"
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["qwen-0.5b", "short", "tokens/s", "20.00", "10.00", "2.00"] in printed
    assert ["qwen-0.5b", "short", "errors", "0.00", "0.00"] in printed
    assert "qwen-0.5b warm: not alone, others used up to 0.70 cores".split() in printed
    assert not any("not" in line and "short:" in line for line in printed)
    # Of 2 and 9.
    assert "qwen-0.5b: geometric mean of 2, tokens/s 4.24".split() in printed
    assert "qwen-0.5b: geometric mean of 2, ttft_p50_ms 1.00".split() in printed


def test_what_was_wanted_stands_beside_it_whatever_the_model(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: written by `make bench` -->\n<!-- bench: end -->\nafter\n")
    told = report.Report()
    told.compare("qwen-0.5b short tokens/s", 8.0, 10.0)
    told.compare("shared tokens/s", 30.0, 10.0)
    told.compare("embed1 texts/s", 13.0, 10.0)
    told.write(page, "then, there; 3 rounds")
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "then, there; 3 rounds." in text
    assert "| qwen-0.5b short tokens/s | 8.00 | 10.00 | 0.80 | 1.0 |" in text
    assert "| shared tokens/s | 30.00 | 10.00 | 3.00 | 3 |" in text
    assert "| embed1 texts/s | 13.00 | 10.00 | 1.30 | 1.2 |" in text
