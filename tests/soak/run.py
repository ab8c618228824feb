"""Serves for a long time while its engines are killed: is anything lost, wrong, or there twice?

    run.py --minutes 20             32 clients; 20 deaths of the chat engine
    run.py --minutes 1 --kills 3    a quick test

Prints tables in Markdown; the exit status is 1 where an answer was lost, wrong or doubled, an engine
died by itself, or a process was left.
"""

import argparse
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass, field

import picture
import report
from asks import CHAT, EMBED, Ask
from clients import Client, Crowd, Record
from faults import Faults, plan
from judge import Judge
from served import DRAIN_S, Server, Watch
from wire import Pace

# How long the last requests may take, and the texts that are computed again.
LAST_S, SETTLE_S = 240, 180
STORY = Ask("story", "text", ("Tell a long story.",), tokens=150)


@dataclass
class Result:
    """A run."""

    clients: int
    slots: int
    seed: int
    kills: int
    record: Record
    judge: Judge
    faults: list
    begin: float
    seconds: float = 0.0
    samples: list = field(default_factory=list)
    deaths: dict = field(default_factory=dict)
    settled: int = 0
    unsettled: int = 0
    term: str = ""
    kill: str = ""
    # What is wrong besides answers.
    wrong: list = field(default_factory=list)


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def soak(server, options):
    """The run itself: references, clients and faults, texts computed again."""
    record, judge = Record(), Judge(server.port)
    say("asking everything once, without faults")
    record.fault("references", judge.learn())
    seconds, begin = options.minutes * 60, time.monotonic()
    faults = plan(random.Random(options.seed), seconds, options.kills)
    slots = max(2, options.streams // 2)
    result = Result(options.streams, slots, options.seed, options.kills, record, judge, faults, begin)
    say(f"{options.streams} clients for {options.minutes} minutes, {len(faults)} faults")
    watch = Watch(server, record)
    crowd = Crowd(server.port, options.seed, options.streams, record, judge, begin + seconds)
    doing = Faults(server, faults, begin)
    if left := crowd.wait(seconds + LAST_S):
        result.record.fault("clients", [("LOST", f"{left} still wait {LAST_S} s after the end")])
    if not doing.wait(60):
        result.wrong.append("the faults are not over")
    result.seconds = time.monotonic() - begin
    watch.stop()
    result.samples = watch.samples
    undone = [f for f in faults if f.at is None and not f.wrong]
    result.wrong += [f"not done: {f.kind} of {f.model} at {f.due:.0f} s" for f in undone]
    say(f"computing {len(judge.open)} texts that parted again")
    found, result.unsettled = judge.settle(SETTLE_S)
    result.settled = len(judge.open) - result.unsettled
    if result.unsettled:
        result.wrong.append(f"{result.unsettled} texts that parted were not computed again in time")
    for name, fault in found:
        record.fault(name, [fault])
    return result


def check_log(server, result):
    result.deaths = {model: server.deaths(model) for model in (CHAT, EMBED)}
    for model, count in result.deaths.items():
        planned = sum(f.model == model and f.deadly and f.at is not None for f in result.faults)
        if count != planned:
            result.wrong.append(f"{count} engines of {model} died, {planned} were to")
    result.wrong += [f"log: {line[:300]}" for line in server.complaints()[:5]]


def long_streams(server, judge, count):
    """Streams that run while the server is ended: threads, and what they saw."""
    record = Record()

    def work(i):
        client = Client(server.port, "end", i, record, judge)
        answer = client.generate(STORY, "chat", Pace(), {"stream": True, "ignore_eos": True}, "story")
        if answer is not None:
            faults = judge.check_form(answer, 1)
            if answer.completion_tokens != STORY.tokens:
                faults.append(("LOST", f"{answer.completion_tokens} of {STORY.tokens} tokens"))
            record.fault("a stream at SIGTERM", faults)
            record.count("story")

    def guarded(i):
        try:
            work(i)
        except Exception as error:  # noqa: BLE001 — whatever it is, the stream is lost
            record.fault("a stream at the end", [("LOST", f"{type(error).__name__}: {error}")])

    threads = [threading.Thread(target=guarded, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    return threads, record


def terminate(server, result):
    """SIGTERM while streams run: they end whole, then the process ends, and no child is left."""
    threads, record = long_streams(server, result.judge, 4)
    status, seconds, left, _ = server.end(signal.SIGTERM, DRAIN_S + 10)
    for thread in threads:
        thread.join(5)
    result.record.faults += record.faults
    whole = record.finished - len({what for _, _, what in record.faults})
    result.term = f"exit status {status} after {seconds:.1f} s, {max(0, whole)} of 4 streams whole"
    result.term += f", {len(left)} children left"
    if status != 0 or left or record.finished != 4:
        result.wrong.append(f"SIGTERM: {result.term}")


def kill(result, threads):
    """SIGKILL: its children end by themselves."""
    server = Server(2, threads)
    try:
        threads, _ = long_streams(server, result.judge, 2)
        family = len(server.children())
        _, _, left, after = server.end(signal.SIGKILL, 10)
        for thread in threads:
            thread.join(5)
        result.kill = f"{len(left)} of {family} children left after {after:.2f} s"
        if left or family != 2:
            result.wrong.append(f"SIGKILL: {result.kill}")
    finally:
        server.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--streams", type=int, default=32, help="clients at a time; half as many slots")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, help="deaths of the chat engine; one a minute unless said")
    parser.add_argument("--threads", type=int, default=0, help="of each engine; 0 for all cores")
    parser.add_argument("--write", help="put the tables into this Markdown file, between its marks")
    parser.add_argument("--plot", help="draw the run into this SVG")
    parser.add_argument("--log", help="keep the server's log here")
    options = parser.parse_args()
    if options.kills is None:
        options.kills = max(1, round(options.minutes))
    # Whatever ends this ends the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    server = Server(max(2, options.streams // 2), options.threads)
    try:
        result = soak(server, options)
        check_log(server, result)
        terminate(server, result)
    finally:
        if options.log:
            with open(options.log, "w") as file:
                file.write(server.log_text())
        server.close()
    kill(result, options.threads)
    tables, wrong = report.text(result), report.faults(result)
    print(tables, *(["\nWrong:\n", *wrong] if wrong else []), sep="\n")
    if options.write:
        report.write(options.write, tables)
    if options.plot and len(result.samples) > 1:
        title = f"{options.streams} clients, {options.minutes:g} minutes"
        picture.soak(options.plot, title, result.samples, result.faults)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
