"""What a run prints: figures of the deaths, of the answers, and of what the processes took."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path

from asks import CHAT, EMBED

BEGIN, END = "<!-- soak: written by `make soak` -->", "<!-- soak: end -->"


@dataclass
class Recovery:
    """What streams felt of a death of the chat engine, in seconds from the signal on."""

    fault: object
    # Until their next token, of streams that had tokens already.
    gaps: list = field(default_factory=list)
    waited: int = 0
    commented: int = 0
    # What ran, has tokens from before and after, and had no comment.
    silent: list = field(default_factory=list)


def recovery(fault, streams):
    result, end = Recovery(fault), fault.ready or fault.at + 60
    for stream in streams:
        if not stream.begin < fault.at < stream.end:
            continue
        told = next((at for at in stream.restarts if fault.at <= at <= end + 1), None)
        before = any(at < fault.at for at in stream.stamps)
        after = next((at for at in stream.stamps if at > (told or end)), None)
        result.commented += told is not None
        if told is None:
            if before and after:
                result.silent.append(stream.what)
        elif before and after:
            result.gaps.append(after - fault.at)
        else:
            result.waited += 1
    return result


def table(head, rows):
    line = lambda cells: "| " + " | ".join(str(cell) for cell in cells) + " |"
    return "\n".join([line(head), line(["---"] * len(head)), *(line(row) for row in rows)])


def seconds(values, percent=None):
    if not values:
        return "–"
    ordered = sorted(values)
    return f"{ordered[-1] if percent is None else ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]:.2f}"


def deaths(recoveries):
    """A row for each kind of fault."""
    rows = []
    kinds = dict.fromkeys(r.fault.kind for r in recoveries)
    for kind in kinds:
        these = [r for r in recoveries if r.fault.kind == kind]
        gaps = [gap for r in these for gap in r.gaps]
        firsts = [min(r.gaps) for r in these if r.gaps]
        ready = [r.fault.ready - r.fault.at for r in these if r.fault.ready]
        rows.append([
            kind, len(these), f"{seconds(ready, 50)} / {seconds(ready)}", len(gaps), sum(r.commented for r in these),
            f"{seconds(firsts, 50)} / {seconds(firsts)}", f"{seconds(gaps, 50)} / {seconds(gaps)}",
        ])
    head = ["death by", "times", "engine ready, s (p50 / max)", "streams that ran", "streams with the comment",
            "first token of any stream, s", "next token of a stream, s"]
    return table(head, rows)


def change(samples, name, digits=0):
    """At the beginning, at the end (means of a tenth of the time each), and at most."""
    values = [getattr(sample, name) for sample in samples]
    tenth = max(1, len(values) // 10)
    first, last = statistics.mean(values[:tenth]), statistics.mean(values[-tenth:])
    return f"{first:.{digits}f} → {last:.{digits}f} (max {max(values):.{digits}f})"


def figures(result):
    """The rows of the main table."""
    record, samples, span = result.record, result.samples, result.seconds
    kinds, counts = record.kinds(), result.judge.counts
    deadly = lambda model: [f for f in result.faults if f.model == model and f.deadly and f.at is not None]
    pauses = [f for f in result.faults if f.kind == "pause" and f.at is not None]
    return [
        ["time, clients, slots, seed", f"{span / 60:.1f} min, {result.clients}, {result.slots}, {result.seed}"],
        ["answers", f"{record.finished} ({record.finished / span:.1f}/s)"],
        ["tokens", f"{record.tokens} ({record.tokens / span:.0f}/s)"],
        ["clients that left in the middle", record.vanished],
        ["deaths of the chat engine", f"{len(deadly(CHAT))} of {result.kills}; {result.deaths[CHAT]} in the log"],
        ["deaths of the embedding engine", f"{len(deadly(EMBED))}; {result.deaths[EMBED]} in the log"],
        ["stopped for some seconds and continued", len(pauses)],
        ["**lost**", kinds["LOST"]],
        ["**wrong**", kinds["WRONG"]],
        ["**doubled**", kinds["DOUBLED"]],
        ["greedy texts", f"{counts['same']} the same, {counts['tie']} part at a near tie, {counts['open']} elsewhere"],
        ["those that parted, and follow-ups, computed again", f"{result.settled} different ones; {result.unsettled} were not"],
        ["memory of the server, MiB", change(samples, "parent")],
        ["memory of the chat engine, MiB", change(samples, "chat")],
        ["memory of the embedding engine, MiB", change(samples, "embed")],
        ["open files: server; engines", f"{change(samples, 'files')}; {change(samples, 'child_files')}"],
        ["threads: server; engines", f"{change(samples, 'threads')}; {change(samples, 'child_threads')}"],
        ["SIGTERM with streams that run", result.term],
        ["SIGKILL of the server", result.kill],
    ]


def text(result):
    recoveries = [recovery(f, result.record.streams) for f in result.faults
                  if f.model == CHAT and f.deadly and f.at is not None]
    rows = [[kind, count] for kind, count in sorted(result.record.answers.items())]
    silent = [f"- a stream that went on without the comment: {what}" for r in recoveries for what in r.silent]
    parts = [table(["figure", "value"], figures(result))]
    parts += [deaths(recoveries)] if recoveries else []
    parts += [table(["answers", "number"], rows)]
    return "\n\n".join(parts + (["\n".join(silent)] if silent else []))


def faults(result, most=40):
    """What is not as it has to be, as lines."""
    lines = [f"{at - result.begin:8.1f} s  {kind}: {what}" for at, kind, what in result.record.faults]
    lines = lines[:most] + ([f"... and {len(lines) - most} more"] if len(lines) > most else [])
    lines += [f"{f.kind} of {f.model} at {f.due:.1f} s: {f.wrong}" for f in result.faults if f.wrong]
    return lines + result.wrong


def write(path, content):
    """Into a Markdown file: between the marks where it has them, else at its end."""
    path = Path(path)
    old = path.read_text() if path.exists() else ""
    new = f"{BEGIN}\n{content}\n{END}"
    before, found, rest = old.partition(BEGIN)
    if found:
        path.write_text(before + new + rest.partition(END)[2])
    else:
        path.write_text((old.rstrip() + "\n\n" if old else "") + new + "\n")
