"""What measure.py has found, as Markdown: summary.py FIGURES.json... [--costs TITLE=COSTS.json]...

One table for all models; a file for the same model as another one adds its rounds. A ratio over 1 says that Forebay is
better: more tokens, or less time. Figures are medians of rounds. COSTS.json is of `forebay bench --costs` for the model
whose figures have that title, which the file itself does not name: with it, whether sampling is worth overlapping with
the forward pass.

Nothing that Python 3.8 does not have: measure.py needs it where a GPU is lent.
"""

import argparse
import json
import math
import statistics
import sys

# Figures of which more is better.
RATES = {"tokens/s"}
SHOWN = ["tokens/s", "ttft p50", "ttft p99", "itl p50", "itl p99", "gpu busy %"]
# Ratios that the issue asks for. They are no predictions: docs/performance.md has those.
TARGETS = {
    ("1 streams", "tokens/s"): 0.98, ("64 streams", "tokens/s"): 1.3, ("128 streams", "tokens/s"): 1.3,
    ("shared prefix", "tokens/s"): 3, ("mixed", "itl p99"): 5,
}


def read(path, keys):
    """The JSON object in a file, which has `keys`; otherwise the program ends with a message."""
    try:
        with open(path) as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        sys.exit(f"{path} cannot be read: {error}")
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        sys.exit(f"{path} is another kind of file: it has no {', no '.join(missing)}")
    return content


def read_figures(path):
    return read(path, ["title", "rounds"])


