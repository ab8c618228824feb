"""Engines in processes of their own that are killed: each request goes on, and nobody is told but by a
pause. The undisturbed run before is the measure."""

import contextlib
import functools
import json
import random
import signal
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import jsonschema_rs
import pytest

from dialects import CHAT, MESSAGES, RESPONSES, ask, parts_at_a_near_tie
from engines import RESTART, SILENCE, Meter, end, engine, health, hit, pause, serve, starting, wait_for
from scheduling import metric

# As in test_scheduling.py: where two greedy texts part, the tokens are nearly tied.
TOLERANCE = 1.2  # of a log probability
WEATHER = {"type": "object", "properties": {
    "city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 1, "maximum": 9},
    "places": {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 3, "maxItems": 3}},
    "required": ["city", "days", "places"], "additionalProperties": False}
PERSON = {"type": "object", "properties": {
    "name": {"type": "string", "minLength": 4, "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
    "story": {"type": "string", "minLength": 80, "maxLength": 120}},
    "required": ["name", "age", "story"], "additionalProperties": False}
FUNCTION = {"name": "get_weather", "description": "The weather of a city.", "parameters": WEATHER}
CHAT_TOOLS = {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required",
              "parallel_tool_calls": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
THINK = {"chat_template_kwargs": {"enable_thinking": True}, "thinking_token_budget": 16}
LONG = "Answer with care and never use long words. " * 30


def user(text):
    return [{"role": "user", "content": text}]


def chat(text, **fields):
    return {"messages": user(text), "max_tokens": 48, "temperature": 0, **fields}


# What is asked, and the same as a chat whose log probabilities judge where texts part.
PLAIN = {"ignore_eos": True}
KINDS = {
    "chat plain": (CHAT, chat("Tell me about the sea.", **PLAIN), {}),
    "chat stop": (CHAT, chat("Tell me about a train.", stop=[", and", "ing th"], **PLAIN), {"stop": None}),
    "chat n": (CHAT, chat("Tell me about bread.", n=2, max_tokens=32, **PLAIN), {"n": 1}),
    "chat logprobs": (CHAT, chat(LONG + "Tell me about winter.", logprobs=True, top_logprobs=3, **PLAIN), {}),
    "chat tool": (CHAT, chat("The weather in Paris?", **CHAT_TOOLS) | {"max_tokens": 200}, {}),
    "chat schema": (CHAT, chat("Who was Ada?", response_format=FORMAT) | {"max_tokens": 200}, {}),
    "chat thoughts": (CHAT, chat("Tell me about a clock.", **THINK, **PLAIN), {}),
    "response plain": (RESPONSES, {
        "input": user("Tell me about rain."), "max_output_tokens": 40, "temperature": 0},
        chat("Tell me about rain.", max_tokens=40)),
    "response tool": (RESPONSES, {
        "input": user("The weather in Rome?"), "max_output_tokens": 200, "temperature": 0, "tool_choice": "required",
        "parallel_tool_calls": False, "tools": [{"type": "function", **FUNCTION}]},
        chat("The weather in Rome?", **CHAT_TOOLS) | {"max_tokens": 200}),
    "response schema": (RESPONSES, {
        "input": user("Who was Alan?"), "max_output_tokens": 200, "temperature": 0,
        "text": {"format": {"type": "json_schema", "name": "person", "schema": PERSON}}},
        chat("Who was Alan?", response_format=FORMAT) | {"max_tokens": 200}),
    "response logprobs": (RESPONSES, {
        "input": user("Tell me about snow."), "max_output_tokens": 32, "temperature": 0, "top_logprobs": 2,
        "include": ["message.output_text.logprobs"]}, chat("Tell me about snow.", max_tokens=32)),
    "response thoughts": (RESPONSES, {
        "input": user("Tell me about wind."), "max_output_tokens": 40, "temperature": 0, "reasoning": {"effort": "low"}},
        chat("Tell me about wind.", max_tokens=40, chat_template_kwargs={"enable_thinking": True})),
    "message stop": (MESSAGES, {
        "messages": user("Tell me about a lighthouse."), "max_tokens": 48, "temperature": 0,
        "stop_sequences": [", a", "igh"]}, chat("Tell me about a lighthouse.")),
    "message tool": (MESSAGES, {
        "messages": user("The weather in Oslo?"), "max_tokens": 200, "temperature": 0, "tool_choice": {
            "type": "any", "disable_parallel_tool_use": True},
        "tools": [{"name": "get_weather", "description": FUNCTION["description"], "input_schema": WEATHER}]},
        chat("The weather in Oslo?", **CHAT_TOOLS) | {"max_tokens": 200}),
    "message schema": (MESSAGES, {
        "messages": user("Who was Grace?"), "max_tokens": 200, "temperature": 0,
        "output_config": {"format": {"type": "json_schema", "schema": PERSON}}},
        chat("Who was Grace?", response_format=FORMAT) | {"max_tokens": 200}),
    "message thoughts": (MESSAGES, {
        "messages": user("Tell me about music."), "max_tokens": 48, "temperature": 0,
        "thinking": {"type": "enabled", "budget_tokens": 16}}, chat("Tell me about music.", **THINK)),
}
EVERY = [(kind, stream) for kind in KINDS for stream in (True, False)]


def body_of(kind, stream):
    path, body, _ = KINDS[kind]
    body = {"model": "m", "stream": stream, **body}
    if path == CHAT and stream:
        body["stream_options"] = {"include_usage": True}
    return path, body


def ask_everything(server, seed, meter=lambda: None):
    pool = ThreadPoolExecutor(len(EVERY))
    order = random.Random(seed).sample(EVERY, len(EVERY))
    asked = {one: pool.submit(ask, server.url, *body_of(*one), on_event=meter) for one in order}
    pool.shutdown(wait=False)
    return asked


@pytest.fixture
def start_crashing(tmp_path, models):
    with starting(tmp_path, models) as start:
        yield start


@pytest.fixture(scope="module")
def crashing(models, tmp_path_factory):
    server = serve(tmp_path_factory.mktemp("crashing"), models, embeddings=True)
    yield server
    end(server)


@pytest.fixture(scope="module")
def calm(crashing):
    """All answers of an undisturbed run."""
    asked = ask_everything(crashing, 0)
    return {one: future.result() for one, future in asked.items()}


@pytest.fixture(scope="module")
def reference(crashing):
    """The same greedy answer with its log probabilities."""

    @functools.cache
    def reference(kind):
        _, body, twin = KINDS[kind]
        body = {**(body if "messages" in body else {}), **twin, "model": "m", "logprobs": True, "top_logprobs": 20}
        return ask(crashing.url, CHAT, {k: v for k, v in body.items() if v is not None}).choice()

    return reference


# --- What goes on -------------------------------------------------------------------------------


def check_whole(kind, stream, answer, calm):
    """What holds of each answer, whatever its text."""
    path, body, _ = KINDS[kind]
    where = f"{kind}, {'streamed' if stream else 'whole'}: {answer}"
    assert answer.status == 200 and answer.error is None and answer.whole, where
    assert sorted(answer.choices) == list(range(body.get("n", 1))), where
    assert answer.prompt_tokens == calm.prompt_tokens, where
    for choice in answer.choices.values():
        assert len(choice.finishes) == 1, where
        if "tool" in kind:
            ((name, arguments),) = choice.calls
            assert name == "get_weather", where
            jsonschema_rs.validate(WEATHER, json.loads(arguments))
        if "schema" in kind:
            jsonschema_rs.validate(PERSON, json.loads(choice.text))
        if "thoughts" in kind:
            assert choice.thoughts, where
        if "logprobs" in kind:
            assert "".join(entry["token"] for entry in choice.tokens) == choice.text, where
            assert len(choice.tokens) == body.get("max_tokens", body.get("max_output_tokens")), where
    if body.get("ignore_eos") and all(c.finishes == ["length"] for c in answer.choices.values()):
        assert answer.completion_tokens == body["max_tokens"] * body.get("n", 1), where


def check_text(kind, stream, answer, calm, reference):
    """Whether the text is that of the undisturbed run. Where it parts it must be at a near tie."""
    if answer.parts() == calm.parts():
        assert abs(answer.completion_tokens - calm.completion_tokens) <= (1 if "tool" in kind or "schema" in kind else 0)
        assert [c.finishes for c in answer.choices.values()] == [c.finishes for c in calm.choices.values()]
        return True
    for parts in answer.parts():
        expected = reference(kind)
        assert parts_at_a_near_tie(expected, parts, TOLERANCE), f"{kind}, {stream}: {parts} instead of {expected.parts()}"
    return False


SIGNALS = [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGSTOP]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_everything_goes_on(crashing, calm, reference, models, number):
    meter, victim = Meter(), engine(crashing, models["chat"])
    asked = ask_everything(crashing, number, meter)
    meter.wait(60)
    begin = time.monotonic()
    hit(victim, number)
    answers = {one: future.result(timeout=180) for one, future in asked.items()}
    took = time.monotonic() - begin
    for one, answer in answers.items():
        check_whole(*one, answer, calm[one])
    same = sum(check_text(*one, answer, calm[one], reference) for one, answer in answers.items())
    streams = [answer for (_, stream), answer in answers.items() if stream]
    running = [a for a in streams if a.times[0] < begin < a.times[-1]]
    resumed = [next(t for t in a.times if t > begin + 0.1) - begin for a in running if a.times[-1] > begin + 0.1]
    pauses = [a.pauses for a in running]
    print(f"{number.name}: {same} of {len(EVERY)} texts the same, {len(running)} streams ran (pauses {pauses}, of all "
          f"{[a.pauses for a in streams]}), the first went on after {min(resumed):.2f} s, the last after "
          f"{max(resumed):.2f} s, all done after {took:.2f} s")
    assert running and all(pauses)
    assert min(resumed) < RESTART + (SILENCE if number == signal.SIGSTOP else 0)
    assert same >= len(EVERY) // 2
    assert engine(crashing, models["chat"]).pid != victim.pid
    assert health(crashing) == (200, "ok")


def story(**fields):
    return {"model": "m", "messages": user("Tell me a story of the sea."), "max_tokens": 120, "stream": True,
            "stream_options": {"include_usage": True}, "ignore_eos": True, **fields}


def ask_and_kill(server, models, body, after):
    """A chat whose engine is killed after so many events."""
    meter = Meter()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, server.url, CHAT, body, on_event=meter)
        meter.wait(after)
        hit(engine(server, models["chat"]), signal.SIGKILL)
        return asked.result()


def test_a_seed_says_the_same_as_if_nothing_had_been(start_crashing, models):
    """Alone and without drafts. Prompt and answer are computed again as one prompt: bit for bit the same up
    to 64 tokens, beyond that numbers are added up in 32 bits, and a draw near a border falls elsewhere."""
    server = start_crashing(parallel=2, speculate=False, reproducible=True)
    cases = [(0, 1.0, 3), (1, 1.0, 12), (2, 1.0, 20), (3, 1.0, 80), (0, 0, 60)]
    same = 0
    for seed, temperature, after in cases:
        body = story(seed=seed, temperature=temperature, logprobs=True, top_logprobs=20)
        calm = ask(server.url, CHAT, body)
        answer = ask_and_kill(server, models, body, after)
        assert answer.pauses == 1 and answer.whole and answer.completion_tokens == calm.completion_tokens == 120
        one, other = calm.choice(), answer.choice()
        assert b"".join(bytes(entry["bytes"]) for entry in other.tokens).decode(errors="replace") == other.text
        assert len(other.tokens) == 120
        at = next((i for i, (a, b) in enumerate(zip(one.tokens, other.tokens)) if a["token"] != b["token"]), 120)
        apart = max(map(difference, one.tokens[:at], other.tokens[:at]))
        print(f"seed {seed}, temperature {temperature}, killed after {after}: {at} of 120 tokens the same, log "
              f"probabilities up to {apart:.3f} apart")
        assert at >= after and apart < TOLERANCE
        same += at == 120 and after <= 20
    assert same >= 2


def difference(one, other):
    """How far apart two steps see the tokens that are likely."""
    tops = {bytes(top["bytes"]): top["logprob"] for top in other["top_logprobs"]}
    likely = {bytes(top["bytes"]): top["logprob"] for top in one["top_logprobs"] if top["logprob"] > -3}
    return max((abs(likely[token] - tops[token]) for token in likely.keys() & tops.keys()), default=0)


def test_both_engines_die_at_once(crashing, models):
    texts = [f"Sentence {i} about the weather. " * 8 for i in range(200)]
    embed = lambda: post(crashing, "/v1/embeddings", {"model": "minilm", "input": texts})["data"]
    calm, meter = embed(), Meter()
    with ThreadPoolExecutor(8) as pool:
        told = [pool.submit(ask, crashing.url, CHAT, story(temperature=0), on_event=meter) for _ in range(4)]
        meter.wait(8)
        vectors = [pool.submit(embed) for _ in range(4)]
        time.sleep(0.3)
        running = [not one.done() for one in vectors]
        for path in (models["chat"], models["embedding"]):
            engine(crashing, path).kill()
        told, vectors = [one.result() for one in told], [one.result() for one in vectors]
    assert any(running)
    assert all(a.whole and a.pauses == 1 and a.completion_tokens == 120 for a in told)
    for one in vectors:
        assert [row["index"] for row in one] == list(range(200))
        assert all(dot(a["embedding"], b["embedding"]) > 0.9999 for a, b in zip(calm, one, strict=True))


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def post(server, path, body, headers=None):
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), {
        "content-type": "application/json", **(headers or {})})
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def test_a_background_response_goes_on(start_crashing, models):
    server = start_crashing(parallel=2, speculate=False, reproducible=True)
    body = {"model": "m", "input": "Tell me a story.", "max_output_tokens": 300, "temperature": 0}
    calm = ask(server.url, RESPONSES, body)
    kept = post(server, RESPONSES, {**body, "background": True})
    read = lambda: json.load(urllib.request.urlopen(f"{server.url}{RESPONSES}/{kept['id']}", timeout=5))
    wait_for(lambda: read()["status"] == "in_progress", 20, "the response begins")
    time.sleep(0.3)
    engine(server, models["chat"]).kill()
    assert read()["status"] == "in_progress"
    wait_for(lambda: read()["status"] not in ("queued", "in_progress"), 120, "the response ends")
    response = read()
    assert (response["status"], response["usage"]["output_tokens"]) == (calm.choice().finishes[0], calm.completion_tokens)
    assert response["output"][0]["content"][0]["text"] == calm.choice().text


