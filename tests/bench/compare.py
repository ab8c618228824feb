"""Forebay and llama-server on the same models with the same context and slots, in one run.

The two take turns scenario by scenario, each under its own port, the other one idle; every round
uses prompts that neither has seen. Medians over the rounds are printed, their ratios, and the geometric
means of those; with `--write` they go into a Markdown file too.

    compare.py --forebay F --peer P --chat C.gguf --embedding E.gguf --scenarios short --model-shape qwen-0.5b
"""

import argparse
import json
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path

import psutil

import load
import plot
from report import Report, today
from servers import FEW_SLOTS, SHAPES, SLOT_TOKENS, SLOTS, Server, Setup, chat, shaped

SIDES = ("forebay", "peer")
# What the models with random weights are asked: they have no texts to copy, and 2,000 streams take too long.
SHAPED = ["single", "batch", "short", "warm", "shared", "chats", "mixed", "schema"]
# Cores that others use beside a measurement before it is said.
DISTURBED = 0.1
report = Report()


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


def cpu_elsewhere(servers):
    """Processor time that neither the servers nor this program had, in seconds: what disturbs a measurement."""
    every, own = psutil.cpu_times(), psutil.Process().cpu_times()
    total = every.user + every.nice + every.system  # `user` has that of guests in it
    return total - own.user - own.system - sum(server.cpu_s() for server in servers)


def alternate(args, scenario, setup, servers):
    """Rounds of a scenario on both servers, in the order A B, B A, ...: what each gave."""
    for turn in range(args.rounds + 1):
        number = args.first_round + turn
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            # The first one warms up.
            name = scenario if turn > 0 else args.warm_up or scenario
            begin, elsewhere = time.perf_counter(), cpu_elsewhere(servers)
            result = load.run(name, servers[index].url, "m", seed=number * 1000 + len(name), slots=setup.slots)
            seconds, elsewhere = time.perf_counter() - begin, cpu_elsewhere(servers) - elsewhere
            if turn > 0:
                yield {"measured": today(), "setup": setup.name, "scenario": scenario, "round": number, "side": SIDES[index],
                       "seconds": round(seconds, 1), "cores_elsewhere": round(elsewhere / seconds, 2),
                       "figures": result}


def compare(args, setup, scenarios):
    commands, ratios = setup.commands(args), []
    report.servers(setup.name)
    if args.scenarios is None:
        report.compare(f"{setup.name}: start-up s", *startups(*commands, 3), False)
    servers = []
    try:
        servers.extend(Server(command) for command in commands)
        for name in scenarios:
            before = drafts(servers[0]) if name == "copyedit" else None
            rounds = []
            for entry in alternate(args, name, setup, servers):
                rounds.append(entry)
                if args.raw:
                    with open(args.raw, "a") as file:
                        file.write(json.dumps(entry) + "\n")
            ratios.append(tell_rounds(rounds))
            if before:
                tell_drafts(servers[0], before)
        report.compare(f"{setup.name}: peak memory MB", *(server.peak_mb() for server in servers), False)
        report.compare(f"{setup.name}: CPU s", *(server.cpu_s() for server in servers), False)
    finally:
        for server in servers:
            server.stop()
    tell_means(setup.name, ratios)


def tell_rounds(rounds):
    """Medians of a scenario's rounds. Returns their ratios."""
    setup, scenario, figures = (rounds[0][key] for key in ("setup", "scenario", "figures"))
    ratios = {}
    for figure in figures:
        values = ([entry["figures"][figure] for entry in rounds if entry["side"] == side] for side in SIDES)
        # Those of the small chat model have always stood without a name.
        name = f"{setup} {scenario} {figure}" if setup in SHAPES else f"{scenario} {figure}"
        ratios[figure] = report.compare(name, *map(statistics.median, values), more_is_better(figure))
    elsewhere = max(entry["cores_elsewhere"] for entry in rounds)
    if elsewhere > DISTURBED:
        print(f"{setup} {scenario}: not alone, others used up to {elsewhere:.2f} cores")
    return ratios


def tell_means(setup, scenarios):
    """Geometric means of the ratios of one or more scenarios."""
    for figure in ("tokens/s", "ttft_p50_ms"):
        ratios = [ratios[figure] for ratios in scenarios if figure in ratios]
        if len(ratios) > 1:
            report.mean(f"{setup}: geometric mean of {len(ratios)}, {figure}", statistics.geometric_mean(ratios))


def more_is_better(figure):
    return figure.endswith("/s") or figure in ("valid, of 1", "part of free")


