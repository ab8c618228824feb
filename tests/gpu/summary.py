"""What measure.py has found, as Markdown: summary.py FIGURES.json... [--costs COSTS.json]

One table for all models; a file for the same model as another one adds its rounds. A ratio over 1 says that Forebay is
better: more tokens, or less time. Figures are medians of rounds. COSTS.json is of `forebay bench --costs` for the first
model: with it, whether sampling is worth overlapping with the forward pass.
"""

import argparse
import json
import statistics
import sys

# Figures of which more is better.
RATES = {"tokens/s"}
SHOWN = ["tokens/s", "ttft p50", "ttft p99", "itl p50", "itl p99", "gpu busy %"]
WANTED = {
    ("1 streams", "tokens/s"): 0.98, ("64 streams", "tokens/s"): 1.3, ("128 streams", "tokens/s"): 1.3,
    ("shared prefix", "tokens/s"): 3, ("mixed", "itl p99"): 5,
}


def read(path):
    with open(path) as file:
        return json.load(file)


def order(scenario):
    """Streams by their number, then the others as they come."""
    number = scenario.split()[0]
    return int(number) if number.isdigit() else sys.maxsize


def rounds_by_title(files):
    """{title: rounds}, with the rounds of all files of a title."""
    rounds = {}
    for measured in files:
        rounds.setdefault(measured["title"], []).extend(measured["rounds"])
    return rounds


def medians(rounds):
    """{scenario: {side: {figure: median}}}, of all rounds that have the scenario, and {scenario: number of rounds}."""
    values, count = {}, {}
    for scenario, both in (each for one in rounds for each in one):
        count[scenario] = count.get(scenario, 0) + 1
        for side, figures in both.items():
            for key, value in figures.items():
                values.setdefault(scenario, {}).setdefault(side, {}).setdefault(key, []).append(value)
    middle = {scenario: {side: {key: statistics.median(found) for key, found in figures.items()}
                         for side, figures in sides.items()} for scenario, sides in values.items()}
    return dict(sorted(middle.items(), key=lambda each: order(each[0]))), count


def cells(key, sides):
    """Ours, the peer's and the ratio; empty if there are none."""
    if key not in sides.get("forebay", {}) or key not in sides.get("peer", {}):
        return ["", "", ""]
    own, other = sides["forebay"][key], sides["peer"][key]
    over, under = (own, other) if key in RATES else (other, own)
    ratio = "" if key.endswith("%") or not under else f"{over / under:.2f}"
    return [f"{own:.1f}", f"{other:.1f}", ratio]


def comparison(models):
    """One table of all models: {title: medians}."""
    yield "| | " + " | ".join(f"{title}: ours | peer | ratio" for title in models) + " | wanted |"
    yield "|---|" + "---:|" * (3 * len(models) + 1)
    scenarios = sorted({scenario: None for middle in models.values() for scenario in middle}, key=order)
    for scenario in scenarios:
        for key in SHOWN:
            found = [cell for middle in models.values() for cell in cells(key, middle.get(scenario, {}))]
            unit = "" if key in RATES or "%" in key else ", ms"
            if any(found):
                yield f"| {scenario}: {key}{unit} | {' | '.join(found)} | {WANTED.get((scenario, key), '')} |"


def step_times(models):
    """Where our steps' time goes, by the parts that the server has counters for."""
    ours = [(title, scenario, sides["forebay"]) for title, middle in models.items() for scenario, sides in middle.items()]
    parts = list({key: None for *_, figures in ours for key in figures if key.endswith(" ms")})
    if not parts:
        return
    yield "| a step of ours, ms | tokens | all | " + " | ".join(part.removesuffix(" ms") for part in parts) + " |"
    yield "|---|" + "---:|" * (len(parts) + 2)
    for title, scenario, figures in ours:
        if "step_tokens" in figures:
            times = [figures.get(part, 0.0) for part in parts]
            row = " | ".join(f"{time:.3f}" for time in [sum(times), *times])
            yield f"| {title}, {scenario} | {figures['step_tokens']:.1f} | {row} |"


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
    """Markdown of what measure.py wrote; `costs` are those of the first model."""
    models, heads = {}, {}
    for title, rounds in rounds_by_title(files).items():
        models[title], count = medians(rounds)
        few, many = min(count.values(), default=0), max(count.values(), default=0)
        heads[title] = f"{title} {few if few == many else f'{few} to {many}'}"
    known = {", ".join(measured[key] for key in ("device", "date", "load") if key in measured): None for measured in files}
    head = f"{'; '.join(known)}. Medians of rounds: {', '.join(heads.values())}."
    lines = [head, "", *comparison(models), "", *step_times(models), ""]
    if costs:
        lines += [*overlap(next(iter(models.values())), costs), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--costs")
    arguments = parser.parse_args()
    print(tables([read(path) for path in arguments.files], arguments.costs and read(arguments.costs)))
