"""What a run of the benchmark prints, and writes into docs/performance.md."""

import datetime
import platform
import re
from pathlib import Path

from servers import SHAPES

BEGIN, END = "<!-- bench: written by `make bench` -->", "<!-- bench: end -->"

# What the figures were to be, as ratios to the peer or, where it says so, as they are. They were set before
# anything was measured; what is missed, and why, stands in docs/performance.md.
WANTED = {
    "single tokens/s": "0.97", "mixed itl_max_ms": "5", "shared tokens/s": "3",
    "shared8 tokens/s": "3.3", "shared8 ttft_p99_ms": "4", "shared16 tokens/s": "5",
    "turns next_ttft_p50_ms": "2", "fair few_beside/alone": "at most 1.5",
    "shared8 part of the ideal": "0.85", "shared16 part of the ideal": "0.85",
    "schema valid, of 1": "1", "schema part of free": "0.9", "schema ttft_more_ms": "under 1 ms",
    "flood errors": "0", "flood health_p99_ms": "under 50", "flood KB of memory for each": "under 50",
    "own work, % of a step": "under 5", "embed texts/s": "1.2", "embed1 texts/s": "1.2",
    "16 streams tokens/s, HTTP and not": "0.97",
}
# Scenarios that shall be as good as the peer's, whatever the model.
AS_GOOD = ("batch", "short", "warm", "chats", "mixed", "copyedit", "schema", "flood250", "shared8", "shared16")
WANTED |= {f"{name} tokens/s": "1.0" for name in AS_GOOD if f"{name} tokens/s" not in WANTED}
WANTED |= {f"{name} ttft_p50_ms": "1.0" for name in ("single", "shared", *AS_GOOD)}


def wanted_of(name):
    """What a figure was to be, with any model."""
    first, _, rest = name.partition(" ")
    return WANTED.get(rest if first in SHAPES else name, "")


def show(value):
    return "" if value is None else f"{value:.2f}"


class Report:
    """Rows of figures: printed at once, kept for the table."""

    def __init__(self):
        self.rows = []

    def heading(self, text):
        print(f"\n{text}", flush=True)

    def servers(self, name):
        self.heading(f"{name + ':':32} {'forebay':>10} {'peer':>10}    ratio (over 1: forebay is better)")

    def compare(self, name, ours, peer, higher_is_better=True):
        """Returns the ratio, if there is one: of errors there may be none."""
        better, worse = (ours, peer) if higher_is_better else (peer, ours)
        ratio = better / worse if worse else None
        print(f"{name:32} {ours:10.2f} {peer:10.2f} {show(ratio):>8}", flush=True)
        self.rows.append((name, ours, peer, ratio))
        return ratio

    def mean(self, name, ratio):
        print(f"{name:54} {ratio:8.2f}", flush=True)
        self.rows.append((name, None, None, ratio))

    def tell(self, name, value):
        print(f"{name:32} {value:10.2f}", flush=True)
        self.rows.append((name, value, None, None))

    def value(self, name):
        return next((ours for row, ours, *_ in self.rows if row == name), None)

    def write(self, path, heading):
        """Puts the table between the marks of a Markdown file, under a line that says when and on what."""
        table = "\n".join(
            f"| {name} | {show(ours)} | {show(peer)} | {show(ratio)} | {wanted_of(name)} |"
            for name, ours, peer, ratio in self.rows
        )
        text = (
            f"{BEGIN}\n\n{heading}.\n\n"
            "| | forebay | peer | ratio | wanted |\n|---|---:|---:|---:|---|\n"
            f"{table}\n\n{END}"
        )
        path = Path(path)
        old = path.read_text()
        new, found = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: text, old, flags=re.DOTALL)
        if found != 1:
            raise SystemExit(f"{path} has no place for the table")
        path.write_text(new)


def today():
    """The date and the processor, for a heading."""
    return f"{datetime.date.today()}, {cpu()}"


def cpu():
    """The processor's name and what matters about it."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    name = re.search(r"model name\s*: (.*)", info)
    flags = info.split("flags", 1)[-1].split("\n", 1)[0].split()
    known = {"amx_int8": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}
    has = next((word for flag, word in known.items() if flag in flags), "no AVX2")
    return f"{name[1].strip() if name else 'a processor without a name'} ({has})"
