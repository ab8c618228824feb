"""A run as an SVG: small charts below each other over the same time, with lines where faults were."""

import math
from collections import Counter

from asks import CHAT

WIDTH, LEFT, RIGHT, HEIGHT, GAP, TOP = 900, 70, 20, 90, 34, 44
COLOURS = ("#1668c7", "#d0491f")
FAULTS = {"kill": "#c00", "segv": "#c0c", "abort": "#e80", "stop": "#06c", "pause": "#999"}


def ceiling(value):
    """A round number that is at least as much."""
    if value <= 0:
        return 1
    unit = 10 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if unit * step >= value)


def charts(samples, finished):
    """Title and series of each chart."""
    series = lambda field: [(s.at, getattr(s, field)) for s in samples]
    return [
        ("memory of the server, MiB", {"server": series("parent")}),
        ("memory of the engines, MiB", {"chat": series("chat"), "embedding": series("embed")}),
        ("open files", {"server": series("files"), "engines": series("child_files")}),
        ("threads", {"server": series("threads"), "engines": series("child_threads")}),
        ("requests under way", {"generating": series("running")}),
        ("answers a second", {"answers": finished}),
    ]


def rate(samples, every=5):
    """Answers a second, over some seconds each."""
    picked = samples[::every]
    return [(b.at, (b.finished - a.finished) / max(b.at - a.at, 1e-9)) for a, b in zip(picked, picked[1:])]


def soak(path, title, samples, faults):
    begin, end = samples[0].at, samples[-1].at
    x_of = lambda at: LEFT + (at - begin) / max(end - begin, 1) * (WIDTH - LEFT - RIGHT)
    all_charts = charts(samples, rate(samples))
    height = TOP + len(all_charts) * (HEIGHT + GAP) + 20
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="16" font-size="14">{title}</text>',
    ]
    done = [fault for fault in faults if fault.at is not None]
    for i, (kind, count) in enumerate(sorted(Counter(fault.kind for fault in done).items())):
        out.append(f'<text x="{LEFT + 90 * i}" y="33" fill="{FAULTS[kind]}">┃ {kind} ({count})</text>')
    for i, (name, series) in enumerate(all_charts):
        out += chart(name, series, TOP + 14 + i * (HEIGHT + GAP), x_of, done)
    bottom = TOP + len(all_charts) * (HEIGHT + GAP)
    step = next((s for s in (10, 30, 60, 120, 300, 600, 1200) if (end - begin) / s <= 12), 3600)
    for second in range(0, math.floor(end - begin) + 1, step):
        label = f"{second} s" if step < 60 else f"{second // 60} min"
        out.append(f'<text x="{x_of(begin + second):.1f}" y="{bottom + 6}" text-anchor="middle">{label}</text>')
    with open(path, "w") as file:
        file.write("\n".join([*out, "</svg>", ""]))


def chart(name, series, top, x_of, faults):
    most = ceiling(max((value for points in series.values() for _, value in points), default=1))
    y_of = lambda value: top + HEIGHT - value / most * HEIGHT
    out = [f'<text x="{LEFT}" y="{top - 4}">{name}</text>']
    for value in (0, most / 2, most):
        y = y_of(value)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for fault in faults:
        x, dashes = x_of(fault.at), "" if fault.model == CHAT else ' stroke-dasharray="3 3"'
        out.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + HEIGHT}" stroke="{FAULTS[fault.kind]}"{dashes}/>'
        )
    for i, ((label, points), colour) in enumerate(zip(series.items(), COLOURS)):
        line = " ".join(f"{x_of(at):.1f},{y_of(value):.1f}" for at, value in points)
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
        if len(series) > 1:
            out.append(f'<text x="{WIDTH - RIGHT - 70 * (len(series) - i)}" y="{top - 4}" fill="{colour}">{label}</text>')
    return out