# --- Suspects -----------------------------------------------------------------------------------


def test_those_who_were_there_at_two_deaths_go_on(start_crashing, models):
    server, meter = start_crashing(parallel=4), Meter()
    ask_one = lambda seed: ask(server.url, CHAT, story(seed=seed, temperature=1, max_tokens=60), on_event=meter)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask_one, seed) for seed in range(4)]
        for _ in range(2):
            meter.wait(meter.count + 4)
            engine(server, models["chat"]).kill()
            wait_for(lambda: health(server)[1] == "ok", RESTART, "the engine is back")
        answers = [one.result() for one in asked]
    print([(a.pauses, round(a.seconds, 2)) for a in answers])
    assert all(a.whole and a.pauses >= 1 and a.completion_tokens == 60 for a in answers)


def test_what_kills_three_times_is_given_up(start_crashing, models):
    """A prompt that takes so long to read that each death falls into it."""
    server = start_crashing(parallel=2)
    body = {"model": "m", "messages": user("Say it again and again and never stop. " * 150), "max_tokens": 4}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, server.url, CHAT, body)
        for _ in range(3):
            wait_for(lambda: metric(server, "forebay_requests_running") == 1, RESTART, "the prompt is read")
            time.sleep(0.5)
            victim = engine(server, models["chat"])
            assert not asked.done()
            victim.kill()
            wait_for(lambda: health(server)[1] == "degraded", 5, "it is noticed")
            wait_for(lambda: health(server)[1] == "ok", RESTART, "the engine is back")
        answer = asked.result(timeout=60)
    assert (answer.status, answer.error["code"]) == (500, "engine_crashed"), answer
    again = ask(server.url, CHAT, body)
    assert again.status == 200 and again.whole


