"""Two servers on one machine's GPU: measure.py --forebay F --peer P --model M.gguf --out FIGURES.json

Both hold the model and a KV cache of the same size, and are asked in turn: each scenario, then the next, the other one
first in every other round. What is done is in the files at once: figures as JSON, and their tables beside it in Markdown.
No scenario begins that would not end within the time, as far as that is known, and one that does not end is left out.

Nothing but the library of Python 3.8: where a GPU is lent, there may be nothing else. The clients are
processes, so that they do not wait for each other. Prompts are token ids at random: none is known to
any server, and each has the length that is asked for.
"""

import argparse
import asyncio
import concurrent.futures
import functools
import http.client
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

import summary

PER_PROCESS = 16
# Seconds in which a server has to be ready.
READY_WITHIN = 300
# Before Python 3.11 asyncio has a TimeoutError of its own.
TIMEOUTS = (TimeoutError, asyncio.TimeoutError)
# An engine tells its counts some times a second.
TOLD_AFTER = 0.3


async def stream(port, body, after=0.0):
    """One answer: when it was asked for, and when each of its tokens came."""
    await asyncio.sleep(after)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    payload = json.dumps(body).encode()
    asked = time.monotonic()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(payload)}\r\n\r\n"
    writer.write(head.encode() + payload)
    status = await reader.readline()
    assert b" 200 " in status, status + await reader.read(2000)
    came = []
    async for line in reader:
        # A chunk may carry nothing but the usage or the end.
        if line.startswith(b"data: {") and b'"text":' in line and b'"finish_reason":null' in line.replace(b" ", b""):
            came.append(time.monotonic())
    writer.close()
    assert came, "an answer has no tokens"
    return asked, came


def client(port, jobs, until):
    async def all_of_them():
        answers = asyncio.gather(*(stream(port, body, after) for body, after in jobs))
        return await asyncio.wait_for(answers, until - time.monotonic())

    return asyncio.run(all_of_them())


def load(port, jobs, until=float("inf")):
    """The answers; fails with one of TIMEOUTS at `until`."""
    groups = [jobs[at : at + PER_PROCESS] for at in range(0, len(jobs), PER_PROCESS)]
    with concurrent.futures.ProcessPoolExecutor(len(groups)) as pool:
        return [answer for group in pool.map(client, [port] * len(groups), groups, [until] * len(groups)) for answer in group]


def body(rng, vocab, prompt, tokens, prefix=()):
    ids = [*prefix, *(rng.randrange(300, vocab) for _ in range(prompt - len(prefix)))]
    return {"model": "m", "prompt": ids, "max_tokens": tokens, "ignore_eos": True, "temperature": 1.0,
            "seed": rng.randrange(1 << 30), "stream": True}


