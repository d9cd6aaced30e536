"""The figure of a learning curve: test errors of subset minima over K, the law with its band, and Q above."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from pydantic import ValidationError

from subsetopt.documents.base import problem
from subsetopt.documents.learning_curve import LearningCurveDocument
from subsetopt.errors import DataError
from subsetopt.files import read_document, replace_file
from subsetopt.report.palette import GRID, INK, LINE_COLOURS

FILE, FIGURE = "learning_curve.json", "learning_curve.png"


def learning_curve_figure(directory: Path) -> Path:
    """Draw learning_curve.png of the study's learning_curve.json and return its path; raises `UserError`."""
    subject = f"study = {str(directory)!r}"
    content = read_document(directory / FILE, subject, "run `subsetopt learn-curve` again")
    try:
        curve = LearningCurveDocument.read(content)
    except ValidationError as error:
        raise DataError(f"{directory / FILE}: {problem(error)}; run `subsetopt learn-curve` again") from None
    return replace_file(directory / FIGURE, _drawn(curve))


def _drawn(curve: LearningCurveDocument) -> bytes:
    figure = Figure(figsize=(7.2, 5.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    unit = 100.0 if curve.metric == "accuracy" else 1.0
    if curve.band:
        rows = [curve.rows * point[0] for point in curve.band]
        line, low, high = ([unit * point[column] for point in curve.band] for column in (1, 2, 3))
        axes.fill_between(rows, low, high, color=LINE_COLOURS[0], alpha=0.15, linewidth=0)
        axes.plot(rows, line, color=LINE_COLOURS[0], label="fitted law, 95 % band")
    error = f"{curve.measured_on} error"
    errors = [unit * point.error for point in curve.points]
    axes.plot(
        [point.samples for point in curve.points],
        errors,
        "o",
        color=LINE_COLOURS[1],
        label=f"minima, mean {error}",
    )
    axes.axvline(curve.rows, color=INK, linestyle=(0, (4, 2)), linewidth=1, label="all rows")
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows, K", color=INK)
    axes.set_ylabel(f"{error}, {'%' if curve.metric == 'accuracy' else 'mean squared'}", color=INK)
    factor = curve.outputs / curve.parameters

    def ratio(rows: Any) -> Any:
        return rows * factor

    def rows_of(ratio: Any) -> Any:
        return ratio / factor

    top = axes.secondary_xaxis("top", functions=(ratio, rows_of))
    top.set_xlabel("overdetermination ratio Q = K·M/P", color=INK, fontsize=9)
    _plain_ticks(top.xaxis)
    if curve.effective_parameters:
        _effective_axis(axes, curve.effective_parameters)
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    figure.suptitle(curve.title, fontsize=10, color=INK)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _effective_axis(axes: Axes, parameters: float) -> None:
    """Draw the axis of the effective ratio above that of Q."""

    def ratio(rows: Any) -> Any:
        return rows / parameters

    def rows_of(ratio: Any) -> Any:
        return ratio * parameters

    top = axes.secondary_xaxis(1.16, functions=(ratio, rows_of))
    top.set_xlabel("effective Q = K / tr(H⁻¹C)", color=INK, fontsize=9)
    _plain_ticks(top.xaxis)


def _plain_ticks(axis: Axis) -> None:
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
