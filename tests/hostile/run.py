"""Attacks a server and says what the others felt.

    run.py                      all attacks, 1,000 generated requests, the connections
    run.py --quick              a part of it, in under three minutes
    run.py --only NAME          one attack (several with commas), `generated` or `connections`
    run.py --seed N --count 1   the generated request with this number

Prints a table in Markdown; the exit status is 1 where a figure is not as wanted.
"""

import argparse
import contextlib
import itertools
import os
import resource
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import attacks
import connections
import generate
import whole
from probe import Probe, harmless, is_answered
from server import CHAT, DRAIN_S, Server

# How often a request is sent that the machine kept from being sent in time: on two busy cores a quarter is. The part
# that may be late each time.
ATTEMPTS, LATE_PART = 4, 0.25
HEALTH_MS, MEMORY_MIB, SPEED, EXIT_S = 50, 300, 0.9, DRAIN_S + 5
AT_ONCE = 10
MOST_S = 60.0
FOUND = Path(os.environ.get("HOSTILE_FOUND", "/tmp/hostile-found"))
HEADER = (
    "| row | attack | answers | lives | health p50 / p99 / max, ms | alone p99 | memory, MiB | tokens/s alone / harmless / attacked "
    "| part | SIGTERM, s | wrong |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


class Options:
    """What is measured, and for how long."""

    def __init__(self, quick, compare):
        # How long streams run alone, and beside an attack, in seconds.
        self.alone, self.attacked = (1.5, 3.0) if quick else (3.0, float(os.environ.get("HOSTILE_SECONDS", 10)))
        # Whether they also run beside harmless requests, for as long.
        self.quick, self.compare = quick, compare and not quick
        self.health_ms = float(os.environ.get("HOSTILE_HEALTH_MS", HEALTH_MS))


def statuses(replies):
    """How many replies had each status, as text."""
    count = Counter(str(reply.status) if reply.status else "late" if reply.late else "none" for reply in replies)
    return ", ".join(f"{n}× {status}" for status, n in sorted(count.items()))


def wrong_replies(replies):
    """Answers that no client should get: 500, and connections that end for no reason."""
    found = Counter()
    for reply in replies:
        if reply.status >= 500 and reply.status not in (503, 504, 501, 529):
            found[f"{reply.status}: {reply.body[:60].decode(errors='replace')}"] += 1
        if reply.error:
            found[reply.error[:60]] += 1
    return [f"{what} ({n}×)" for what, n in found.most_common(4)]


def step_back():
    """Lets the server and the ordinary clients go first: real attackers have machines of their own.
    Threads that this one starts do the same."""
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def rounds(attack, context, seconds):
    """Rounds of an attack for some time, one a second at most. How long they took; a round that
    hangs is left alone."""
    begin = time.monotonic()
    context.until = begin + seconds

    def work():
        step_back()
        while True:
            started = time.monotonic()
            try:
                attack.round(context)
            except (OSError, ValueError, KeyError) as error:
                if context.server.alive:
                    context.faults.append(f"{type(error).__name__}: {error}"[:100])
            if time.monotonic() >= context.until or not context.server.alive or context.faults:
                return
            time.sleep(max(0, started + 1 - time.monotonic()))

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    while worker.is_alive() and time.monotonic() < begin + MOST_S:
        worker.join(0.1)
    if worker.is_alive() and context.server.alive:
        context.faults.append(f"not over after {MOST_S:.0f} s")
    # What it holds for longer is felt for longer.
    time.sleep(max(0, context.until - time.monotonic()) if context.server.alive else 0)
    return begin, time.monotonic()


class Servers:
    """A server for each attack; one for many of them where time is short."""

    def __init__(self, quick):
        self.quick, self.kept = quick, None

    @contextlib.contextmanager
    def one(self, attack):
        server = self.kept if not attack.bare else None
        if server is None:
            server = Server(bare=attack.bare)
            server.warm((CHAT, attack.model) if attack.bare else (CHAT,))
        self.kept = server if self.quick and not attack.bare else None
        try:
            yield server
        finally:
            if not self.kept or not server.alive:
                self.kept = None
                server.close()

    def close(self):
        if self.kept:
            self.kept.close()


def measure(attack, options, servers, once=False):
    """One attack."""
    with servers.one(attack) as server:
        context, old = attacks.Context(server), set(server.panics())
        if attack.setup:
            attack.setup(context)
        row = beside(attack, context, options, once)
        row["wrong"] += [line[:80] for line in sorted(set(server.panics()) - old)[:2]]
        if context.notes.get("said") is False:
            row["wrong"].append("the model did not say it")
        row["SIGTERM"] = None
        if server.alive and not once and (not options.quick or attack.sigterm):
            row["SIGTERM"] = sigterm(attack, server)
        if row["SIGTERM"] is False:
            row["wrong"].append(f"SIGTERM: not over after {EXIT_S} s")
        row["notes"] = context.notes
        return row


def beside(attack, context, options, once):
    """A row of figures: what others feel alone, beside the attack, and beside harmless requests."""
    server = context.server
    row = {"row": attack.row, "name": attack.name, "wrong": [], "harmless": None}
    probe = Probe(server.port)
    time.sleep(1.0)
    alone = time.monotonic(), time.monotonic() + options.alone
    time.sleep(options.alone)
    tokens, memory = server.tokens(), server.baseline()
    begin, end = rounds(attack, context, 0 if once else options.attacked)
    if server.alive and (wrong := is_answered(server.port)) and server.alive:
        row["wrong"].append(f"afterwards {wrong}")
    # What it is like beside a server that has ended is no figure of the server's.
    row["lives"], end = server.alive, min(end, server.ended or end)
    row["memory"] = (server.peak_memory() - memory) / (1 << 20)
    after = server.tokens() if server.alive else tokens
    probe.stop()
    row["alone"], row["attacked"] = probe.figures(*alone), probe.figures(begin, end)
    streamed = row["attacked"]["tokens/s"] * (end - begin)
    # Each stream of 128 tokens had a prompt of some 70.
    prompt = max(0, after[0] - tokens[0] - streamed * 70 / 128)
    generated = max(0, after[1] - tokens[1] - streamed)
    row["admitted"] = prompt, generated, after[2] - tokens[2]
    if server.alive and options.compare:
        row["harmless"] = beside_harmless(server, row["admitted"], context, end - begin)
    judge(row, context, options)
    return row


def beside_harmless(server, admitted, context, seconds):
    """What others feel beside plain requests of as many tokens as the attack had admitted."""
    seconds = min(max(seconds, 3.0), 30.0)
    probe = Probe(server.port)
    time.sleep(1.0)
    begin = time.monotonic()
    good = sum(reply.status == 200 for reply in context.replies)
    if max(admitted) >= 100:

        def send():
            step_back()
            harmless(server.port, CHAT, *admitted, max(good, 1), seconds)

        sender = threading.Thread(target=send)
        sender.start()
        sender.join()
    time.sleep(max(0, begin + seconds - time.monotonic()))
    figures = probe_until(probe, begin)
    return figures


def probe_until(probe, begin):
    end = time.monotonic()
    probe.stop()
    return probe.figures(begin, end)


def judge(row, context, options):
    """Adds what is not as wanted to `wrong`."""
    attacked, harmless_ = row["attacked"], row["harmless"]
    row["answers"] = statuses(context.replies)
    row["wrong"] += sorted(set(context.faults))[:4]
    if not row["lives"]:
        row["wrong"].insert(
            0, "killed at 3 GiB" if context.server.killed else f"ended: {context.server.process.returncode}"
        )
    else:
        row["wrong"] += wrong_replies(context.replies)
    if row["lives"] and (attacked["health_p99_ms"] is None or attacked["health_p99_ms"] > options.health_ms):
        row["wrong"].append("health p99")
    if row["memory"] > MEMORY_MIB:
        row["wrong"].append("memory")
    row["part"] = attacked["tokens/s"] / harmless_["tokens/s"] if harmless_ and harmless_["tokens/s"] else None
    if sum(reply.late for reply in context.replies) > LATE_PART * len(context.replies):
        row["wrong"].append("too many were sent late: the machine is too busy")
    if row["part"] is not None and row["part"] < SPEED:
        row["wrong"].append("speed")
    if row["lives"] and attacked["errors"]:
        row["wrong"].append(f"others: {attacked['errors'][0][:60]} ({len(attacked['errors'])}×)")


def sigterm(attack, server):
    """Seconds from SIGTERM to the end while the attack goes on; False where it was killed."""
    context = attacks.Context(server)
    if attack.setup:
        with contextlib.suppress(OSError, ValueError, KeyError):
            attack.setup(context)
    context.until = time.monotonic() + 30

    def work():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            attack.round(context)

    threading.Thread(target=work, daemon=True).start()
    time.sleep(0.7)
    taken = server.terminate(EXIT_S + 2)
    return False if taken is None or taken > EXIT_S else taken


# --- Generated requests -----------------------------------------------------------------------


def generated_attack(first, count, sent):
    """All cases, ten at a time, as one round. `sent` gets those that were wrong."""

    def round_(context):
        names = whole.kept_names(context.port)
        numbers = iter(range(first, first + count) if first is not None else [])
        numbers = itertools.chain([] if count == 1 else generate.seeds(), numbers)
        lock, under_way = threading.Lock(), {}

        def work(worker):
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None or not context.server.alive:
                    return
                case = under_way[worker] = generate.generate(number, names)
                for _ in range(ATTEMPTS):
                    reply = generate.run(case, context.port)
                    if not reply.late:
                        break
                if not context.server.alive:
                    return
                context.replies.append(reply)
                if wrong_replies([reply]):
                    keep(case, reply, sent)
                del under_way[worker]

        workers = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(AT_ONCE)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if not context.server.alive:
            for case in under_way.values():
                keep(case, None, sent)

    return attacks.Attack("generated", "", f"{count} requests from seed {first}", round_)


def keep(case, reply, sent):
    FOUND.mkdir(parents=True, exist_ok=True)
    path = FOUND / f"{case.number}.bin"
    path.write_bytes(case.data())
    what = "under way when the server ended" if reply is None else f"{reply.status} {reply.error}"
    sent.append(f"seed {case.number}: {what}: {', '.join(case.title)} ({path})")


def measure_generated(seed, count, options, servers):
    global MOST_S
    MOST_S, found = 60.0 + count * 1.5, []
    row = measure(generated_attack(seed, count, found), options, servers, once=True)
    row["found"] = found
    return row


# --- Report -----------------------------------------------------------------------------------


def line(row):
    number = lambda value, digits=0: "–" if value is None else f"{value:.{digits}f}"
    attacked, alone, beside_ = row["attacked"], row["alone"], row["harmless"]
    health = " / ".join(number(attacked[f"health_{p}_ms"]) for p in ("p50", "p99", "max"))
    speeds = " / ".join(number(f["tokens/s"] if f else None) for f in (alone, beside_, attacked))
    sigterm_ = row.get("SIGTERM")
    cells = [
        row["row"],
        row["name"],
        row["answers"],
        "yes" if row["lives"] else "**no**",
        health,
        number(alone["health_p99_ms"]),
        f"{row['memory']:+.0f}",
        speeds,
        number(row["part"], 2),
        "**no**" if sigterm_ is False else number(sigterm_, 1),
        "; ".join(row["wrong"]).replace("|", "\\|") or "–",
    ]
    return "| " + " | ".join(cells) + " |"


def connection_figures(options):
    """`max_connections` + 100 idle ones, and 1,000 stalled ones, on each version."""
    most, stalled, wait = (256, 200, 3) if options.quick else (4096, 1000, 10)
    bad = 0
    print("\n| connections | opened, at a time | health, ms | all closed after, s | wrong |\n|---|---|---|---|---|")
    cases = [(*case, most + 100) for case in connections.IDLE] + [(*case, stalled) for case in connections.STALLED]
    if options.quick:
        cases = [case for case in cases if case[1] in (connections.h2_idle, connections.h2_no_window)]
    for name, first, reads, count in cases:
        server = Server(f"max_connections = {most}\n{connections.limits(wait)}")
        try:
            server.warm()
            row = connections.hold(server, name, count, first, reads, connections.reaped_s(wait))
            if not server.alive:
                row["faults"].append("the server ended")
        finally:
            server.close()
        bad += bool(row["faults"])
        reaped = "–" if row["reaped_s"] is None else f"{row['reaped_s']:.1f}"
        print(
            f"| {name} | {row['opened']} of {row['asked']}, {row['most']} | {row['health_ms']:.0f} | {reaped} | {'; '.join(row['faults']) or '–'} |",
            flush=True,
        )
    return bad


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int)
    parser.add_argument(
        "--no-compare", action="store_true", help="without harmless requests to compare with: on a busy machine"
    )
    parser.add_argument("--list", action="store_true", help="names and what is sent")
    return parser.parse_args()


