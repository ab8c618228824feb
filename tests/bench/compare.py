"""Forebay and llama-server on the same models with the same context and slots, in one run.

The two take turns scenario by scenario, each under its own port, the other one idle; every round
uses prompts that neither has seen. Medians over the rounds are printed, and their ratios; with
`--write` they go into a Markdown file too.
"""

import argparse
import re
import resource
import socket
import statistics
import subprocess
import time
import urllib.request

import psutil

import load
import plot
from report import Report

SLOTS, SLOT_TOKENS, FEW_SLOTS = 16, 2048, 4
report = Report()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process, with its start-up time and its peak memory."""

    def __init__(self, command, environment=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
        )
        while not self.healthy():
            if self.process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {self.process.returncode}")
            time.sleep(0.005)
        self.startup = time.perf_counter() - begin

    def healthy(self):
        try:
            urllib.request.urlopen(self.url + "/health", timeout=1).close()
            return True
        except OSError:
            return False

    def peak_mb(self):
        """Peak resident memory since the start, its engines' included, in MB (Linux: VmHWM)."""
        return sum(peak_mb(process.pid) for process in self.processes())

    def cpu_s(self):
        times = [process.cpu_times() for process in self.processes()]
        return sum(time.user + time.system for time in times)

    def processes(self):
        own = psutil.Process(self.process.pid)
        return [own, *own.children()]

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)