def usable(value):
    """Whether it is a number that can be compared: not null, nan or infinite."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def order(scenario):
    """Streams by their number, then the others as they come."""
    number = scenario.partition(" ")[0]
    return int(number) if number.isdecimal() else sys.maxsize


def rounds_by_title(files):
    """{title: rounds}, with the rounds of all files of a title."""
    rounds = {}
    for measured in files:
        rounds.setdefault(measured["title"], []).extend(measured["rounds"])
    return rounds


def medians(rounds):
    """{scenario: {side: {figure: median}}}, of all rounds that have the scenario, and {scenario: number of rounds}.
    Figures that are not usable are left out, and so are a side and a scenario without any."""
    values, count = {}, {}
    for scenario, both in (each for one in rounds for each in one):
        found = [(side, key, value) for side, figures in both.items() for key, value in figures.items() if usable(value)]
        if found:
            count[scenario] = count.get(scenario, 0) + 1
        for side, key, value in found:
            values.setdefault(scenario, {}).setdefault(side, {}).setdefault(key, []).append(value)
    middle = {scenario: {side: {key: statistics.median(found) for key, found in figures.items()}
                         for side, figures in sides.items()} for scenario, sides in values.items()}
    return dict(sorted(middle.items(), key=lambda each: order(each[0]))), count


def compared(key, sides):
    """Three columns: our figure, the peer's and the ratio. All are empty if a side has no such figure, the ratio if it
    would be divided by zero."""
    if key not in sides.get("forebay", {}) or key not in sides.get("peer", {}):
        return ["", "", ""]
    own, other = sides["forebay"][key], sides["peer"][key]
    over, under = (own, other) if key in RATES else (other, own)
    ratio = over / under if under and not key.endswith("%") else None
    return [f"{own:.1f}", f"{other:.1f}", f"{ratio:.2f}" if usable(ratio) else ""]


def comparison(models):
    """One table of all models: {title: medians}."""
    rows = []
    for scenario in sorted({scenario: None for middle in models.values() for scenario in middle}, key=order):
        for key in SHOWN:
            found = [column for middle in models.values() for column in compared(key, middle.get(scenario, {}))]
            unit = "" if key in RATES or "%" in key else ", ms"
            if any(found):
                rows.append(f"| {scenario}: {key}{unit} | {' | '.join(found)} | {TARGETS.get((scenario, key), '')} |")
    if not rows:
        return ["Nothing was measured on both sides."]
    head = "| | " + " | ".join(f"{title}: ours | peer | ratio" for title in models) + " | target ratio |"
    return [head, "|---|" + "---:|" * (3 * len(models) + 1), *rows, "",
            "Target ratios are those that the issue asks for, not predictions."]


def step_times(models):
    """Where our steps' time goes, by the parts that the server has counters for. Times are means over all steps of a
    scenario: also over those that hold fewer rows than it has streams, and those that hold prompts alone."""
    ours = [(f"{title}, {scenario}", sides["forebay"]) for title, middle in models.items()
            for scenario, sides in middle.items() if "step_tokens" in sides.get("forebay", {})]
    parts = list({key: None for _, figures in ours for key in figures if key.endswith(" ms")})
    if not parts:
        return
    yield "| a step of ours, mean ms | tokens | all | " + " | ".join(part[: -len(" ms")] for part in parts) + " |"
    yield "|---|" + "---:|" * (len(parts) + 2)
    for name, figures in ours:
        times = [figures.get(part, 0.0) for part in parts]
        row = " | ".join(f"{time:.3f}" for time in [sum(times), *times])
        yield f"| {name} | {figures['step_tokens']:.1f} | {row} |"


def overlap(title, middle, costs):
    """Half of the sequences sample while the other half is computed: two narrow passes for a wide one, and no sampling
    in between. Sampling is step_times' mean, and steps with fewer rows are in it: a step with all rows may sample for
    longer, so halves may pay where they are just said not to."""
    passes = [sample for sample in costs["samples"] if not sample["chunk"] and usable(sample["ms"]) and sample["ms"] > 0]
    deepest = max((sample["depth"] for sample in passes if sample["rows"] >= 64), default=0)
    rows = {sample["rows"]: sample["ms"] for sample in passes if sample["depth"] == deepest}
    logits = {each["rows"]: each["ms"] for each in costs.get("logits", []) if usable(each["ms"])}
    for scenario, sides in middle.items():
        width = order(scenario) if scenario.endswith(" streams") else 0
        sample = sides.get("forebay", {}).get("sample ms")
        if width % 2 or width // 2 not in rows or width not in rows or sample is None:
            continue
        halves, whole = 2 * rows[width // 2], rows[width] + sample
        line = (f"{title}, {scenario}, {deepest} tokens deep: two passes of {width // 2} rows take {halves:.2f} ms, one of "
                f"{width} and its sampling {rows[width]:.2f} + {sample:.2f} ms: halves {'pay' if halves < whole else 'do not pay'}. "
                "Sampling is the mean of all steps, some of them with fewer rows.")
        yield line + (f" All logits add {logits[width]:.2f} ms to the pass." if width in logits else "")


def tables(files, costs=None):
    """Markdown of what measure.py wrote; `costs` are {title: costs}. Models of which nothing was measured have no columns."""
    models, heads = {}, []
    for title, rounds in rounds_by_title(files).items():
        middle, count = medians(rounds)
        if middle:
            models[title] = middle
        few, many = min(count.values(), default=0), max(count.values(), default=0)
        heads.append(f"{title} {few if few == many else f'{few} to {many}'}")
    known = {", ".join(measured[key] for key in ("device", "date", "load") if key in measured): None for measured in files}
    about = "; ".join(filter(None, known))
    lines = [f"{about}{about and '. '}Medians of rounds: {', '.join(heads)}.", "", *comparison(models), "", *step_times(models), ""]
    for title, its_costs in (costs or {}).items():
        lines += [*overlap(title, models.get(title, {}), its_costs), ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="+")
    parser.add_argument("--costs", metavar="TITLE=COSTS.json", action="append", default=[],
                        help="costs of the model whose figures have this title")
    arguments = parser.parse_args()
    files, costs = [read_figures(path) for path in arguments.files], {}
    titles = list({measured["title"]: None for measured in files})
    for text in arguments.costs:
        title, equals, path = text.partition("=")
        if not equals:
            parser.error(f"--costs takes TITLE=COSTS.json, not {text}")
        if title not in titles:
            parser.error(f"--costs: no figures have the title {title}, only {', '.join(titles)}")
        costs[title] = read(path, ["samples"])
    print(tables(files, costs))


if __name__ == "__main__":
    main()
