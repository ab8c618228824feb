"""Models whose memory cannot be cut back anywhere: a sliding window, a recurrent state, both. Tiny
ones with random weights, so that a single wrong cell changes the text. Whatever is reused, shared,
taken out or moved, the text is that of a request alone."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from conftest import REPO
from scheduling import ask, cached, metric, same_text

# Numbers are added up in another order where others are beside.
TOLERANCE = 0.1  # of a log probability

HEAD = "You are a careful teacher who answers with short words. " * 12
TOPICS = ["the sea", "a train", "bread", "winter", "a lighthouse", "music", "an old clock", "rain"]


@pytest.fixture(scope="module", params=["gemma3", "mamba", "lfm2"])
def tiny(request, models, tmp_path_factory):
    """The path of such a model."""
    out = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    script = REPO / "tests/models/tiny_gguf.py"
    subprocess.run([sys.executable, script, request.param, models["chat"], out], check=True)
    return str(out)


def user(text):
    return {"role": "user", "content": text}


def prompts(count, head=HEAD):
    return [[{"role": "system", "content": head}, user(f"{i}. Tell me about {TOPICS[i % 8]}.")]
            for i in range(count)]


def alone(server, every, tokens=24):
    """Each with a salt of its own: nothing is there to reuse."""
    answers = [ask(server, p, tokens, extra_body={"cache_salt": str(i)}) for i, p in enumerate(every)]
    assert not any(cached(a) for a in answers)
    return answers


def hold(expected, answers):
    same = sum(same_text(a, b, TOLERANCE) for a, b in zip(expected, answers, strict=True))
    print(f"{same} of {len(answers)} the same, the others part at near ties")


@pytest.mark.parametrize("layout", ["split", "shared"])
def test_turns_and_edits_go_on(start, tiny, layout):
    server = start(tiny, parallel=4, ctx_size=8192, kv_layout=layout)
    first = prompts(1)[0]
    answer = ask(server, first)
    turns = [*first, {"role": "assistant", "content": answer.choices[0].message.content}, user("Why?")]
    # One token of the answer was never computed, and its text may be other tokens in a prompt; so
    # what is certain to go on is a prompt that is all there.
    again = ask(server, turns)
    edited = [*turns[:-1], user("Who says so?")]
    answers = [again, ask(server, edited), ask(server, turns), ask(server, first)]
    assert all(cached(a) >= a.usage.prompt_tokens // 2 for a in answers), [cached(a) for a in answers]
    assert cached(answers[3]) >= answer.usage.prompt_tokens - 32
    hold(alone(server, [turns, edited, turns, first]), answers)


@pytest.mark.parametrize("layout", ["split", "shared"])
def test_a_prompt_goes_on_where_another_was_on_its_way(start, tiny, layout):
    """A long text, and questions about it: each goes on from a checkpoint of another's."""
    server = start(tiny, parallel=4, ctx_size=8192, kv_layout=layout)
    text = HEAD * 6
    questions = ["Who wrote it?", "Who wrote it?", "When?", "What for?", "Is it true?"]
    every = [[user(f"{text} {question}")] for question in questions]
    answers = [ask(server, messages) for messages in every]
    computed = [a.usage.prompt_tokens - cached(a) for a in answers]
    assert computed[0] == answers[0].usage.prompt_tokens > 700
    assert computed[1] <= 32, "the same again"
    assert computed[2] <= 90, "another end"
    assert max(computed[3:]) <= 32, "where two have parted before"
    hold(alone(server, every), answers)
    assert metric(server, "forebay_decode_errors_total") == 0


def test_conversations_share_their_instructions(start, tiny):
    server = start(tiny, parallel=4, ctx_size=8192)
    # More at once than there are slots; each has a second turn, with an answer that was not generated.
    every = prompts(8, head=HEAD * 3)
    ask(server, every[0])
    turns = [[*p, {"role": "assistant", "content": "As I said: no."}, user("Why?")] for p in every]
    with ThreadPoolExecutor(8) as pool:
        firsts = list(pool.map(lambda p: ask(server, p), every))
        seconds = list(pool.map(lambda p: ask(server, p), turns))
    for answer in [*firsts, *seconds]:
        assert answer.usage.prompt_tokens - cached(answer) <= 64, answer.usage
    hold(alone(server, [*every, *turns]), [*firsts, *seconds])


