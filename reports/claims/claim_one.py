"""The tables of claim 1: a summary, minima, equal held-out losses, budgets, and excess against the two ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from layout import average, given, markdown, under_way
from study import STUDIES, Study, mean, read_csv, read_study

from subsetopt.study.statistics import mean_interval

L2S = ("1e-1", "1e-2", "1e-3", "1e-4")
TENTH = "lbfgs@0.1"


def tenth_table(*prefixes: str) -> str:
    """Claim 1 in a row per data set and L2: the minimum of a tenth beside that of all data, and what is as good sooner.

    The ratios are means over seeds; the interval is Student's on their logarithms.
    """
    head = ["data", "L2", "accuracy of L-BFGS on all, %", "of the minimum of a tenth, %", "its test loss / L-BFGS's"]
    head += ["95 % interval", "its cost / L-BFGS's", "L-BFGS on all to its objective / its cost"]
    head += ["Adam to its held-out loss / its cost", "tuned SGD"]
    lines = []
    for prefix in prefixes:
        for l2 in L2S:
            study = read_study(f"{prefix}-l2-{l2}")
            if study.rows:
                lines.append([prefix.split("-")[-1], l2, *_tenth(study, read_study(f"{prefix}-budgets"))])
    return markdown(head, lines) if lines else under_way(read_study(f"{prefixes[0]}-l2-1e-2"), f"{prefixes[0]}-l2-1e-2")


def _tenth(study: Study, sgd: Study) -> list[str]:
    accuracy = study.values("test_accuracy")
    loss, cost = (_ratios(study.values(column)) for column in ("test_loss", "epoch_equivalents"))
    low, high = mean_interval([math.log(each) for each in loss]) or (math.nan, math.nan)
    cells = [f"{100 * mean(accuracy[method]):.2f}" for method in ("lbfgs", TENTH)]
    cells += [f"{average(loss):.2f}", f"{math.exp(low):.2f} to {math.exp(high):.2f}", f"{average(cost):.2g}"]
    rows = [row for row in read_csv(STUDIES / study.name / "equal.csv") if row["method"] == TENTH]
    for sooner in ([row["lbfgs_objective"] for row in rows], [row["adam"] for row in rows], _of_sgd(sgd, rows)):
        shares = [
            str(float(spent) / float(row["cost"])) if spent else "" for spent, row in zip(sooner, rows, strict=True)
        ]
        cells.append(_reached(shares, "2g"))
    return cells


def _ratios(values: Mapping[str, Mapping[int, float]]) -> list[float]:
    """Return the number of the minimum of a tenth over that of L-BFGS on all data, seed by seed."""
    return [values[TENTH][seed] / values["lbfgs"][seed] for seed in values["lbfgs"]]


def minima_table(prefix: str, *words: str) -> str:
    """Claim 1: minima of subsets beside that of all data, from the studies PREFIX-l2-*; `l2=L2` leaves one of them."""
    studies = {l2: read_study(f"{prefix}-l2-{l2}") for l2 in _strengths(words)}
    found = {l2: study for l2, study in studies.items() if study.rows}
    if not found:
        return under_way(studies["1e-2"], f"{prefix}-l2-1e-2")
    head = ["L2", "method", "F / F*", "test loss", "of L-BFGS's", "test accuracy, %", "cost", "of L-BFGS's"]
    lines = []
    for l2, study in found.items():
        columns = {key: study.values(key) for key in ("objective", "test_loss", "test_accuracy", "epoch_equivalents")}
        full = {key: values["lbfgs"] for key, values in columns.items()}
        for method in study.methods:
            own = {key: values[method] for key, values in columns.items()}
            shares = {
                key: mean({seed: own[key][seed] / full[key][seed] for seed in own[key]})
                for key in ("objective", "test_loss", "epoch_equivalents")
            }
            cells = [l2, f"`{method}`", f"{shares['objective']:.3f}", f"{mean(own['test_loss']):.4f}"]
            cells += [f"{shares['test_loss']:.2f}", f"{100 * mean(own['test_accuracy']):.2f}"]
            lines.append([*cells, f"{mean(own['epoch_equivalents']):.3g}", f"{shares['epoch_equivalents']:.3g}"])
    return markdown(head, lines)


def equal_table(prefix: str, *words: str) -> str:
    """Claim 1: what L-BFGS on all data, Adam and tuned SGD had spent when they were as good as each subset minimum."""
    sgd = read_study(f"{prefix}-budgets")
    head = ["L2", "method", "held-out loss", "its cost", "L-BFGS on all to its objective", "to its held-out loss"]
    head += ["Adam 1e-3, constant", "SGD, tuned"]
    lines = []
    for l2 in _strengths(words):
        rows = read_csv(STUDIES / f"{prefix}-l2-{l2}" / "equal.csv")
        for method in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if row["method"] == method]
            cells = [l2, f"`{method}`", f"{average(float(row['held_out']) for row in own):.3f}"]
            cells.append(f"{average(float(row['cost']) for row in own):.3g}")
            cells += [_reached([row[key] for row in own]) for key in ("lbfgs_objective", "lbfgs", "adam")]
            lines.append([*cells, _reached(_of_sgd(sgd, own))])
    return markdown(head, lines) if lines else under_way(read_study(f"{prefix}-l2-1e-2"), f"{prefix}-l2-1e-2")


def _strengths(words: Sequence[str]) -> Sequence[str]:
    return given(words)["l2"].split(";") if words else L2S


def _of_sgd(sgd: Study, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return for each row the smallest budget at which tuned SGD was as good with its seed, empty where none was."""
    return [_sgd_budget(sgd, row) for row in rows]


