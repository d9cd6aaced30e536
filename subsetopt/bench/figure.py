"""The figure of a benchmark: who needs how many calls on which problem, loss against time, efficiency of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """Return a PNG of the parts `solvers`, `time` and `scaling` of a document; None where none was measured."""
    panels = [part for part in DRAWN if part in document]
    if not panels:
        return None
    figure = Figure(figsize=(6.4 * len(panels), 4.6), dpi=150, layout="constrained")
    for index, part in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), index)
        DRAWN[part](axes, document[part])
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
            linestyle="none",
            marker=marker,
            markersize=6,
            markerfacecolor="none",
            color=colour,
            label=solver,
        )
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


def _draw_scaling(axes: Axes, part: Mapping[str, Any]) -> None:
    kinds = list(dict.fromkeys(row["kind"] for row in part["rows"]))
    clocks = list(dict.fromkeys(row["clock"] for row in part["rows"]))
    for place, (clock, colour) in enumerate(zip(clocks, COLOURS, strict=False)):
        rows = [row for row in part["rows"] if row["clock"] == clock]
        heights = [kinds.index(row["kind"]) + 0.24 * (place - 0.5) for row in rows]
        axes.hlines(
            heights,
            [row["efficiency_least"] for row in rows],
            [row["efficiency_most"] for row in rows],
            color=colour,
            alpha=0.35,
            linewidth=2,
        )
        axes.plot([row["efficiency"] for row in rows], heights, "o", color=colour, label=f"efficiency, {clock} clock")
        axes.plot(
            [row["of_what_the_machine_allows"] for row in rows if row["kind"] != "apart"],
            [height for row, height in zip(rows, heights, strict=True) if row["kind"] != "apart"],
            "D",
            markerfacecolor="none",
            color=colour,
            label=f"relative to apart, {clock} clock",
        )
    axes.axvline(1.0, color=INK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(len(kinds) - 0.5, -1.3)  # with room for the legend
    axes.set_xlabel("median over turns; lines from the least to the most of single turns", color=INK)
    title = f"{part['processes']} processes, cnn on {part['samples']} images ({part['data']}), float32"
    axes.set_title(title, loc="left", fontsize=10, color=INK)


DRAWN: dict[str, Callable[[Axes, Mapping[str, Any]], None]] = {
    "solvers": _draw_solvers,
    "time": _draw_race,
    "scaling": _draw_scaling,
}


def _dress(axes: Axes) -> None:
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, which="both", labelsize=8)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