# --- What is seen meanwhile ---------------------------------------------------------------------


def test_health_and_metrics_tell(start_crashing, models):
    server = start_crashing(parallel=2, embeddings=True)
    assert health(server) == (200, "ok")
    ask(server.url, CHAT, story())
    generated = metric(server, "forebay_generation_tokens_total")
    assert generated >= 120
    deaths = lambda labels: metric(server, rf"forebay_engine_deaths_total\{{[^}}]*{labels}[^}}]*\}}")
    with pause(server, models["chat"]):
        assert health(server) == (200, "degraded")
        ready = urllib.request.urlopen(server.url + "/health/ready", timeout=5)
        assert (ready.status, json.load(ready)["status"]) == (200, "degraded")
        assert urllib.request.urlopen(server.url + "/health/live", timeout=5).status == 200
        # The other model knows nothing of it.
        assert post(server, "/v1/embeddings", {"model": "minilm", "input": "a"})["data"]
        assert metric(server, "forebay_generation_tokens_total") == generated
    wait_for(lambda: health(server) == (200, "ok"), RESTART, "the engine is back")
    ask(server.url, CHAT, story())
    wait_for(lambda: metric(server, "forebay_generation_tokens_total") >= generated + 120, 5, "the counters go on")
    assert deaths('model="m"') == deaths('cause="killed"') == 1
    assert deaths('model="minilm"') == 0


