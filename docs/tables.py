"""Tables of the documentation that are read from the code and from the experiments, never typed."""

import statistics
from pathlib import Path

import pandas as pd
from IPython.display import Markdown

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


def table(header, rows):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return Markdown("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))


def steppers():
    """What every stepper of the backend can do, as it says itself."""
    from neurosde.solve import STEPPERS

    def order(value):
        return "–" if value is None else f"{value:g}"

    rows = [
        [
            f"{{class}}`~neurosde.solve.{type(stepper).__name__}`",
            ", ".join(stepper.sde_types),
            "additive only" if stepper.needs_additive else ", ".join(stepper.noise_types),
            " / ".join(order(o) for o in stepper.strong_order),
            order(stepper.weak_order),
            " + ".join(map(str, stepper.evaluations)),
            stepper.levy,
        ]
        for stepper in STEPPERS
    ]
    header = ["stepper", "calculus", "noise", "strong order*", "weak order", "evaluations**", "areas"]
    return table(header, rows)


def datasets():
    """The cards of the catalogue."""
    import neurosde

    cards = {name: neurosde.datasets.card(name) for name in neurosde.datasets.names()}
    rows = [
        [f"`{name}`", card["kind"], card["source"], card["title"], card["shape"], card["licence"]]
        for name, card in cards.items()
    ]
    return table(["name", "record", "source", "what", "shape", "licence"], rows)


def claims():
    """Folders under experiments/ that have results."""
    return sorted(path.parent.name for path in EXPERIMENTS.glob("*/results.csv"))


def results(claim):
    """Methods against metrics of one claim: mean over seeds, with the standard deviation of several."""
    frame = pd.read_csv(EXPERIMENTS / claim / "results.csv")
    parts = []
    for dataset, group in frame.groupby("dataset", sort=True):
        metrics = list(dict.fromkeys(group["metric"]))
        rows = []
        for method, values in group.groupby("method", sort=False):
            cells = [_mean(values.loc[values["metric"] == metric, "value"].tolist()) for metric in metrics]
            seconds = values.drop_duplicates(["seed"])["seconds"].mean()
            rows.append([method, *cells, f"{seconds:.1f}", values["seed"].nunique()])
        body = table(["method", *metrics, "seconds", "seeds"], rows).data
        parts.append(f"**{dataset}**\n\n{body}\n")
    versions = ", ".join(sorted(set(frame["versions"])))
    return Markdown("\n".join([*parts, f"Run with {versions} on {', '.join(sorted(set(frame['device'])))}."]))


def _mean(values):
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.3g}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1g}"