def _sgd_budget(sgd: Study, row: Mapping[str, str]) -> str:
    for budget in sgd.budgets:
        loss = sgd.values("validation_loss", budget, ["sgd"])["sgd"].get(int(row["seed"]))
        if loss is not None and loss <= float(row["held_out"]):
            return f"{budget:g}"
    return ""


def _reached(costs: Sequence[str], digits: str = "3g") -> str:
    """Return the mean cost, with the number of seeds where some never came there; a dash where none did."""
    there = [float(cost) for cost in costs if cost]
    if not there:
        return "–"
    some = "" if len(there) == len(costs) else f" ({len(there)} of {len(costs)} seeds)"
    return f"{average(there):.{digits}}{some}"


def budgets_table(name: str, *words: str) -> str:
    """Claim 1: test loss of every method at every budget, and the accuracy at the largest."""
    study = read_study(name)
    if not study.rows:
        return under_way(study, name)
    head = ["method", *(f"loss at {budget:g}" for budget in study.budgets)]
    head += [f"accuracy at {budget:g}, %" for budget in study.budgets]
    lines = []
    for method in study.methods:
        losses = [mean(study.values("test_loss", budget)[method]) for budget in study.budgets]
        accuracies = [100 * mean(study.values("test_accuracy", budget)[method]) for budget in study.budgets]
        cells = [f"{loss:.4f}" for loss in losses] + [f"{accuracy:.2f}" for accuracy in accuracies]
        lines.append([f"`{method}`", *cells])
    return markdown(head, lines)


def effective_table(*words: str) -> str:
    """Claim 1: excess of subset minima against Q and against the effective ratio, means over seeds; `share=SHARE`."""
    shown = given(words).get("share")
    rows = [row for row in read_csv(STUDIES / "effective.csv") if shown in (None, row["fraction"])]
    if not rows:
        return "Under way: `python reports/claims/effective.py`.\n"
    head = ["L2", "hidden units", "share, %", "K", "Q", "effective ratio", "F / F* - 1, %", "predicted, %"]
    keys = list(dict.fromkeys((row["l2"], row["width"], row["fraction"]) for row in rows))
    lines = []
    for l2, width, fraction in keys:
        own = [row for row in rows if (row["l2"], row["width"], row["fraction"]) == (l2, width, fraction)]
        numbers = {
            key: average(float(row[key]) for row in own)
            for key in ("samples", "ratio", "effective", "excess", "predicted")
        }
        cells = [l2, width, f"{100 * float(fraction):g}", f"{numbers['samples']:.0f}", f"{numbers['ratio']:.3g}"]
        cells += [f"{numbers['effective']:.3g}", f"{100 * numbers['excess']:.3g}", f"{100 * numbers['predicted']:.3g}"]
        lines.append(cells)
    return markdown(head, lines)
