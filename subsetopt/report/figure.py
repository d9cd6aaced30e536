"""The figure of a run: training loss against cost, one line per phase, and the held-out loss; the legend says which."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from subsetopt.documents.run import LossOf, RunDocument
from subsetopt.errors import RunDirectoryError, SettingError
from subsetopt.files import replace_file
from subsetopt.report.figure_labels import EndLabel, label_ends
from subsetopt.report.metrics_file import read_metrics
from subsetopt.report.palette import GRID, INK, LINE_COLOURS
from subsetopt.report.result_file import read_result_file
from subsetopt.report.words import loss_of, loss_words, role_words

FILE = "loss.png"
_FORMATS = (".png", ".svg")
_STYLES = {"subset": (0, (4, 1.5)), "full": "solid"}
_PLACE = (0.1, 0.115, 0.885, 0.815)  # of the axes: left, bottom, width, height
_DATA = {"subset": "subset", "full": "full training set"}


@dataclass
class _Curve:
    """One phase of a run as a line."""

    label: str
    data: str
    cost: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)


def loss_figure(directory: Path, result: Mapping[str, Any] | RunDocument | None = None, *, name: str = FILE) -> Path:
    """Draw the figure of a run in its directory, as the file `name`, and return its path.

    The suffix of `name` sets the format: `.png`, or `.svg`, of which equal runs give equal bytes. `result` is the
    content of `result.json`, for the title, where that file is not written yet. Raises `SettingError` on another
    suffix, `RunDirectoryError` when the metrics cannot be read or the figure cannot be written.
    """
    target = directory / name
    if target.suffix not in _FORMATS:
        raise SettingError("name", name, "the suffix must be .png or .svg", "try 'loss.svg'")
    document = _stored_result(directory) if result is None else RunDocument.of(result)
    records = read_metrics(directory / "metrics.jsonl")
    curves = _curves(records, document)
    figure = Figure(figsize=(7.2, 4.3), dpi=150)  # with a layout of its own: matplotlib's draws everything twice more
    axes = figure.add_axes(_PLACE)
    _draw_curves(axes, curves)
    _draw_held_out(axes, records)
    _dress(axes, curves, _title(directory, document))
    _mark_changes_of_data(axes, curves)
    colours = _colours(curves)
    ends = [EndLabel(f"{c.loss[-1]:.3g}", (c.cost[-1], c.loss[-1]), colours[c.label]) for c in curves]
    label_ends(axes, reversed(ends))  # where room is short, the last phase has its label
    replace_file(target, _rendered(figure, target.suffix[1:]))
    return target


def _rendered(figure: Figure, form: str) -> bytes:
    buffer = BytesIO()
    # Random identifiers and the date would differ between equal figures; text as text takes a third of its outlines.
    with rc_context({"svg.hashsalt": "subsetopt", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=form, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def _stored_result(directory: Path) -> RunDocument | None:
    try:
        return read_result_file(directory, "")
    except RunDirectoryError:
        return None  # an interrupted run has no result yet


def _curves(records: Iterable[Mapping[str, Any]], result: RunDocument | None) -> list[_Curve]:
    curves: dict[int, _Curve] = {}
    for record in records:
        curve = curves.setdefault(record["phase"], _Curve(_label(record, result), record["data"]))
        if record["loss"] is not None and math.isfinite(record["loss"]):
            curve.cost.append(record["epoch_equivalents"])
            curve.loss.append(record["loss"])
    return [curve for curve in curves.values() if curve.loss]


def _label(record: Mapping[str, Any], result: RunDocument | None) -> str:
    phases = [] if result is None else result.phases
    several = record["phase"] < len(phases) and phases[record["phase"]].subsets is not None
    kind = loss_of(record["method"], record.get("loss_of"))
    kind = LossOf.ONE_SUBSET if several and kind == LossOf.OBJECTIVE else kind
    what = loss_words(kind, record["data"], record["role"])
    return f"{role_words(record['role'], record['data'])}: {record['method']}, {what}"


def _title(directory: Path, result: RunDocument | None) -> str:
    if result is None:
        return directory.name
    facts = result.overdetermination
    return (
        f"{result.dataset.name}, {result.model.name} with P = {facts.parameters}; "
        f"subset K = {facts.samples}, Q = {facts.ratio:.3g}"
    )


def _draw_curves(axes: Axes, curves: Sequence[_Curve]) -> None:
    colours, named = _colours(curves), set[str]()
    for curve in curves:
        colour = colours[curve.label]
        style = _STYLES.get(curve.data, "solid")
        axes.plot(
            curve.cost,
            curve.loss,
            color=colour,
            linestyle=style,
            linewidth=1.8,
            label="_nolegend_" if curve.label in named else curve.label,
            solid_capstyle="round",
        )
        named.add(curve.label)
        axes.plot(curve.cost[-1], curve.loss[-1], marker="o", markersize=5, color=colour)


def _colours(curves: Iterable[_Curve]) -> dict[str, str]:
    """Return a colour for every label; stages of growing subsets have one label, so one colour and legend entry."""
    labels = dict.fromkeys(curve.label for curve in curves)
    return {label: LINE_COLOURS[index % len(LINE_COLOURS)] for index, label in enumerate(labels)}


def _draw_held_out(axes: Axes, records: Iterable[Mapping[str, Any]]) -> None:
    """Draw the held-out losses of all phases as one line, where they were measured on the way."""
    measured = [(r["epoch_equivalents"], (r.get("validation") or {}).get("loss")) for r in records]
    points = [(cost, loss) for cost, loss in measured if loss is not None and math.isfinite(loss)]
    if points:
        cost, loss = zip(*points, strict=True)
        axes.plot(cost, loss, color=INK, linestyle=":", linewidth=1.4, label="held-out loss, without L2")


def _mark_changes_of_data(axes: Axes, curves: Sequence[_Curve]) -> None:
    """Draw a vertical line where training goes on with other data: the losses on its sides are of different sets."""
    low, high = axes.get_xlim()
    for before, after in pairwise(curves):
        if before.data == after.data:
            continue
        at = before.cost[-1]
        axes.axvline(at, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        right = at > low + 0.6 * (high - low)
        axes.text(
            at,
            0.985,
            f"{_DATA.get(after.data, after.data)} from here ",
            transform=axes.get_xaxis_transform(),
            rotation=90,
            ha="right" if right else "left",
            va="top",
            fontsize=8,
            color=INK,
        )


def _dress(axes: Axes, curves: list[_Curve], title: str) -> None:
    if not curves:
        axes.text(0.5, 0.5, "no finite loss was recorded", ha="center", transform=axes.transAxes, color=INK)
    elif all(loss > 0 for curve in curves for loss in curve.loss):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.03, y=0.12)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel("cost in epoch-equivalents (forward and backward passes over the training set)", color=INK)
    axes.set_ylabel("loss, as the legend says", color=INK)
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, which="both", labelsize=8)
    if curves:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
