"""Inter-token latency over time as an SVG, for two servers."""

import math

WIDTH, HEIGHT, LEFT, BOTTOM = 900, 420, 70, 50
LOW, HIGH = 1, 10_000  # milliseconds
COLOURS = ("#1668c7", "#d0491f")


def y_of(ms):
    part = math.log(min(max(ms, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - 20)


def itl(path, title, series):
    """`series`: name to a list of (seconds since the start, milliseconds since the token before)."""
    end = max(t for points in series.values() for t, _ in points) * 1.02
    x_of = lambda t: LEFT + t / end * (WIDTH - LEFT - 20)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="15">{title}</text>',
        f'<text x="{WIDTH // 2}" y="{HEIGHT - 8}">seconds</text>',
    ]
    for exponent in range(5):
        ms = 10**exponent
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y_of(ms):.1f}" y2="{y_of(ms):.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y_of(ms) + 4:.1f}" text-anchor="end">{ms} ms</text>')
    for second in range(0, math.ceil(end), max(1, math.ceil(end / 12))):
        out.append(f'<text x="{x_of(second):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{second}</text>')
    for index, ((name, points), colour) in enumerate(zip(series.items(), COLOURS)):
        dots = "".join(f'<circle cx="{x_of(t):.1f}" cy="{y_of(ms):.1f}" r="2.2"/>' for t, ms in points)
        out.append(f'<g fill="{colour}" fill-opacity="0.55">{dots}</g>')
        out.append(f'<text x="{WIDTH - 220}" y="{35 + 18 * index}" fill="{colour}">● {name}</text>')
    with open(path, "w") as file:
        file.write("\n".join([*out, "</svg>", ""]))
