"""What measure.py has found, as Markdown: report.py FIGURES.json... [--costs COSTS.json]

A ratio over 1 says that Forebay is better: more tokens, or less time. Figures are medians of rounds. COSTS.json is of
`forebay bench --costs`: with it, whether sampling is worth overlapping with the forward pass.
"""

import argparse
import json
import statistics

# Figures of which more is better.
RATES = {"tokens/s"}
SHOWN = ["tokens/s", "ttft p50", "ttft p99", "itl p50", "itl p99", "gpu busy %"]
WANTED = {
    ("1 streams", "tokens/s"): 0.98, ("64 streams", "tokens/s"): 1.3, ("128 streams", "tokens/s"): 1.3,
    ("shared prefix", "tokens/s"): 3, ("mixed", "itl p99"): 5,
}


def medians(rounds):
    """{scenario: {side: {figure: median}}}, of all rounds that have the scenario."""
    values = {}
    for scenario, both in (each for one in rounds for each in one):
        for side, figures in both.items():
            for key, value in figures.items():
                values.setdefault(scenario, {}).setdefault(side, {}).setdefault(key, []).append(value)
    return {scenario: {side: {key: statistics.median(found) for key, found in figures.items()}
                       for side, figures in sides.items()} for scenario, sides in values.items()}


def comparison(middle):
    yield "| | ours | peer | ratio | wanted |"
    yield "|---|---:|---:|---:|---:|"
    for scenario, sides in middle.items():
        ours, theirs = sides["forebay"], sides["peer"]
        for key in SHOWN:
            if key not in ours or key not in theirs:
                continue
            own, other = ours[key], theirs[key]
            ratio = "" if key == "gpu busy %" else f"{(own / other if key in RATES else other / own):.2f}"
            unit = "" if key in RATES or "%" in key else ", ms"
            yield f"| {scenario}: {key}{unit} | {own:.1f} | {other:.1f} | {ratio} | {WANTED.get((scenario, key), '')} |"


def step_times(middle):
    """Where our steps' time goes."""
    parts = [key for key in next(iter(middle.values()))["forebay"] if key.endswith(" ms") and "ttft" not in key]
    if not parts:
        return
    yield ""
    yield "| a step of ours, ms | tokens | " + " | ".join(part.removesuffix(" ms") for part in parts) + " |"
    yield "|---|---:|" + "---:|" * len(parts)
    for scenario, sides in middle.items():
        ours = sides["forebay"]
        if "step_tokens" in ours:
            cells = " | ".join(f"{ours[part]:.3f}" for part in parts)
            yield f"| {scenario} | {ours['step_tokens']:.1f} | {cells} |"


def overlap(middle, costs):
    """Half of the sequences sample while the other half is computed: two narrow passes for a wide one, and no sampling
    in between."""
    deepest = max((sample["depth"] for sample in costs["samples"] if sample["rows"] >= 64), default=0)
    rows = {sample["rows"]: sample["ms"] for sample in costs["samples"] if not sample["chunk"] and sample["depth"] == deepest}
    logits = {each["rows"]: each["ms"] for each in costs.get("logits", [])}
    for scenario, sides in middle.items():
        width = int(scenario.split()[0]) if scenario.endswith(" streams") else 0
        sample = sides["forebay"].get("sample ms")
        if width // 2 not in rows or width not in rows or sample is None:
            continue
        halves, whole = 2 * rows[width // 2], rows[width] + sample
        yield (f"{scenario}, {deepest} tokens deep: two passes of {width // 2} rows take {halves:.2f} ms, one of {width} and its "
               f"sampling {rows[width]:.2f} + {sample:.2f} ms: halves {'pay' if halves < whole else 'do not pay'}. "
               f"All logits add {logits.get(width, float('nan')):.2f} ms to the pass.")


def tables(files, costs=None):
    lines = []
    for name in files:
        with open(name) as file:
            measured = json.load(file)
        whole = len(measured["rounds"])
        lines += [f"**{measured['title']}**, medians of {whole} round{'s' if whole > 1 else ''}", ""]
        middle = medians(measured["rounds"])
        lines += [*comparison(middle), *step_times(middle), ""]
        if costs:
            with open(costs) as file:
                lines += [*overlap(middle, json.load(file)), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--costs")
    arguments = parser.parse_args()
    print(tables(arguments.files, arguments.costs))
