"""The figure of `subsetopt coverage`: coverage over epochs and occupancy, lines by formula, marks by simulation."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from subsetopt.errors import SettingError
from subsetopt.report.palette import GRID, INK, LINE_COLOURS

_MARKS = ("o", "s", "^", "D")


def coverage_figure(document: Mapping[str, Any], target: Path) -> Path:
    """Draw what `subsetopt.samplers.coverage.compare_coverage` returned into the PNG file `target`.

    Raises `SettingError` where it cannot be written.
    """
    figure = Figure(figsize=(9.0, 4.0), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    for position, (name, entry) in enumerate(document["samplers"].items()):
        _draw(left, right, position, name, entry)
    _dress(left, "Coverage", "epochs of the sampler", "share of the samples seen at least once")
    left.set_ylim(0, 1.03)
    _dress(right, "Occupancy", f"visits of one sample in {document['epochs']} epochs", "share of the samples")
    left.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower right")
    figure.suptitle(
        f"N = {document['samples']}, {100 * document['fraction']:g} % drawn per epoch; lines: closed form, "
        f"marks: mean of {document['repeats']} simulations, bars: their range",
        fontsize=10,
        color=INK,
        x=0.01,
        ha="left",
    )
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    try:
        target.write_bytes(buffer.getvalue())
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise SettingError("output", str(target), problem, "choose another file") from None
    return target


def _draw(left: Axes, right: Axes, position: int, name: str, entry: Mapping[str, Any]) -> None:
    colour, mark = LINE_COLOURS[position % len(LINE_COLOURS)], _MARKS[position % len(_MARKS)]
    seen = entry["coverage"]
    epochs = range(1, len(seen["closed_form"]) + 1)
    # At least 0: the mean of equal shares may round past them.
    below = [max(mean - least, 0) for mean, least in zip(seen["simulated"], seen["least"], strict=True)]
    above = [max(most - mean, 0) for mean, most in zip(seen["simulated"], seen["greatest"], strict=True)]
    left.plot(epochs, seen["closed_form"], color=colour, linewidth=1.6, label=name)
    marks: dict[str, Any] = {
        "color": colour,
        "marker": mark,
        "markersize": 5,
        "markerfacecolor": "white",
        "linestyle": "none",
    }
    left.errorbar(epochs, seen["simulated"], yerr=[below, above], elinewidth=1.0, capsize=2, **marks)
    visits = entry["occupancy"]
    right.plot(range(len(visits["closed_form"])), visits["closed_form"], color=colour, linewidth=1.6)
    right.plot(range(len(visits["simulated"])), visits["simulated"], **marks)


def _dress(axes: Axes, title: str, horizontal: str, vertical: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(horizontal, color=INK, fontsize=9)
    axes.set_ylabel(vertical, color=INK, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=8)
