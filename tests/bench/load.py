"""Load on an OpenAI-compatible server: what clients do, timed where they stand."""

import asyncio
import json
import random
import statistics
import time

import aiohttp
import jsonschema_rs

SYLLABLES = "ba be bi bo da de di do ga ge go ka ke ko la le li lo ma me mi mo na ne ni no ra re ri ro sa se so ta te ti to".split()


def words(rng, count):
    """Made-up words: no server has seen them, and every one costs about two tokens."""
    return " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(count))


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else None


class Load:
    """One server under load. Every figure comes from what arrived here. Scenarios that fill the server
    have as many clients as it has `slots`."""

    def __init__(self, url, model, slots):
        self.url, self.model, self.slots = url, model, slots

    async def __aenter__(self):
        timeout = aiohttp.ClientTimeout(total=600)
        # A new connection for each request: the peer closes idle ones while they are being reused.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self.session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_):
        await self.session.close()

    async def stream(self, prompt, tokens, leave_after=None, system=None, before=(), key=None, **fields):
        """One streamed answer: when each piece came, and how many tokens the server counted."""
        messages = [{"role": "system", "content": system}] if system else []
        messages += [*before, {"role": "user", "content": prompt}]
        body = {
            "model": self.model, "messages": messages, "max_tokens": tokens, "ignore_eos": True,
            "temperature": 0.7, "seed": 1, "stream": True, "stream_options": {"include_usage": True},
        }
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body |= fields
        begin, stamps, counted, text = time.perf_counter(), [], 0, ""
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(event["error"])
                if event.get("usage"):
                    counted = event["usage"]["completion_tokens"]
                piece = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                if piece:
                    text += piece
                    stamps.append(time.perf_counter())
                    if leave_after and len(stamps) >= leave_after:
                        break
        end = time.perf_counter()
        if body["ignore_eos"] and not leave_after and counted != tokens:
            raise RuntimeError(f"{counted} tokens came, not {tokens}")
        return {"begin": begin, "end": end, "stamps": stamps, "tokens": counted, "text": text}

    async def embed(self, texts, **fields):
        body = {"model": self.model, "input": texts, **fields}
        async with self.session.post(f"{self.url}/v1/embeddings", json=body) as answer:
            answer.raise_for_status()
            data = (await answer.json())["data"]
        assert len(data) == (1 if isinstance(texts, str) else len(texts))

    async def closed_loop(self, jobs, clients):
        """Runs `jobs` (functions that make coroutines) with `clients` at a time."""
        waiting, done = list(reversed(jobs)), []

        async def client():
            while waiting:
                done.append(await waiting.pop()())

        begin = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return done, time.perf_counter() - begin


def figures(answers, seconds):
    gaps = [b - a for answer in answers for a, b in zip(answer["stamps"], answer["stamps"][1:])]
    firsts = [answer["stamps"][0] - answer["begin"] for answer in answers]
    return {
        "tokens/s": sum(answer["tokens"] for answer in answers) / seconds,
        "ttft_p50_ms": statistics.median(firsts) * 1e3,
        "ttft_p99_ms": percentile(firsts, 99) * 1e3,
        "itl_p50_ms": statistics.median(gaps) * 1e3,
        "itl_p99_ms": percentile(gaps, 99) * 1e3,
    }


async def generate(load, seed, requests, clients, prompt_words, tokens, system_words=0):
    rng = random.Random(seed)
    system = words(rng, system_words) if system_words else None
    return figures(*await asked(load, rng, requests, clients, prompt_words, tokens, system))


async def asked(load, rng, requests, clients, prompt_words, tokens, system=None):
    """So many prompts of made-up words, so many at a time."""
    prompts = [words(rng, prompt_words) for _ in range(requests)]
    jobs = [lambda p=p: load.stream(p, tokens, system=system) for p in prompts]
    return await load.closed_loop(jobs, clients)


