"""The figures of the claims' pages, one per page, from what `collect.py` kept: `python reports/claims/figures.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from study import STUDIES, Study, mean, read_csv, read_study

from subsetopt.report.palette import GRID, INK, LINE_COLOURS

HERE = Path(__file__).parent
MARKS = "osD^vX"
TICKS = {"ratio": (0.3, 1, 3, 10, 30), "effective": (2, 5, 10, 20)}


def excess(path: Path) -> None:
    """Claim 1: excess of subset minima against Q and against the effective ratio, a line per L2 and model."""
    rows = read_csv(STUDIES / "effective.csv")
    if not rows:
        return
    problems = list(dict.fromkeys((row["l2"], row["width"]) for row in rows))
    figure = Figure(figsize=(7.2, 3.3), dpi=80, layout="constrained")
    both = figure.subplots(1, 2, sharey=True)
    for axes, column, title in zip(both, ("ratio", "effective"), ("Q = K M / P", "effective ratio K / p"), strict=True):
        for number, (l2, width) in enumerate(problems):
            own = [row for row in rows if (row["l2"], row["width"]) == (l2, width)]
            points = [_means([row for row in own if row["fraction"] == f], column) for f in _unique(own, "fraction")]
            label = f"L2 {float(l2):g}, {width} units"
            axes.plot(*zip(*points, strict=True), MARKS[number] + "-", ms=4, color=LINE_COLOURS[number], label=label)
        _dress(axes, title, "F / F* - 1, %")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(TICKS[column], [f"{tick:g}" for tick in TICKS[column]])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks((1, 10, 100), ("1", "10", "100"))
    figure.legend(*both[0].get_legend_handles_labels(), fontsize=7, frameon=False, loc="outside lower center", ncols=5)
    both[1].set_ylabel("")
    figure.savefig(path)


def differences(path: Path, panels: Sequence[tuple[str, str]], baseline: str) -> None:
    """Draw accuracies less that of a baseline with 95 % intervals: a panel per finished (study, title)."""
    there = [(read_study(name), title) for name, title in panels if read_study(name).rows]
    rows = [len(study.methods) for study, _ in there]
    figure = Figure(figsize=(7.2, sum(0.9 + 0.24 * each for each in rows)), dpi=70, layout="constrained")
    column = figure.subplots(len(there), 1, squeeze=False, height_ratios=rows)[:, 0]
    for axes, (study, title) in zip(column, there, strict=True):
        shown = [method for method in study.methods if method != baseline]
        for place, method in enumerate(shown):
            _interval(axes, study, baseline, method, place, 0, "")
        axes.set_yticks(range(len(shown)), shown, fontsize=7)
        axes.invert_yaxis()
        axes.axvline(0, color=INK, lw=0.8)
        _dress(axes, f"minus {baseline}, points", "")
        axes.set_title(title, fontsize=9, color=INK)
    figure.savefig(path)


def coresets(path: Path) -> None:
    """Claim 2."""
    names = (("claim-2-mnist", "MNIST"), ("claim-2-cifar10", "CIFAR-10"), ("claim-2-cifar10-resnet", "ResNet-8"))
    differences(path, names, "srs@0.1")


def sketches(path: Path) -> None:
    """Claim 3: what the sketch, and every sample's own memory, gain over uniform sampling; a row per data set."""
    names = {"letter": "letter", "sst2": "SST-2", "mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
    rows = [(title, f"claim-3-{name}", "srs@0.3") for name, title in {**names, "digits": "digits"}.items()]
    forest(path, rows, ("nw-sketch", "p-sgd"), "minus srs@0.3, points")


def backward(path: Path) -> None:
    """Claim 5: both ways of selecting against a random part of the same size; a row per data set and keep rate."""
    wanted = (
        ("letter", "letter", (0.1, 0.3, 0.5)),
        ("cifar10", "CIFAR-10", (0.3,)),
        ("cifar10-half", "CIFAR-10, longer", (0.1, 0.3, 0.5)),
        ("cifar100", "CIFAR-100", (0.1, 0.3, 0.5)),
    )
    rows = [
        (f"{title}, keep {q}", f"claim-5-{name}", f"random-minibatch@{q}")
        for name, title, rates in wanted
        for q in rates
    ]
    forest(path, rows, ("selective-backprop", "gradient-matching"), "minus random-minibatch, points")


def forest(path: Path, rows: Sequence[tuple[str, str, str]], starts: Sequence[str], across: str) -> None:
    """Draw differences with 95 % intervals, rows (title, study, baseline), a mark per start of a method's name.

    Of several methods of one start the one whose steps have as many rows as the baseline's is drawn.
    """
    there = [(title, read_study(name), baseline) for title, name, baseline in rows if read_study(name).rows]
    figure = Figure(figsize=(7.2, 0.9 + 0.4 * len(there)), dpi=80, layout="constrained")
    axes = figure.subplots()
    for number, start in enumerate(starts):
        for place, (_, study, baseline) in enumerate(there):
            of_rate = [name for name in study.methods if name.startswith(f"{start}@{baseline.partition('@')[2]}")]
            method = next((name for name in of_rate if name.endswith(" rows")), of_rate[0])
            label = start if place == 0 else ""
            _interval(axes, study, baseline, method, place + 0.2 * (number - 0.5), number, label)
    axes.set_yticks(range(len(there)), [title for title, _, _ in there], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(0, color=INK, lw=0.8)
    axes.legend(fontsize=7, frameon=False)
    _dress(axes, across, "")
    figure.savefig(path)


def _interval(axes: Axes, study: Study, baseline: str, method: str, place: float, number: int, label: str) -> None:
    """Draw the paired difference in points with its 95 % interval."""
    test = study.tests("test_accuracy", baseline, None, [method])[method]
    if test.difference is None:
        return
    low, high = test.interval or (test.difference, test.difference)
    spread = [[100 * (test.difference - low)], [100 * (high - test.difference)]]
    style: dict[str, Any] = {"fmt": MARKS[number], "color": LINE_COLOURS[number], "ms": 4, "lw": 1, "capsize": 2}
    axes.errorbar([100 * test.difference], [place], xerr=spread, label=label or None, **style)


def budgets(path: Path) -> None:
    """Claim 4: accuracy against the budget in per cent of the full one, a line per method."""
    named = (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100"), ("mnist", "MNIST, MLP"))
    studies = [(read_study(f"claim-4-{name}"), title) for name, title in named]
    there = [(study, title) for study, title in studies if study.rows]
    figure = Figure(figsize=(7.2, 3), dpi=72, layout="constrained")
    row = figure.subplots(1, len(there), squeeze=False, width_ratios=[len(s.budgets) ** 0.5 for s, _ in there])[0]
    labels: dict[str, int] = {}
    for axes, (study, title) in zip(row, there, strict=True):
        for method in study.methods:
            number = labels.setdefault(method, len(labels))
            values = [100 * mean(study.values("test_accuracy", budget)[method]) for budget in study.budgets]
            shares = [100 * budget / study.budgets[-1] for budget in study.budgets]
            style = {
                "color": LINE_COLOURS[number % len(LINE_COLOURS)],
                "ms": 4,
                "lw": 1.2,
                "ls": "--" if number >= len(MARKS) else "-",
            }
            axes.plot(shares, values, marker=MARKS[number % len(MARKS)], **style, label=method)
        _dress(axes, "budget, %", "test accuracy, %" if axes is row[0] else "")
        axes.set_title(title, fontsize=9, color=INK)
    handles = {label: line for axes in row for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, fontsize=7, frameon=False, loc="outside lower center", ncols=4)
    figure.savefig(path)


FIGURES: dict[str, Callable[[Path], None]] = {
    "c1-excess.png": excess,
    "c2-differences.png": coresets,
    "c3-differences.png": sketches,
    "c4-differences.png": budgets,
    "c5-differences.png": backward,
}


def draw_all() -> None:
    """Draw every figure whose studies are there."""
    for name, draw in FIGURES.items():
        draw(HERE / name)


def _means(rows: Sequence[Mapping[str, str]], column: str) -> tuple[float, float]:
    """Return the means of a column and of the excess in percent."""
    numbers = [mean({n: float(row[key]) for n, row in enumerate(rows)}) for key in (column, "excess")]
    return numbers[0], 100 * numbers[1]


def _unique(rows: Sequence[Mapping[str, str]], column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def _dress(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across, fontsize=8, color=INK)
    axes.set_ylabel(up, fontsize=8, color=INK)
    axes.tick_params(labelsize=7, colors=INK)
    axes.grid(color=GRID, lw=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    draw_all()