def scenarios(args, seed):
    """Names, and their jobs: bodies, and when each is sent. Other seeds have other prompts. The first ones are
    those that most is to be learned from."""
    rng, (prompt, tokens) = random.Random(seed), (args.prompt, args.tokens)
    most = max(args.streams)
    plain = [(f"{streams} streams", [(body(rng, args.vocab, prompt, tokens), 0.0) for _ in range(streams)])
             for streams in args.streams]
    prefix = [rng.randrange(300, args.vocab) for _ in range(4 * prompt)]
    shared = [(body(rng, args.vocab, 4 * prompt + 64, tokens, prefix), 0.0) for _ in range(max(most // 2, 1))]
    # Answers run; long prompts come in between.
    mixed = [(body(rng, args.vocab, prompt // 4, 3 * tokens), 0.0) for _ in range(max(most // 4, 1))]
    mixed += [(body(rng, args.vocab, 8 * prompt, 16), 0.5 + 0.25 * n) for n in range(max(most // 16, 1))]
    return [*plain[:2], ("shared prefix", shared), ("mixed", mixed), *plain[2:]]


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def figures(answers):
    """Rates and times in ms; without the times between tokens if no answer has two."""
    start, end = min(a for a, _ in answers), max(came[-1] for _, came in answers)
    ttft = [(came[0] - asked) * 1e3 for asked, came in answers]
    gaps = [(b - a) * 1e3 for _, came in answers for a, b in zip(came, came[1:])]
    times = {f"{name} p{percent}": percentile(values, percent)
             for name, values in (("ttft", ttft), ("itl", gaps)) if values for percent in (50, 99)}
    return {"tokens/s": sum(len(came) for _, came in answers) / (end - start), **times}


class Busy:
    """How much of the time the GPU computes, as its driver says; nothing where there is none."""

    def __enter__(self):
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        except OSError:
            self.process = None
        return self

    def __exit__(self, *_):
        self.figure = {}
        if self.process:
            self.process.terminate()
            samples = [int(line) for line in self.process.communicate()[0].split() if line.isdigit()]
            if samples:
                self.figure = {"gpu busy %": statistics.fmean(samples)}


class Server:
    """A server that is ready; fails with TimeoutError if it is not at `until`."""

    def __init__(self, command, log, until=float("inf")):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # No folder for what is kept between starts: each server learns what steps cost anew.
        environment = {**os.environ, "XDG_CACHE_HOME": os.devnull}
        self.process = subprocess.Popen([*command, "--port", str(self.port)], stdout=log, stderr=log, env=environment)
        try:
            self.wait_until_ready(command[0], until)
        except BaseException:
            # The caller has no server yet that it could stop.
            self.stop()
            raise

    def wait_until_ready(self, program, until):
        began = time.monotonic()
        while True:
            assert self.process.poll() is None, f"{program} ended with {self.process.returncode}"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1).close()
                return
            except OSError:
                now = time.monotonic()
                if now > min(until, began + READY_WITHIN):
                    raise TimeoutError(f"{program} was not ready within {now - began:.0f} s") from None
            time.sleep(0.1)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def steps(self):
        """Forebay's counters: steps, their tokens, milliseconds by part, and engines that died. Empty if they cannot
        be read, as for the peer, which has none."""
        try:
            text = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10).read().decode()
        except (OSError, http.client.HTTPException):
            return {}
        count = {}
        # Deaths have a counter for each kind.
        for name, value in re.findall(r"^forebay_engine_(steps|step_tokens|deaths)_total{.*} (\d+)", text, re.M):
            count[name] = count.get(name, 0.0) + float(value)
        parts = re.findall(r'^forebay_engine_step_microseconds_total{.*part="(\w+)".*} (\d+)', text, re.M)
        return {**count, **{f"{part} ms": float(value) / 1e3 for part, value in parts}}


class EngineDied(Exception):
    """Answers went on in another process: their times are none of a server that works."""


def each_step(before, after):
    """What a step held and where its time went; nothing if counters could not be read before or after."""
    if not before or not after:
        return {}
    if after.get("deaths", 0) > before.get("deaths", 0):
        raise EngineDied
    steps = after.get("steps", 0) - before.get("steps", 0)
    if steps <= 0:
        return {}
    names = [name for name in after if name not in ("steps", "deaths")]
    return {name: (after[name] - before.get(name, 0.0)) / steps for name in names}


def context_size(args):
    """Cells of the KV cache: tokens that any scenario has at once, and some more."""
    most, shared = max(args.streams), 4 * args.prompt + 64 + args.tokens
    mixed = most // 4 * (args.prompt // 4 + 3 * args.tokens) + max(most // 16, 1) * (8 * args.prompt + 16)
    return 1024 + max(most * (args.prompt + args.tokens), max(most // 2, 1) * shared, mixed)


def command(program, args, more):
    """The program with its best settings: `llama-server`, or a build of Forebay."""
    most = max(args.streams)
    common = ["--parallel", most, "--ctx-size", context_size(args), *more.split()]
    if os.path.basename(program) == "forebay":
        own = ["serve", "--no-store", "--model", f"m={args.model}", "--gpu-layers", args.gpu_layers, "--queue", 4 * most]
    else:
        layers = 999 if args.gpu_layers in ("all", "auto") else args.gpu_layers
        own = ["--model", args.model, "--alias", "m", "--kv-unified", "--n-gpu-layers", layers, "--flash-attn", "on"]
    return [str(part) for part in [program, *own, *common]]


def ask(server, jobs, until):
    """One scenario's figures."""
    before = server.steps()
    with Busy() as busy:
        answers = load(server.port, jobs, until)
    time.sleep(TOLD_AFTER)
    return {**figures(answers), **busy.figure, **each_step(before, server.steps())}


def warm_up(server, args, until):
    """Asks for each number of streams once, so that steps with about as many rows have been computed: some devices
    compile kernels when a number of rows is first computed. Only the largest number has prompts of full length."""
    rng, most = random.Random(-1), max(args.streams)
    for streams in sorted(args.streams):
        prompt = args.prompt if streams == most else max(args.prompt // 4, 1)
        load(server.port, [(body(rng, args.vocab, prompt, 4), 0.0) for _ in range(streams)], until)


def run(servers, args, until, done):
    """The rounds that were measured, lists of [scenario, {side: figures}]; `done` is called with them after each scenario."""
    rounds, took, sides = [], {}, list(servers.items())
    for number in range(args.first_round, args.first_round + args.rounds):
        left_out = []
        rounds.append([])
        for scenario, jobs in scenarios(args, number):
            began = time.monotonic()
            if began + took.get(scenario, 0.0) > until:
                left_out.append(scenario)
                continue
            try:
                both = {name: ask(server, jobs, until) for name, server in (sides if number % 2 else sides[::-1])}
            except TIMEOUTS:
                left_out.append(f"the end of {scenario}")
                continue
            except EngineDied:
                print(f"round {len(rounds)}: {scenario} does not count, an engine died", flush=True)
                continue
            took[scenario] = time.monotonic() - began
            rounds[-1].append([scenario, both])
            for name, values in both.items():
                print(name, scenario, {key: round(value, 2) for key, value in values.items()}, flush=True)
            done(rounds)
        if left_out:
            print(f"round {len(rounds)}: no time for {', '.join(left_out)}", flush=True)
        if not rounds[-1]:
            rounds.pop()
            break
    return rounds


def write(args, rounds):
    """Figures and tables, each file whole at any time."""
    measured = {"title": args.title or os.path.basename(args.model), "date": time.strftime("%Y-%m-%d"),
                "device": args.device, "load": f"prompts of {args.prompt} tokens, answers of {args.tokens}",
                "rounds": rounds}
    for path, text in ((args.out, json.dumps(measured, indent=1)), (args.out + ".md", summary.tables([measured]))):
        with open(path + ".new", "w") as file:
            file.write(text)
        os.replace(path + ".new", path)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--forebay", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--streams", type=int, nargs="*", default=[64, 1, 128, 8, 32],
                        help="the first two come first")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=128000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--first-round", type=int, default=0, help="other prompts than those of earlier rounds")
    parser.add_argument("--seconds", type=float, default=1e9, help="for all of it, the loading included")
    parser.add_argument("--gpu-layers", default="all")
    parser.add_argument("--ours", default="", help="more flags for forebay")
    parser.add_argument("--theirs", default="", help="more flags for the peer")
    parser.add_argument("--title", default="", help="what is measured, for the table")
    parser.add_argument("--device", default="this machine", help="what it was measured on, for the table")
    parser.add_argument("--out", required=True, help="a JSON file for all figures")
    parser.add_argument("--log", help="append what the servers log to this file")
    args = parser.parse_args()
    until = time.monotonic() + args.seconds

    # Who is asked to end ends the servers as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with open(args.log or args.out + ".log", "a") as log:
        servers = {}
        try:
            for name, program, more in (("forebay", args.forebay, args.ours), ("peer", args.peer, args.theirs)):
                servers[name] = Server(command(program, args, more), log, until)
            # What kernels and costs have to be learned is not measured.
            for server in servers.values():
                warm_up(server, args, until)
            rounds = run(servers, args, until, functools.partial(write, args))
        except TIMEOUTS as error:
            # asyncio's has no text: it ended the clients of warm_up.
            why = str(error) or f"the servers were not loaded and warmed up within {args.seconds:.0f} s"
            sys.exit(f"nothing was measured: {why}")
        except (OSError, AssertionError, concurrent.futures.BrokenExecutor) as error:
            # What was measured stays. Only the end of the output may be read: no traces of all clients.
            print(f"stopped: {type(error).__name__} {error}", flush=True)
            sys.exit(1)
        finally:
            for name, server in servers.items():
                if server.process.poll() is not None:
                    print(f"{name} ended by itself, with {server.process.returncode}", flush=True)
                server.stop()
    if not rounds:
        sys.exit(f"nothing was measured within {args.seconds:.0f} s")
    print(summary.tables([summary.read_figures(args.out)]))


if __name__ == "__main__":
    main()