async def warm(load, seed):
    """Requests behind a system prompt that every slot has had already."""
    rng, system = random.Random(seed), words(random.Random("warm"), 700)
    await asked(load, rng, load.slots, load.slots, 15, 4, system)
    return figures(*await asked(load, rng, 3 * load.slots, load.slots, 15, 24, system))


async def chats(load, seed, count=8, turns=5):
    """Conversations side by side, each with a next turn as soon as it has its answer."""
    rng = random.Random(seed)

    async def chat(system, asks):
        history, answers = [], []
        for ask in asks:
            answers.append(await load.stream(ask, 32, system=system, before=history))
            history += [{"role": "user", "content": ask}, {"role": "assistant", "content": answers[-1]["text"]}]
        return answers

    scripts = [(words(rng, 60), [words(rng, 20) for _ in range(turns)]) for _ in range(count)]
    begin = time.perf_counter()
    done = await asyncio.gather(*(chat(*script) for script in scripts))
    result = figures([answer for answers in done for answer in answers], time.perf_counter() - begin)
    nexts = [answer["stamps"][0] - answer["begin"] for answers in done for answer in answers[1:]]
    return result | {"next_ttft_p50_ms": statistics.median(nexts) * 1e3}


async def mixed(load, seed, gaps=None):
    """Four streams run while three long prompts arrive: what do the streams feel? `gaps` takes when
    each of their tokens came, in seconds, and how long after the one before, in ms."""
    rng = random.Random(seed)
    begin = time.perf_counter()
    streams = [asyncio.create_task(load.stream(words(rng, 20), 160)) for _ in range(4)]
    await asyncio.sleep(1)
    prompts = []
    for _ in range(3):
        prompts.append(asyncio.create_task(load.stream(words(rng, 500), 4)))
        await asyncio.sleep(1)
    answers = await asyncio.gather(*streams)
    result = figures(answers, time.perf_counter() - begin)
    long = await asyncio.gather(*prompts)
    if gaps is not None:
        pairs = [pair for a in answers for pair in zip(a["stamps"], a["stamps"][1:])]
        gaps.extend((after - begin, (after - before) * 1e3) for before, after in pairs)
    result["itl_max_ms"] = max(b - a for s in answers for a, b in zip(s["stamps"], s["stamps"][1:])) * 1e3
    result["long_ttft_p50_ms"] = statistics.median(a["stamps"][0] - a["begin"] for a in long) * 1e3
    return result


async def turns(load, seed, chats=8, count=6):
    """Chats that go on in random order, one request at a time: how soon does the next answer begin?"""
    rng = random.Random(seed)
    histories = [[] for _ in range(chats)]
    systems = [words(rng, 150) for _ in range(chats)]
    order = [chat for chat in range(chats) for _ in range(count)]
    rng.shuffle(order)
    firsts = []
    for chat in order:
        ask, history = words(rng, 30), histories[chat]
        answer = await load.stream(ask, 32, system=systems[chat], before=history, temperature=0)
        if history:
            firsts.append(answer["stamps"][0] - answer["begin"])
        history += [{"role": "user", "content": ask}, {"role": "assistant", "content": answer["text"]}]
    return {"next_ttft_p50_ms": statistics.median(firsts) * 1e3, "next_ttft_p99_ms": percentile(firsts, 99) * 1e3}


async def copyedit(load, seed):
    """Answers that repeat their prompt: what drafts from the prompt are for."""
    rng = random.Random(seed)
    name = lambda: words(rng, 1).strip()
    code = "\n".join(
        f"def {name()}_{i}(request, response):\n    value = request.get('{name()}_{i}')\n"
        f"    response.set('{name()}_{i}', value)\n    return response\n" for i in range(6)
    )
    ask = f"Repeat this code exactly, unchanged:\n```python\n{code}```"
    begin = time.perf_counter()
    answers = [await load.stream(ask, 220, temperature=0) for _ in range(2)]
    return figures(answers, time.perf_counter() - begin)