def peak_mb(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def commands(args, kind):
    """Both servers' command lines. The peer gets its best settings: continuous batching and flash
    attention are its defaults; for embeddings a batch that holds the longest input."""
    if kind != "embedding":
        slots = FEW_SLOTS if kind == "few slots" else SLOTS
        size = ["--parallel", str(slots), "-c", str(slots * SLOT_TOKENS)]
        ours = [args.forebay, "serve", "-m", f"m={args.chat}", *size]
        peer = [args.peer, "-m", args.chat, "--alias", "m", *size, "--no-webui"]
    else:
        ours = [args.forebay, "serve", "-m", f"m={args.embedding}"]
        peer = [args.peer, "-m", args.embedding, "--alias", "m", "--embeddings", "-np", str(SLOTS),
                "-c", str(SLOTS * 512), "-b", "2048", "-ub", "512", "--no-webui"]
    threads = ["--threads", str(args.threads or psutil.cpu_count())]
    return ours + threads + args.ours.split(), peer + threads + args.theirs.split()


def startups(ours, peer, rounds):
    """Medians of a start with a warm page cache, taking turns."""
    times = ([], [])
    for _ in range(rounds):
        for command, list_ in zip((ours, peer), times):
            server = Server(command)
            list_.append(server.startup)
            server.stop()
    return [statistics.median(t) for t in times]


def metric(server, name):
    text = urllib.request.urlopen(server.url + "/metrics").read().decode()
    return sum(float(v) for v in re.findall(rf"^{name}\{{?.*?\}}? ([\d.e+]+)$", text, re.M))


def drafts(server):
    """What became of guessed tokens so far: tokens that came, rows that were no drafts, right ones,
    computed ones."""
    names = ("forebay_generation_tokens_total", "forebay_draft_tokens_accepted_total", "forebay_draft_tokens_total")
    came, right, computed = (metric(server, name) for name in names)
    return came, came - right, right, computed


def tell_drafts(server, before):
    came, rows, right, computed = (now - then for now, then in zip(drafts(server), before))
    report.tell("copyedit tokens of a row's step", came / max(rows, 1))
    report.tell("copyedit drafts that were right", right / max(computed, 1))
    report.tell("break-even of a draft's token", metric(server, "forebay_draft_break_even_ratio"))


def compare(args, kind, scenarios):
    ours, peer = commands(args, kind)
    report.heading(f"{kind + ':':32} {'forebay':>10} {'peer':>10}    ratio (over 1: forebay is better)")
    if args.scenarios is None:
        one, other = startups(ours, peer, 3)
        report.compare(f"{kind}: start-up s", one, other, False)
    servers = Server(ours), Server(peer)
    for name in scenarios:
        results, before = ([], []), drafts(servers[0]) if name == "copyedit" else None
        for turn in range(args.rounds + 1):
            order = (0, 1) if turn % 2 == 0 else (1, 0)
            for index in order:
                result = load.run(name, servers[index].url, "m", seed=turn * 1000 + len(name))
                if turn > 0:  # the first one warms up
                    results[index].append(result)
        for figure in results[0][0]:
            one, other = (statistics.median(r[figure] for r in side) for side in results)
            report.compare(f"{name} {figure}", one, other, figure.endswith("/s"))
        if before:
            tell_drafts(servers[0], before)
    report.compare(f"{kind}: peak memory MB", servers[0].peak_mb(), servers[1].peak_mb(), False)
    report.compare(f"{kind}: CPU s", servers[0].cpu_s(), servers[1].cpu_s(), False)
    for server in servers:
        server.stop()


def engine_limit(args):
    """Forebay over HTTP beside the same engine without it, taking turns: 16 streams."""
    command, _ = commands(args, "chat")
    server = Server(command)
    bench = [args.forebay, "bench", "--model", args.chat, "--streams", "16", "--prompt-tokens", "64",
             "--tokens", "128", "--rounds", "1", "--threads", str(args.threads or psutil.cpu_count())]
    http, bare = [], []
    load.run("wire", server.url, "m", seed=0)
    for turn in range(1, args.rounds + 1):
        printed = subprocess.run(bench, capture_output=True, text=True, check=True).stdout
        bare.append(float(re.search(r"tokens/s\s+([\d.]+)", printed)[1]))
        http.append(load.run("wire", server.url, "m", seed=turn)["tokens/s"])
    server.stop()
    report.heading("HTTP beside the bare engine:")
    report.compare("16 streams tokens/s, HTTP and not", statistics.median(http), statistics.median(bare))


def bare(args, streams, prompt, tokens):
    """The bare engine: median time to a first token and between tokens, in seconds."""
    command = [args.forebay, "bench", "--model", args.chat, "--streams", streams, "--prompt-tokens", prompt,
               "--tokens", tokens, "--rounds", "1", "--threads", args.threads or psutil.cpu_count()]
    printed = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout
    return [float(re.search(rf"{name}\s+p50 ([\d.]+)", printed)[1]) / 1000 for name in ("TTFT", "ITL")]


def own_work(args):
    """What of a step is not the model's, with 32 sequences."""
    command = [args.forebay, "bench", "--model", args.chat, "--streams", "32", "--rounds", "2"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    report.heading("32 sequences, without HTTP:")
    report.tell("own work, % of a step", 100 - float(re.search(r"([\d.]+) % computing", printed)[1]))


def ideals(args, prefix=1500, rest=45, tokens=24):
    """What `shared8` and `shared16` would be with the prefix computed once and every other token
    once, at the bare engine's rates."""
    alone, _ = bare(args, 1, prefix, 2)
    report.heading("ideal:")
    for clients, requests in ((8, 24), (16, 48)):
        _, step = bare(args, clients, prefix, 12)
        seconds = alone * (1 + requests * rest / prefix) + requests / clients * tokens * step
        ideal = requests * tokens / seconds
        report.tell(f"shared{clients} ideal tokens/s", ideal)
        if seen := report.value(f"shared{clients} tokens/s"):
            report.tell(f"shared{clients} part of the ideal", seen / ideal)


def plotted(args):
    """Both servers under `mixed` once more, drawn."""
    series = {}
    for name, command in zip(("forebay", "llama-server"), commands(args, "chat")):
        server, gaps = Server(command), []
        load.run("mixed", server.url, "m", seed=1)
        load.run("mixed", server.url, "m", seed=2, gaps=gaps)
        server.stop()
        series[name] = gaps
    plot.itl(args.plot, "Time between tokens of four streams while three long prompts arrive", series)


def flooded(args):
    """2,000 streams at once, and the memory that those which wait take."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, max(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    command, _ = commands(args, "chat")
    # What host memory keeps of finished requests is not of those that wait.
    server = Server(command + ["--queue", "2100", "--kv-host-mib", "0"])
    load.run("batch", server.url, "m", seed=1)
    before = server.peak_mb()
    result = load.run("flood", server.url, "m", seed=2)
    each = (server.peak_mb() - before) * 1000 / 2000
    server.stop()
    report.heading("2,000 streams at once:")
    for name, value in {**result, "KB of memory for each": each}.items():
        report.tell(f"flood {name}", value)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forebay", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--chat", required=True)
    parser.add_argument("--embedding", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--scenarios", nargs="*", help="only these")
    parser.add_argument("--plot", help="write inter-token latencies of `mixed` to this SVG")
    parser.add_argument("--write", help="put the table into this Markdown file, between its marks")
    parser.add_argument("--ours", default="", help="more flags for forebay")
    parser.add_argument("--theirs", default="", help="more flags for the peer")
    args = parser.parse_args()
    settings = f"{SLOTS} slots of {SLOT_TOKENS} tokens, {args.rounds} rounds, {psutil.cpu_count()} cores"
    print(settings)
    kinds = {"chat": load.CHAT, "few slots": load.FEW_SLOTS, "embedding": load.EMBEDDING}
    for kind, scenarios in kinds.items():
        chosen = [name for name in scenarios if args.scenarios is None or name in args.scenarios]
        if chosen:
            compare(args, kind, chosen)
    if args.scenarios is None or "wire" in args.scenarios:
        engine_limit(args)
    if args.scenarios is None or "ideal" in args.scenarios:
        ideals(args)
    if args.scenarios is None or "own" in args.scenarios:
        own_work(args)
    if args.scenarios is None or "flood" in args.scenarios:
        flooded(args)
    if args.plot:
        plotted(args)
    if args.write:
        report.write(args.write, settings)


if __name__ == "__main__":
    main()
