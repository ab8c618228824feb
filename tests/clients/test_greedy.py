"""Greedy answers against llama-server's own, recorded by tests/golden/record_greedy.py.

The kernels are the same; their order of addition is not, so two tokens that are equally likely
within rounding may change places. From there on the texts differ rightly, and only there.
"""

import json
import sys
from pathlib import Path

import pytest

GOLDEN_DIR = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN_DIR))
from record_greedy import kernels  # noqa: E402

GOLDEN = json.loads((GOLDEN_DIR / "greedy.json").read_text())[kernels()]
NEAR_TIE = 0.2  # nats


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["prompt"][:20])
def test_greedy_answers_are_the_peers(client, golden):
    answer = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": golden["prompt"]}],
        temperature=0, max_tokens=32, logprobs=True, top_logprobs=5,
    )
    assert answer.usage.prompt_tokens == golden["prompt_tokens"], "the template renders differently"
    expected, seen = golden["text"], ""
    for entry in answer.choices[0].logprobs.content:
        if expected.startswith(seen + entry.token):
            seen += entry.token
            continue
        rest = expected[len(seen) :]
        near = [
            top.token for top in entry.top_logprobs
            if top.logprob > entry.logprob - NEAR_TIE and top.token and rest.startswith(top.token)
        ]
        ended = not rest and entry.token.startswith("<|")
        assert near or ended, f"after {seen!r}: {entry.token!r} instead of {rest!r}"
        return
    assert seen == expected[: len(seen)]