def test_time_that_runs_out_in_a_pause_is_told_in_time(start_crashing, models):
    server, meter = start_crashing(parallel=2, server="keepalive_s = 1"), Meter()
    limit = lambda seconds: {"x-request-timeout": str(seconds)}
    schema = {"response_format": FORMAT, "ignore_eos": False}
    with ThreadPoolExecutor(16) as pool:
        def submit(seconds, **fields):
            return pool.submit(ask, server.url, CHAT, story(max_tokens=2000, **fields), limit(seconds), meter)

        before = [(5, submit(5)), (5, submit(5, stream=False, stream_options=None)), (5, submit(5))]
        meter.wait(3)
        with pause(server, models["chat"]):
            # They need the engine for their tokens and their grammar, too.
            during = [(2, submit(2)), (3, submit(3, stream=False, stream_options=None)), (3, submit(3, **schema)),
                      *((2, submit(2, messages=user("word " * 900))) for _ in range(4))]
            slowest, begin = 0, time.monotonic()
            while not all(one.done() for _, one in [*before, *during]):
                asked = time.monotonic()
                assert health(server)[0] == 200
                slowest = max(slowest, time.monotonic() - asked)
                time.sleep(0.05)
                assert time.monotonic() - begin < 60
            for seconds, one in [*before, *during]:
                answer, kind = one.result(), "before" if (seconds, one) in before else "during"
                code = answer.error and answer.error["code"]
                print(f"{kind}, {seconds} s: {answer.status} {code} after {answer.seconds:.2f} s")
            print(f"health took {slowest:.3f} s at most")
            assert slowest < 2
            for seconds, one in [*before, *during]:
                answer = one.result()
                assert answer.status in (200, 504) and answer.error["code"] == "timeout", answer
                assert seconds - 0.2 < answer.seconds < seconds + 3
    wait_for(lambda: health(server) == (200, "ok"), RESTART, "the engine is back")
    assert ask(server.url, CHAT, story(max_tokens=4)).completion_tokens == 4


