"""The figure of a benchmark: who needs how many calls on which problem, and loss against time."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette: distinguishable with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, GRID = "#333333", "#DDDDDD"
SHOWN = ("lbfgs", "newton-cg", "scipy:L-BFGS-B", "scipy:trust-ncg", "torch:lbfgs")
MARKERS = ("o", "D", "s", "^", "v")


def bench_figure(document: Mapping[str, Any]) -> bytes | None:
    """Return a PNG of the parts `solvers` and `time` of a document; None where neither was measured."""
    panels = [part for part in ("solvers", "time") if part in document]
    if not panels:
        return None
    figure = Figure(figsize=(6.4 * len(panels), 4.6), dpi=150, layout="constrained")
    for index, part in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), index)
        (_draw_solvers if part == "solvers" else _draw_race)(axes, document[part])
        _dress(axes)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_solvers(axes: Axes, part: Mapping[str, Any]) -> None:
    problems = list(dict.fromkeys(row["problem"] for row in part["rows"]))
    for solver, marker, colour in zip(SHOWN, MARKERS, COLOURS, strict=False):
        rows = [row for row in part["rows"] if row["solver"] == solver and row["success"]]
        axes.plot(
            [row["gradient_equivalents"] for row in rows],
            [problems.index(row["problem"]) for row in rows],
            linestyle="none", marker=marker, markersize=6, markerfacecolor="none", color=colour, label=solver,
        )  # fmt: skip
    axes.set_yticks(range(len(problems)), problems)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("gradient-equivalents (evaluations and priced products)", color=INK)
    axes.set_title(f"to max|g| <= {part['gtol']:g}, float64", loc="left", fontsize=10, color=INK)


def _draw_race(axes: Axes, part: Mapping[str, Any]) -> None:
    for row, colour in zip(part["rows"], COLOURS, strict=False):
        excess = [(seconds, loss - part["lowest_loss"]) for seconds, _, loss in row["curve"]]
        shown = [(seconds, value) for seconds, value in excess if value > 0]
        axes.plot(*zip(*shown, strict=True), color=colour, linewidth=1.6, label=row["solver"])
    axes.set_yscale("log")
    axes.set_xlabel("seconds", color=INK)
    axes.set_ylabel(f"loss above the lowest reached ({part['lowest_loss']:.4g})", color=INK)
    axes.set_title(f"cnn on {part['samples']} images ({part['data']}), float32", loc="left", fontsize=10, color=INK)


def _dress(axes: Axes) -> None:
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, which="both", labelsize=8)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
