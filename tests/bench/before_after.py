"""Two builds of Forebay in turn: did a change cost speed?

    before_after.py --before OLD/forebay --after target/release/forebay --chat MODEL.gguf

Each round runs every scenario on one build, then on the other, in the order A B, B A, ... Medians of the
rounds and the median of the rounds' ratios are printed (above 1: the new build is better). `flood` has
servers of its own: 2,000 streams at once.
"""

import argparse
import resource
import statistics

import load
from compare import SLOT_TOKENS, SLOTS, Server

# The figure of each scenario, and whether more is better.
FIGURES = {"single": ("tokens/s", True), "batch": ("tokens/s", True), "flood": ("streams/s", True)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True)
    parser.add_argument("--after", required=True)
    parser.add_argument("--chat", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenarios", nargs="*", default=list(FIGURES))
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, max(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    size = ["--parallel", str(SLOTS), "-c", str(SLOTS * SLOT_TOKENS), "--queue", "2100"]
    servers = [Server([binary, "serve", "-m", f"m={args.chat}", *size]) for binary in (args.before, args.after)]
    for server in servers:
        load.run("batch", server.url, "m", seed=0)
    print("| scenario | before | after | ratio, median | ratios |\n|---|---|---|---|---|")
    for scenario in args.scenarios:
        name, more_is_better = FIGURES[scenario]
        values = ([], [])
        for turn in range(args.rounds):
            for side in (0, 1) if turn % 2 == 0 else (1, 0):
                result = load.run(scenario, servers[side].url, "m", seed=turn + 1)
                if result.get("errors"):
                    raise SystemExit(f"{scenario}: {result['errors']} errors")
                values[side].append(result[name])
        ratios = [after / before if more_is_better else before / after for before, after in zip(*values)]
        before, after = (statistics.median(side) for side in values)
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {scenario}, {name} | {before:.1f} | {after:.1f} | {statistics.median(ratios):.2f} | {each} |", flush=True)
    for server in servers:
        server.stop()


if __name__ == "__main__":
    main()
