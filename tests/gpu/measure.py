"""Two servers on one machine's GPU, in turn: measure.py --forebay F --peer P --model M.gguf

Nothing but Python's own library: where a GPU is lent, there may be nothing else. The clients are
processes, so that they do not wait for each other. Prompts are token ids at random: none is known to
any server, and each has the length that is asked for.
"""

import argparse
import asyncio
import concurrent.futures
import json
import os
import random
import socket
import statistics
import subprocess
import time
import urllib.request

PER_PROCESS = 16


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
    return asked, came


def client(port, jobs):
    async def all_of_them():
        return await asyncio.gather(*(stream(port, body, after) for body, after in jobs))

    return asyncio.run(all_of_them())


def load(port, jobs):
    groups = [jobs[at : at + PER_PROCESS] for at in range(0, len(jobs), PER_PROCESS)]
    with concurrent.futures.ProcessPoolExecutor(len(groups)) as pool:
        return [answer for group in pool.map(client, [port] * len(groups), groups) for answer in group]


def body(rng, vocab, prompt, tokens, prefix=()):
    ids = [*prefix, *(rng.randrange(300, vocab) for _ in range(prompt - len(prefix)))]
    return {"model": "m", "prompt": ids, "max_tokens": tokens, "ignore_eos": True, "temperature": 1.0,
            "seed": rng.randrange(1 << 30), "stream": True}


def scenarios(args, seed):
    """Names, and their jobs: bodies, and when each is sent. Other seeds have other prompts."""
    rng, (prompt, tokens) = random.Random(seed), (args.prompt, args.tokens)
    for streams in args.streams:
        yield f"{streams} streams", [(body(rng, args.vocab, prompt, tokens), 0.0) for _ in range(streams)]
    most = max(args.streams)
    prefix = [rng.randrange(300, args.vocab) for _ in range(4 * prompt)]
    shared = [(body(rng, args.vocab, 4 * prompt + 64, tokens, prefix), 0.0) for _ in range(max(most // 2, 1))]
    yield "shared prefix", shared
    # Answers run; long prompts come in between.
    short = [(body(rng, args.vocab, prompt // 4, 3 * tokens), 0.0) for _ in range(max(most // 4, 1))]
    yield "mixed", short + [(body(rng, args.vocab, 8 * prompt, 16), 0.5 + 0.25 * n) for n in range(max(most // 16, 1))]


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else float("nan")


def figures(answers):
    start, end = min(a for a, _ in answers), max(came[-1] for _, came in answers)
    ttft = [(came[0] - asked) * 1e3 for asked, came in answers]
    gaps = [(b - a) * 1e3 for _, came in answers for a, b in zip(came, came[1:])]
    return {"tokens/s": sum(len(came) for _, came in answers) / (end - start), "ttft p50": percentile(ttft, 50),
            "ttft p99": percentile(ttft, 99), "itl p50": percentile(gaps, 50), "itl p99": percentile(gaps, 99)}


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
        self.percent = float("nan")
        if self.process:
            self.process.terminate()
            samples = [int(line) for line in self.process.communicate()[0].split() if line.isdigit()]
            self.percent = statistics.fmean(samples) if samples else float("nan")


class Server:
    def __init__(self, command, log):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # No folder for what is kept between starts: each server learns what steps cost anew.
        environment = os.environ | {"XDG_CACHE_HOME": os.devnull}
        self.process = subprocess.Popen([*command, "--port", str(self.port)], stdout=log, stderr=log, env=environment)
        for _ in range(3000):
            assert self.process.poll() is None, f"{command[0]} ended with {self.process.returncode}"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"{command[0]} is not ready")

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def command(program, args, more):
    """The program with its best settings: `llama-server`, or a build of Forebay."""
    most = max(args.streams)
    cells = most * (5 * args.prompt + 64 + 3 * args.tokens)
    common = ["--parallel", most, "--ctx-size", cells, *more.split()]
    if os.path.basename(program) == "forebay":
        own = ["serve", "--model", f"m={args.model}", "--gpu-layers", args.gpu_layers, "--queue", 4 * most]
    else:
        layers = 999 if args.gpu_layers in ("all", "auto") else args.gpu_layers
        own = ["--model", args.model, "--alias", "m", "--kv-unified", "--n-gpu-layers", layers, "--flash-attn", "on"]
    return [str(part) for part in [program, *own, *common]]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--forebay", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 8, 32, 64, 128])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=128000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpu-layers", default="all")
    parser.add_argument("--ours", default="", help="more flags for forebay")
    parser.add_argument("--theirs", default="", help="more flags for the peer")
    parser.add_argument("--out", help="write all figures to this JSON file")
    args = parser.parse_args()
    with open(os.devnull if not args.out else args.out + ".log", "w") as log:
        both = {}
        for name, program, more in (("forebay", args.forebay, args.ours), ("peer", args.peer, args.theirs)):
            # One after the other: both do not fit beside each other.
            server, rounds = Server(command(program, args, more), log), []
            try:
                # The first round warms up.
                for number in range(args.rounds + 1):
                    rounds.append({})
                    for scenario, jobs in scenarios(args, number):
                        with Busy() as busy:
                            answers = load(server.port, jobs)
                        rounds[-1][scenario] = {**figures(answers), "gpu busy %": busy.percent}
            finally:
                server.stop()
            keys = rounds[0]["mixed"]
            middle = lambda scenario, key: statistics.median(r[scenario][key] for r in rounds[1:])
            both[name] = {scenario: {key: middle(scenario, key) for key in keys} for scenario in rounds[0]}
            for scenario, values in both[name].items():
                print(name, scenario, {key: round(value, 2) for key, value in values.items()}, flush=True)
    print("\n| scenario | " + " | ".join(f"{key}: forebay, peer, ratio" for key in keys) + " |")
    print("|---" * (len(keys) + 1) + "|")
    for scenario, ours in both["forebay"].items():
        cells = [f"{ours[key]:.1f}, {both['peer'][scenario][key]:.1f}, {ours[key] / max(both['peer'][scenario][key], 1e-9):.2f}" for key in ours]
        print(f"| {scenario} | " + " | ".join(cells) + " |")
    if args.out:
        with open(args.out, "w") as file:
            json.dump(both, file, indent=1)


if __name__ == "__main__":
    main()