def main():
    global MOST_S
    options_ = arguments()
    # So that no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options_.list:
        print("\n".join(f"{a.name:28} {a.row:3} {a.what}" for a in attacks.ALL))
        return 0
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options_.quick:
        # The machine may be busy, and attacks and what they cost have the idle policy.
        MOST_S *= 3
    options, only = (
        Options(options_.quick, not options_.no_compare),
        {name for name in options_.only.split(",") if name},
    )
    if options_.count and not only:
        only = {"generated"}
    unknown = only - {a.name for a in attacks.ALL} - {"generated", "connections"}
    if unknown:
        sys.exit(f"no such attack: {', '.join(unknown)}")
    chosen = [a for a in attacks.ALL if (a.name in only if only else a.quick or not options.quick)]
    bad, servers = 0, Servers(options.quick)
    if only != {"connections"}:
        print(HEADER, flush=True)
    for attack in chosen:
        begin = time.monotonic()
        row = measure(attack, options, servers)
        print(f"{attack.name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        bad += bool(row["wrong"])
        print(line(row), flush=True)
    if not only or "generated" in only:
        count = options_.count or (60 if options.quick else 1000)
        row = measure_generated(options_.seed, count, options, servers)
        bad += bool(row["wrong"])
        print(line(row), flush=True)
        print("\n".join(row["found"]))
    servers.close()
    if not only or "connections" in only:
        bad += connection_figures(options)
    print(f"\n{'All as wanted' if not bad else f'{bad} not as wanted'}.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
