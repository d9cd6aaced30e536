"""The figure of a representativeness study: losses and F/F* of subset minima against Q. Reads its files alone."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from subsetopt.documents.representativeness import FractionResult, Measure, RepresentativenessDocument
from subsetopt.errors import RunDirectoryError, UserError
from subsetopt.files import MALFORMED, reason, replace_file
from subsetopt.report.palette import GRID, INK, LINE_COLOURS
from subsetopt.report.study.files import read_representativeness, study_kind

FILE = "representativeness.png"
_CURVES = (
    ("subset_objective", "on its own subset, with L2", LINE_COLOURS[2], "s"),
    ("full_objective", "on the full training set, with L2", LINE_COLOURS[0], "o"),
    ("test_loss", "on test data", LINE_COLOURS[1], "^"),
)


def representativeness_figure(directory: Path) -> Path:
    """Draw representativeness.png beside the study's files and return its path; raises `RunDirectoryError`."""
    subject, remedy = f"study = {str(directory)!r}", "run the study again"
    if study_kind(directory) != "representativeness":
        raise RunDirectoryError(f"{subject}: is no representativeness study; use `subsetopt report`")
    summary = read_representativeness(directory)
    try:
        with (directory / "results.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        content = _drawn(summary, rows)
    except UserError:
        raise
    except (OSError, csv.Error, *MALFORMED) as error:
        problem = f"summary.json or results.csv cannot be drawn ({type(error).__name__}: {reason(error)})"
        raise RunDirectoryError(f"{subject}: {problem}; {remedy}") from None
    return replace_file(directory / FILE, content)


def _drawn(summary: RepresentativenessDocument, rows: Sequence[Mapping[str, str]]) -> bytes:
    figure = Figure(figsize=(7.2, 7.0), dpi=150, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _losses(upper, summary, [row for row in rows if float(row["fraction"]) < 1])
    _excess(lower, summary.subsets, [row for row in rows if float(row["fraction"]) < 1])
    _samples_axis(upper, summary)
    figure.suptitle(f"{summary.title}\nP = {summary.parameters}, l2 = {summary.l2:g}", fontsize=10, color=INK)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _losses(axes: Axes, summary: RepresentativenessDocument, rows: Sequence[Mapping[str, str]]) -> None:
    for name, label, colour, marker in _CURVES:
        full = _mean(summary.full, name)
        if full is None:
            continue
        points = [(float(row["ratio"]), float(row[name])) for row in rows if row[name]]
        axes.scatter(
            [q for q, _ in points],
            [loss for _, loss in points],
            s=12,
            color=colour,
            alpha=0.45,
            marker=marker,
            linewidths=0,
        )
        means = [(row.ratio, mean) for row in summary.subsets if (mean := _mean(row, name)) is not None]
        axes.plot(
            [q for q, _ in means], [mean for _, mean in means], color=colour, marker=marker, markersize=5, label=label
        )
        if name != "subset_objective":
            axes.axhline(full, color=colour, linestyle=(0, (4, 2)), linewidth=1)
    axes.plot([], [], color=INK, linestyle=(0, (4, 2)), linewidth=1, label="the same at the full minimum")
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis)
    axes.set_ylabel("loss of subset minima", color=INK)
    _dress(axes)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _excess(axes: Axes, subsets: Sequence[FractionResult], rows: Sequence[Mapping[str, str]]) -> None:
    colour = _CURVES[1][2]
    points = [(float(row["ratio"]), float(row["excess"])) for row in rows if row["excess"]]
    axes.scatter([q for q, _ in points], [excess for _, excess in points], s=12, color=colour, alpha=0.45, linewidths=0)
    means = [(row.ratio, mean) for row in subsets if (mean := _mean(row, "excess")) is not None]
    axes.plot([q for q, _ in means], [mean for _, mean in means], color=colour, marker="o")
    axes.axhline(1.0, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    axes.set_ylabel("F / F*: full objective over\nthe full minimum", color=INK)
    axes.set_xlabel("overdetermination ratio of the subset, Q = K·M/P", color=INK)
    _dress(axes)


def _mean(row: FractionResult, name: str) -> float | None:
    measure: Measure | None = getattr(row, name)
    return None if measure is None else measure.mean


def _samples_axis(axes: Axes, summary: RepresentativenessDocument) -> None:
    factor = summary.outputs / summary.parameters

    def samples(ratio: Any) -> Any:
        return ratio / factor

    def ratio(samples: Any) -> Any:
        return samples * factor

    top = axes.secondary_xaxis("top", functions=(samples, ratio))
    top.set_xlabel("K, samples in the subset", color=INK, fontsize=9)
    _plain_ticks(top.xaxis)
    top.tick_params(colors=INK, labelsize=8)


def _plain_ticks(axis: Axis) -> None:
    """Write 0.2 and 50 on a logarithmic axis, not powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _dress(axes: Axes) -> None:
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, which="both", labelsize=8)
