#!/usr/bin/env python3
"""Builds the fuzz targets and runs each: what it knows first (corpus, regressions), then what libFuzzer
makes of that for some seconds. Prints a table; exits 1 where a target found something.

Plain libFuzzer with the compiler's coverage flags, on the toolchain that builds the program: no
sanitiser, since no code here but SQLite's is unsafe, and overflow checks and debug assertions are on.
"""

import argparse
import concurrent.futures
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET_DIR = ROOT / "target" / "fuzz"
FLAGS = " ".join([
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
])
# What one input may take: seconds, where two cores do other things too, and memory of the whole process
# in MiB.
TIMEOUT, MEMORY = 30, 1024
# Beyond this many bytes inputs are slow and say nothing new.
LENGTH = 4096
# Corpus of one target in the repository.
MOST_FILES, MOST_BYTES = 50, 200_000


def host():
    version = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    return re.search(r"^host: (.*)$", version, re.M).group(1)


def build():
    """The folder with the targets' programs. Flags go to what runs, not to build scripts: hence --target."""
    triple = host()
    environment = dict(os.environ, CARGO_TARGET_DIR=str(TARGET_DIR), RUSTFLAGS=FLAGS)
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--bins", "--target", triple]
    built = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    if built.returncode:
        sys.exit(built.stderr)
    return TARGET_DIR / triple / "release"


def targets():
    return sorted(path.stem for path in (HERE / "targets").glob("*.rs"))


def folder(*parts):
    path = TARGET_DIR.joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def command(program, name):
    """A target, and the file in which it keeps the input that runs."""
    dictionary = HERE / "dictionaries" / f"{name}.dict"
    flags = [f"-timeout={TIMEOUT}", f"-rss_limit_mb={MEMORY}", f"-artifact_prefix={folder('found', name)}/"]
    if dictionary.exists():
        flags.append(f"-dict={dictionary}")
    return [str(program), *flags]


def known(name):
    return [str(path) for kind in ("corpus", "regressions") if (path := HERE / kind / name).is_dir()]


def fuzz(programs, name, seconds, seed):
    """Runs one target for so many seconds of processor time; a row of the table. Seed 0 is a random one."""
    began, cpu, executions, coverage = time.time(), 0.0, 0, 0
    last, finds = folder("last") / name, folder("found", name)
    before = set(finds.iterdir())
    environment = dict(os.environ, FUZZ_LAST=str(last), RUST_BACKTRACE="0")
    while True:
        run = [*command(programs / name, name), f"-max_total_time={max(1, round(seconds - cpu))}",
               f"-max_len={LENGTH}", f"-seed={seed}", "-print_final_stats=1", str(folder("corpus", name)), *known(name)]
        with tempfile.TemporaryFile() as output:
            child = subprocess.Popen(run, stdout=output, stderr=output, env=environment)
            _, status, usage = os.wait4(child.pid, 0)
            output.seek(0)
            text = output.read().decode(errors="replace")
        cpu += usage.ru_utime + usage.ru_stime
        counted = re.search(r"stat::number_of_executed_units: (\d+)", text)
        pulses = re.findall(r"^#(\d+)\t.*? cov: (\d+)", text, re.M)
        executions += int(counted[1]) if counted else int(pulses[-1][0]) if pulses else 0
        coverage = max([coverage, *(int(cov) for _, cov in pulses)])
        code = os.waitstatus_to_exitcode(status)
        if code != 0:
            if not set(finds.iterdir()) - before:
                # It died without a word: of a stack overflow, most likely.
                kept = last.read_bytes()
                (finds / "died").write_bytes(kept[4:4 + int.from_bytes(kept[:4], sys.byteorder)])
            shown = [line for line in text.splitlines() if not re.match(r"#\d|INFO|\tNEW|stat::", line)]
            print(f"--- {name} ended with {code}", *shown[:30], sep="\n", file=sys.stderr, flush=True)
            break
        # Where others compute too, time on the clock is not time of the processor.
        if cpu >= 0.95 * seconds or time.time() - began > 8 * seconds:
            break
    found = sorted(str(path.relative_to(ROOT)) for path in set(finds.iterdir()) - before)
    return name, executions, cpu, coverage, found if code else []


def minimise(programs, name):
    """Rewrites a target's corpus: of all inputs that are known, those that together reach most."""
    control = folder("merge") / name
    control.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as out:
        run = [*command(programs / name, name), "-set_cover_merge=1", f"-merge_control_file={control}",
               f"-max_len={LENGTH}", out, str(folder("corpus", name)), *known(name)]
        subprocess.run(run, check=True, capture_output=True, env=dict(os.environ, FUZZ_LAST="/dev/null"))
    lines = control.read_text().splitlines()
    count = int(lines[0])
    paths = [pathlib.Path(line) for line in lines[2:2 + count]]
    reached = {int(i): set(rest) for line in lines if line.startswith("FT ") for _, i, *rest in [line.split()]}
    chosen, seen, size = [], set(), 0
    # Greedy, by what each adds for its length.
    while len(chosen) < MOST_FILES:
        best = max(reached, key=lambda i: len(reached[i] - seen) / (64 + paths[i].stat().st_size), default=None)
        if best is None or not reached[best] - seen:
            break
        features = reached.pop(best)
        if size + paths[best].stat().st_size <= MOST_BYTES:
            size += paths[best].stat().st_size
            seen |= features
            chosen.append(paths[best].read_bytes())
    corpus = HERE / "corpus" / name
    shutil.rmtree(corpus, ignore_errors=True)
    corpus.mkdir(parents=True)
    for data in chosen:
        (corpus / hashlib.sha1(data).hexdigest()[:16]).write_bytes(data)
    print(f"{name}: {len(chosen)} inputs, {size} bytes, {len(seen)} features")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=targets())
    parser.add_argument("--seconds", type=float, default=5, help="processor time of each target")
    parser.add_argument("--seed", type=int, default=0, help="as libFuzzer has it; 0: another one each time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="targets at a time")
    parser.add_argument("--minimise", action="store_true", help="rewrite the corpus instead")
    options = parser.parse_args()
    programs = build()
    if options.minimise:
        for name in options.targets:
            minimise(programs, name)
        return 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda name: fuzz(programs, name, options.seconds, options.seed), options.targets))
    print(f"\n{'target':<14}| {'executions':>12} | {'cpu s':>7} | {'coverage':>8} | found")
    for name, executions, cpu, coverage, found in rows:
        print(f"{name:<14}| {executions:>12,} | {cpu:>7.1f} | {coverage:>8,} | {' '.join(found) or '-'}")
    return 1 if any(found for *_, found in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