def tell_earlier(path):
    """The table of rounds that `--raw` has kept. Returns a line that says when and on what they were measured, and how
    many there are."""
    measured = set()
    groups = defaultdict(lambda: defaultdict(list))
    for line in Path(path).read_text().splitlines():
        entry = json.loads(line)
        groups[entry["setup"]][entry["scenario"]].append(entry)
        measured.add(entry["measured"])
    for setup, scenarios in groups.items():
        report.servers(setup)
        tell_means(setup, [tell_rounds(rounds) for rounds in scenarios.values()])
    counts = sorted({len(rounds) // len(SIDES) for scenarios in groups.values() for rounds in scenarios.values()})
    return f"{'; '.join(sorted(measured))}; {' or '.join(map(str, counts))} rounds"


def engine_limit(args):
    """Forebay over HTTP beside the same engine without it, taking turns: 16 streams."""
    command, _ = chat(args).commands(args)
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
    report.tell("own work, % of a step", 100 - sum(float(share) for share in re.findall(r"(?:kv|forward) .* ([\d.]+) %", printed)))


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
    for name, command in zip(("forebay", "llama-server"), chat(args).commands(args)):
        server, gaps = Server(command), []
        load.run("mixed", server.url, "m", seed=1)
        load.run("mixed", server.url, "m", seed=2, gaps=gaps)
        server.stop()
        series[name] = gaps
    plot.itl(args.plot, "Time between tokens of four streams while three long prompts arrive", series)


def flooded(args):
    """2,000 streams at once, and the memory that those which wait take."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, max(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    command, _ = chat(args).commands(args)
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


def arguments():
    scenarios = [*load.CHAT, *load.FEW_SLOTS, *load.EMBEDDING, "wire", "ideal", "own", "flood"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forebay")
    parser.add_argument("--peer")
    parser.add_argument("--chat")
    parser.add_argument("--embedding")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first-round", type=int, default=0, help="other prompts than those of earlier rounds")
    parser.add_argument("--warm-up", choices=load.CHAT, metavar="NAME",
                        help="warm up with this scenario; by default each with its own, once")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--scenarios", nargs="*", choices=scenarios, metavar="NAME", help=f"only these of {scenarios}")
    parser.add_argument("--model-shape", nargs="*", choices=["chat", *SHAPES], default=["chat", "qwen-0.5b"],
                        help="which chat models: the small one, or random weights in these shapes")
    parser.add_argument("--raw", help="append what each round gave to this file, a line of JSON each")
    parser.add_argument("--earlier", help="run nothing, print (and --write) the table of a file of --raw")
    parser.add_argument("--plot", help="write inter-token latencies of `mixed` to this SVG")
    parser.add_argument("--write", help="put the table into this Markdown file, between its marks")
    parser.add_argument("--ours", default="", help="more flags for forebay")
    parser.add_argument("--theirs", default="", help="more flags for the peer")
    args = parser.parse_args()
    needed = ("forebay", "peer", "chat", "embedding")
    if not args.earlier and (missing := [f"--{name}" for name in needed if not getattr(args, name)]):
        parser.error(f"needs {' '.join(missing)}")
    return args


def side_by_side(args):
    """Setups and what each is asked."""
    wanted = lambda names: [name for name in names if args.scenarios is None or name in args.scenarios]
    small = "chat" in args.model_shape
    if small:
        yield chat(args), wanted(load.CHAT)
    for shape in (shape for shape in args.model_shape if shape in SHAPES):
        yield shaped(args, shape), wanted(SHAPED if args.scenarios is None else load.CHAT)
    if small:
        yield Setup("few slots", args.chat, FEW_SLOTS), wanted(load.FEW_SLOTS)
        yield Setup("embedding", args.embedding, None), wanted(load.EMBEDDING)


def main():
    # Whoever ends this ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    args = arguments()
    if args.earlier:
        heading = tell_earlier(args.earlier)
        return args.write and report.write(args.write, heading)
    settings = f"{SLOTS} slots of {SLOT_TOKENS} tokens, {args.rounds} rounds, {psutil.cpu_count()} cores"
    print(settings)
    for setup, scenarios in side_by_side(args):
        if scenarios:
            compare(args, setup, scenarios)
    alone = {"wire": engine_limit, "ideal": ideals, "own": own_work, "flood": flooded}
    for name, measure in alone.items():
        if args.scenarios is None or name in args.scenarios:
            measure(args)
    if args.plot:
        plotted(args)
    if args.write:
        report.write(args.write, f"{today()}; {settings}")


if __name__ == "__main__":
    main()