async def fair(load, seed, many=40, few=4):
    """Two clients, one with ten times the requests: what does the small one feel beside being alone?"""
    rng = random.Random(seed)
    job = lambda key: load.stream(words(rng, 40), 48, key=key)
    latency = lambda answers: statistics.mean(a["end"] - a["begin"] for a in answers)
    alone = latency(await asyncio.gather(*(job("few") for _ in range(few))))
    others = [asyncio.create_task(job("many")) for _ in range(many)]
    await asyncio.sleep(1)
    beside = latency(await asyncio.gather(*(job("few") for _ in range(few))))
    await asyncio.gather(*others)
    return {"few_beside/alone": beside / alone, "few_beside_s": beside}


async def flood(load, seed, streams=2000):
    """All at once: is everybody served, and does the server answer its health check meanwhile?"""
    rng = random.Random(seed)
    health, done = [], asyncio.Event()

    async def watch():
        while not done.is_set():
            begin = time.perf_counter()
            async with load.session.get(f"{load.url}/health") as answer:
                answer.raise_for_status()
            health.append(time.perf_counter() - begin)
            await asyncio.sleep(0.05)

    async def stream():
        try:
            return await load.stream(words(rng, 8), 4)
        except Exception:  # noqa: BLE001 — whatever it is, it counts
            return None

    watcher = asyncio.create_task(watch())
    begin = time.perf_counter()
    answers = await asyncio.gather(*(stream() for _ in range(streams)))
    seconds = time.perf_counter() - begin
    done.set()
    await watcher
    served = [answer for answer in answers if answer]
    felt = figures(served, seconds)
    return {"streams/s": streams / seconds, "errors": streams - len(served),
            "health_p99_ms": percentile(health, 99) * 1e3,
            **{name: felt[name] for name in ("tokens/s", "ttft_p50_ms", "ttft_p99_ms")}}


async def wire(load, seed, streams=16, prompt_tokens=64, tokens=128):
    """What `forebay bench` does, over HTTP: as many streams, prompts and answers as long."""
    rng = random.Random(seed)
    body = {"model": load.model, "max_tokens": tokens, "ignore_eos": True, "temperature": 0.7, "stream": True}

    async def stream():
        prompt = [rng.randrange(1000, 20000) for _ in range(prompt_tokens)]
        async with load.session.post(f"{load.url}/v1/completions", json={**body, "prompt": prompt}) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                assert b'"error"' not in line, line

    begin = time.perf_counter()
    await asyncio.gather(*(stream() for _ in range(streams)))
    return {"tokens/s": streams * tokens / (time.perf_counter() - begin)}


TEXT = lambda most: {"type": "string", "maxLength": most}
SCHEMA = {
    "type": "object",
    "properties": {
        "product_name": TEXT(40),
        "category": {"enum": ["furniture", "electronics", "clothing", "food"]},
        "price_in_cents": {"type": "integer", "minimum": 0, "maximum": 100000},
        "units_in_stock": {"type": "integer", "minimum": 0, "maximum": 5000},
        "manufacturer": {
            "type": "object",
            "properties": {"company_name": TEXT(40), "country_of_origin": TEXT(20)},
            "required": ["company_name", "country_of_origin"],
            "additionalProperties": False,
        },
        "short_description": TEXT(160),
        "suitable_for_children": {"type": "boolean"},
        "customer_rating": {"enum": ["poor", "fair", "good", "excellent"]},
    },
    "additionalProperties": False,
}
SCHEMA["required"] = list(SCHEMA["properties"])
BY_SCHEMA = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "product", "schema": SCHEMA, "strict": True}},
}


