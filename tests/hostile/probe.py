"""What the others feel meanwhile: ordinary streams and health checks, each from a process of its own,
so that what the attack costs its own client does not count."""

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import threading
import time

from frames import HOST, connect, h1, h2_exchange, request

HEALTH_EVERY_S = 0.02
HEALTH_TIMEOUT_S = 10.0
# Health checks under way at a time; those that find no room count as not answered.
MOST_HEALTH = 400
SYLLABLES = "ba be bi do da ga go ka ke la lo ma mi na no pa ra ri sa so ta to".split()
spawn = multiprocessing.get_context("spawn")


def words(rng, count):
    return " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(count))


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else None


def be_first():
    """The clients that measure are not what is to be measured."""
    with contextlib.suppress(OSError):
        os.nice(-10)


# --- Health -----------------------------------------------------------------------------------


async def check_health(port):
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        line = await reader.readline()
        return line.startswith(b"HTTP/1.1 200")
    finally:
        writer.close()


async def watch_health(port, pipe):
    samples, under_way = [], set()

    async def sample():
        begin = time.monotonic()
        try:
            good = await asyncio.wait_for(check_health(port), HEALTH_TIMEOUT_S)
        except OSError:  # includes the timeout
            good = False
        samples.append((begin, time.monotonic() - begin, good))

    due = time.monotonic()
    while not pipe.poll():
        if len(under_way) < MOST_HEALTH:
            task = asyncio.create_task(sample())
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        else:
            samples.append((time.monotonic(), HEALTH_TIMEOUT_S, False))
        due = max(due + HEALTH_EVERY_S, time.monotonic())
        await asyncio.sleep(due - time.monotonic())
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)
    pipe.send(samples)


def health_process(port, pipe):
    be_first()
    asyncio.run(watch_health(port, pipe))


# --- Streams ----------------------------------------------------------------------------------


def one_stream(port, body, stamps):
    """Reads a streamed answer, noting when each token came. Returns what was wrong with it."""
    done = False
    with connect(port, 30) as stream:
        stream.sendall(h1("POST", "/v1/chat/completions", body))
        lines = stream.makefile("rb")
        status = lines.readline()
        if not status.startswith(b"HTTP/1.1 200"):
            return status.decode(errors="replace").strip() or "closed without an answer"
        for line in lines:
            if line.startswith(b"data: [DONE]"):
                done = True
            elif line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    return f"error event: {event['error'].get('message')}"
                if any("content" in c["delta"] for c in event["choices"]):
                    stamps.append(time.monotonic())
    return "" if done else "the stream broke off"


def keep_streaming(port, seed, model, stamps, errors, stop):
    rng = random.Random(seed)
    while not stop.is_set():
        body = {
            "model": model,
            "messages": [{"role": "user", "content": words(rng, 20)}],
            "max_tokens": 128,
            "ignore_eos": True,
            "temperature": 0.7,
            "seed": 1,
            "stream": True,
        }
        try:
            error = one_stream(port, body, stamps)
        except (OSError, ValueError) as broken:
            error = f"{type(broken).__name__}: {broken}"
        if error:
            errors.append((time.monotonic(), error))
            time.sleep(0.25)


def stream_process(port, model, count, pipe):
    be_first()
    stamps, errors, stop = [], [], threading.Event()
    for seed in range(count):
        threading.Thread(target=keep_streaming, args=(port, seed, model, stamps, errors, stop), daemon=True).start()
    pipe.recv()
    stop.set()
    pipe.send((sorted(stamps), list(errors)))


class Probe:
    """Health checks and ordinary streams until `stop`; then figures of any stretch of that time."""

    def __init__(self, port, model="smollm2", streams=2):
        self.workers = []
        for target, args in ((health_process, (port,)), (stream_process, (port, model, streams))):
            ours, theirs = spawn.Pipe()
            worker = spawn.Process(target=target, args=(*args, theirs), daemon=True)
            worker.start()
            self.workers.append((worker, ours))
        self.health, self.stamps, self.errors = [], [], []

    def stop(self):
        for _, pipe in self.workers:
            pipe.send("stop")
        results = [pipe.recv() if pipe.poll(30) else None for _, pipe in self.workers]
        for worker, _ in self.workers:
            worker.join(5)
            if worker.is_alive():
                worker.kill()
        self.health = results[0] or []
        self.stamps, self.errors = results[1] or ([], [])

    def figures(self, begin, end):
        """Between two moments: streams' tokens a second, their errors, and health in ms."""
        health = [(seconds, good) for at, seconds, good in self.health if begin <= at < end]
        times = [seconds if good else max(seconds, HEALTH_TIMEOUT_S) for seconds, good in health]
        ms = lambda value: None if value is None else value * 1e3
        return {
            "tokens/s": sum(begin <= at < end for at in self.stamps) / max(end - begin, 1e-9),
            "errors": [error for at, error in self.errors if begin <= at < end],
            "health_p50_ms": ms(percentile(times, 50)),
            "health_p99_ms": ms(percentile(times, 99)),
            "health_max_ms": ms(max(times, default=None)),
            "health_bad": sum(not good for _, good in health),
            "health_checks": len(times),
        }


# --- Harmless requests ------------------------------------------------------------------------


def harmless(port, model, prompt, generated, embedded, requests, seconds, at_once=16):
    """Sends plain requests of as many tokens, evenly over a time: what an attack's admitted tokens
    would have cost if they had been asked for in the ordinary way. Returns how many were sent."""
    rng, jobs = random.Random(1), []
    count = max(1, min(requests, 256, max(int(prompt), int(generated), 1)))
    # At most this many tokens go into one prompt, so that each of them fits.
    count = max(count, int(prompt) // 1500 + 1, int(generated) // 1500 + 1)
    if prompt + generated >= 1:
        for _ in range(count):
            tokens = [rng.randrange(1000, 20000) for _ in range(max(1, int(prompt / count)))]
            body = {
                "model": model,
                "prompt": tokens,
                "max_tokens": max(1, round(generated / count)),
                "ignore_eos": True,
                "temperature": 0.7,
                "seed": 1,
            }
            jobs.append(("/v1/completions", body))
    texts = int(embedded) // 200
    for at in range(0, texts, 16):
        body = {"model": "minilm", "input": [words(rng, 100) for _ in range(min(16, texts - at))]}
        jobs.append(("/v1/embeddings", body))
    rng.shuffle(jobs)
    begin, numbers = time.monotonic(), itertools.count()

    def work():
        while (number := next(numbers)) < len(jobs):
            due = begin + seconds * number / len(jobs)
            time.sleep(max(0, due - time.monotonic()))
            path, body = jobs[number]
            request(port, "POST", path, body, timeout=60)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(jobs)))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(1, begin + seconds + 60 - time.monotonic()))
    return len(jobs)


def is_answered(port, model="smollm2", patience=20.0):
    """Whether a new request is answered on both versions of HTTP; what was wrong if not."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    for ask in (request, h2_exchange):
        reply = ask(port, "POST", "/v1/chat/completions", body, timeout=patience)
        if reply.status != 200:
            return f"{ask.__name__}: {reply.status or reply.error} {reply.body[:120].decode(errors='replace')}"
    return ""