def test_without_host_memory_there_are_no_checkpoints(start, tiny):
    server = start(tiny, parallel=4, ctx_size=8192, kv_host_mib=0)
    first = prompts(1)[0]
    answers = [ask(server, first), ask(server, first)]
    assert [cached(a) for a in answers] == [0, 0]


def test_checkpoints_keep_their_budget(start, tiny):
    server = start(tiny, parallel=2, ctx_size=8192, kv_host_mib=1)
    every = [[user(f"{i}. " + HEAD * 6)] for i in range(12)]
    answers = [ask(server, messages) for messages in every]
    again = [ask(server, messages) for messages in reversed(every)]
    assert cached(again[0]) >= again[0].usage.prompt_tokens // 2
    hold(answers[::-1], again)
    assert metric(server, "forebay_decode_errors_total") == 0


def test_a_prompt_that_goes_on_where_another_ended_is_not_computed_again(start, tiny):
    server = start(tiny, parallel=4, ctx_size=8192)
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="x")

    def complete(ids, tokens, **fields):
        return client.completions.create(model="m", prompt=ids, max_tokens=tokens, temperature=0, **fields)

    ids = [(i * i) % 9000 + 100 for i in range(300)]
    complete(ids[:200], 1)
    goes_on = complete(ids, 24)
    assert cached(goes_on) == 200
    assert goes_on.choices[0].text == complete(ids, 24, extra_body={"cache_salt": "x"}).choices[0].text
    # One that parts before the first checkpoint begins anew.
    parts = [*ids[:60], *ids[250:]]
    begins = complete(parts, 24)
    assert cached(begins) == 0
    assert begins.choices[0].text == complete(parts, 24, extra_body={"cache_salt": "x"}).choices[0].text


def test_one_prompt_is_shared_by_its_answers_and_by_requests_together(start, tiny):
    server = start(tiny, parallel=6, ctx_size=8192, kv_layout="shared")
    every = prompts(6)
    expected = alone(server, every)
    with ThreadPoolExecutor(6) as pool:
        hold(expected, list(pool.map(lambda p: ask(server, p), every)))
    # Three answers to a prompt: it is computed once, and copied where it ends.
    sampled = ask(server, every[0], n=3)
    texts = [c.message.content for c in sampled.choices]
    assert len(set(texts)) == 1 and texts[0] == expected[0].choices[0].message.content
    assert sampled.usage.prompt_tokens == expected[0].usage.prompt_tokens


def test_cells_that_run_out_change_no_text(start, tiny):
    every = prompts(8, head="Be kind.")
    expected = alone(start(tiny, parallel=1), every, tokens=150)
    total = sum(a.usage.total_tokens for a in expected)
    server = start(tiny, parallel=8, kv_layout="shared", ctx_size=max(total // 3 // 256, 1) * 256)
    with ThreadPoolExecutor(8) as pool:
        hold(expected, list(pool.map(lambda p: ask(server, p, 150), every)))
    assert metric(server, "forebay_preemptions_total") > 0
    assert metric(server, "forebay_decode_errors_total") == 0


def test_what_outgrows_its_part_goes_on(start, tiny):
    every = prompts(3, head="Be kind.")
    expected = alone(start(tiny, parallel=1), every, tokens=600)
    server = start(tiny, parallel=4, ctx_size=2048, kv_layout="split")
    with ThreadPoolExecutor(3) as pool:
        hold(expected, list(pool.map(lambda p: ask(server, p, 600), every)))
    assert metric(server, "forebay_preemptions_total") > 0
    # A prompt too long for a part has checkpoints as well, of the cache that it is in.
    long = [user(HEAD * 6)]
    answers = [ask(server, long), ask(server, long)]
    assert cached(answers[0]) == 0 and cached(answers[1]) >= answers[1].usage.prompt_tokens - 16
    hold([ask(start(tiny, parallel=1), long)] * 2, answers)