async def schema(load, seed):
    """Products as JSON by a schema, and the same run without it; what a first token costs more."""
    rng = random.Random(seed)
    prompts = [f"Invent a product that has to do with {words(rng, 6)} and describe it as JSON." for _ in range(24)]
    jobs = [lambda p=p: load.stream(p, 300, ignore_eos=False, **BY_SCHEMA) for p in prompts]
    answers, seconds = await load.closed_loop(jobs, 8)
    result = figures(answers, seconds)
    result["valid, of 1"] = sum(is_valid(a["text"]) for a in answers) / len(answers)
    # As many tokens as those answers had, on the average.
    tokens = round(statistics.mean(a["tokens"] for a in answers))
    jobs = [lambda p=p: load.stream(p + " ", tokens) for p in prompts]
    free, seconds = await load.closed_loop(jobs, 8)
    result["free tokens/s"] = figures(free, seconds)["tokens/s"]
    result["part of free"] = result["tokens/s"] / result["free tokens/s"]
    more = []
    for i in range(24):
        firsts = []
        for fields in (BY_SCHEMA, {}) if i % 2 else ({}, BY_SCHEMA):
            answer = await load.stream(f"{i}. {prompts[i]}{' ' * len(fields)}", 12, **fields)
            firsts.append((bool(fields), answer["stamps"][0] - answer["begin"]))
        more.append(dict(firsts)[True] - dict(firsts)[False])
    result["ttft_more_ms"] = statistics.median(more) * 1e3
    return result


def is_valid(text):
    try:
        return jsonschema_rs.is_valid(SCHEMA, json.loads(text))
    except json.JSONDecodeError:
        return False


async def embed(load, seed, requests, clients, per_request, longest):
    rng = random.Random(seed)
    text = lambda: words(rng, rng.randint(4, longest))
    inputs = [[text() for _ in range(per_request)] if per_request > 1 else text() for _ in range(requests)]
    fields = {"encoding_format": "base64"} if per_request > 1 else {}
    jobs = [lambda i=i: load.embed(i, **fields) for i in inputs]
    _, seconds = await load.closed_loop(jobs, clients)
    return {"texts/s": requests * per_request / seconds}


async def cancel(load, seed):
    """Sixteen clients leave after two tokens; how soon does the next one get its first?"""
    rng = random.Random(seed)
    await asyncio.gather(*(load.stream(words(rng, 15), 800, leave_after=2) for _ in range(16)))
    answer = await load.stream(words(rng, 15), 4)
    return {"ttft_ms": (answer["stamps"][0] - answer["begin"]) * 1e3}


CHAT = {
    "single": lambda load, seed: generate(load, seed, 3, 1, 60, 96),
    "batch": lambda load, seed: generate(load, seed, 2 * load.slots, load.slots, 60, 64),
    "short": lambda load, seed: generate(load, seed, 4 * load.slots, load.slots, 15, 8),
    "warm": warm,
    "chats": chats,
    "shared": lambda load, seed: generate(load, seed, 12, 8, 15, 24, system_words=300),
    "shared8": lambda load, seed: generate(load, seed, 24, 8, 15, 24, system_words=750),
    "shared16": lambda load, seed: generate(load, seed, 48, 16, 15, 24, system_words=750),
    "mixed": mixed,
    "copyedit": copyedit,
    "schema": schema,
    "fair": fair,
    "cancel": cancel,
    "flood250": lambda load, seed: flood(load, seed, streams=250),
}
FEW_SLOTS = {"turns": turns}
FLOOD = {"flood": flood}
LONG = {"long": lambda load, seed: generate(load, seed, 2, 1, 60, 500)}
EMBEDDING = {
    "embed": lambda load, seed: embed(load, seed, 8, 4, 32, 40),
    "embed1": lambda load, seed: embed(load, seed, 400, 32, 1, 12),
}


def run(scenario, url, model, seed, slots=16, **more):
    async def main():
        async with Load(url, model, slots) as load:
            return await {**CHAT, **FEW_SLOTS, **EMBEDDING, **FLOOD, **LONG, "wire": wire}[scenario](load, seed, **more)

    return asyncio.run(main())
