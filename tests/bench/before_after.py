"""Two builds of Forebay in turn, or two settings of one: did a change cost speed?

    before_after.py --before OLD/forebay --after target/release/forebay --chat MODEL.gguf
    before_after.py --before target/release/forebay --after target/release/forebay --chat MODEL.gguf \\
        --embedding MODEL.gguf --scenarios batch single long embed1 --before-env FOREBAY_SERVER__ENGINE_PROCESSES=false

Each round runs every scenario on one side, then on the other, in the order A B, B A, ... Medians of the
rounds and the median of the rounds' ratios are printed (above 1: the second one is better), of latencies
the median difference. `flood` has 2,000 streams at once.
"""

import argparse
import os
import resource
import statistics
import time

import load
from servers import SLOT_TOKENS, SLOTS, Server

# The figures of each scenario, and whether more is better.
RATE, ITL = ("tokens/s", True), ("itl_p99_ms", False)
FIGURES = {
    "single": [RATE, ITL],
    "batch": [RATE, ITL],
    # A thousand gaps between tokens.
    "long": [RATE, ("itl_p50_ms", False), ITL],
    "flood": [("streams/s", True)],
    "embed1": [("texts/s", True)],
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for side in ("before", "after"):
        parser.add_argument(f"--{side}", required=True)
        parser.add_argument(f"--{side}-env", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--chat", required=True)
    parser.add_argument("--embedding")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pause", type=float, default=0, help="seconds between two runs")
    parser.add_argument("--scenarios", nargs="*", default=["single", "batch", "flood"], choices=list(FIGURES))
    args = parser.parse_args()
    if "embed1" in args.scenarios and not args.embedding:
        parser.error("embed1 needs --embedding")
    return args


def start(args, model, *flags):
    """A server for each side."""
    sides = [(args.before, args.before_env), (args.after, args.after_env)]
    command = lambda binary: [binary, "serve", "-m", f"m={model}", *flags]
    # No folder for what is kept between starts: builds that keep nothing have no setting for it.
    none = {"XDG_CACHE_HOME": os.devnull}
    environment = lambda pairs: os.environ | none | dict(pair.split("=", 1) for pair in pairs)
    return [Server(command(binary), environment(pairs)) for binary, pairs in sides]


def compare(args, scenario, servers):
    results = ([], [])
    for turn in range(args.rounds + 1):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            time.sleep(args.pause)
            result = load.run(scenario, servers[side].url, "m", seed=turn)
            if result.get("errors"):
                raise SystemExit(f"{scenario}: {result['errors']} errors")
            if turn > 0:  # the first one warms up
                results[side].append(result)
    for name, more_is_better in FIGURES[scenario]:
        tell(scenario, name, more_is_better, *([result[name] for result in side] for side in results))


def tell(scenario, name, more_is_better, before, after):
    ratios = [b / a if more_is_better else a / b for a, b in zip(before, after)]
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    difference = statistics.median(b - a for a, b in zip(before, after))
    medians = f"{statistics.median(before):.1f} | {statistics.median(after):.1f} | {difference:+.1f}"
    print(f"| {scenario}, {name} | {medians} | {statistics.median(ratios):.2f} | {each} |", flush=True)


def main():
    args = arguments()
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, max(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    print("| scenario | before | after | difference | ratio, median | ratios |\n|---|---|---|---|---|---|")
    size = ["--parallel", str(SLOTS), "-c", str(SLOTS * SLOT_TOKENS), "--queue", "2100"]
    kinds = [(args.chat, size, [s for s in args.scenarios if s != "embed1"])]
    if "embed1" in args.scenarios:
        kinds.append((args.embedding, [], ["embed1"]))
    for model, flags, scenarios in kinds:
        if scenarios:
            servers = start(args, model, *flags)
            try:
                for scenario in scenarios:
                    compare(args, scenario, servers)
            finally:
                for server in servers:
                    server.stop()


if __name__ == "__main__":
    main()