def waiting(server):
    return metric(server, "forebay_requests_running") + metric(server, "forebay_requests_waiting")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_who_leaves_in_a_pause_frees_a_place(start_crashing, models, number):
    """There are two places. An engine that is stopped cannot be told; then it is when it is killed."""
    server = start_crashing(parallel=1, queue=1)
    streams = [begin(server, CHAT, story(max_tokens=3000)) for _ in range(2)]
    wait_for(lambda: waiting(server) == 2, 20, "both places are taken")
    assert ask(server.url, CHAT, story(max_tokens=4)).status == 429
    stopped = engine(server, models["chat"])
    with contextlib.ExitStack() as stack:
        if number == signal.SIGKILL:
            stack.enter_context(pause(server, models["chat"]))
        else:
            stopped.send_signal(number)
        for stream in streams:
            stream.close()
        time.sleep(1)
        further = ask(server.url, CHAT, story(max_tokens=4), {"x-request-timeout": "1"})
        print(f"in the pause a further request gets {further.status}")
    left = time.monotonic()
    wait_for(lambda: ask(server.url, CHAT, story(max_tokens=4)).status == 200, SILENCE + RESTART, "a place is free")
    print(f"a place was free {time.monotonic() - left:.2f} s after the pause")
    assert engine(server, models["chat"]).pid != stopped.pid
    wait_for(lambda: waiting(server) == 0, 5, "nobody is left")
    assert metric(server, "forebay_engine_steps_total") < 2000


def begin(server, path, body):
    """A connection on which a request was sent."""
    stream = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    body = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    stream.sendall(head.encode() + body)
    return stream
