"""The L2 path of a run: `l2_path.csv`, the figure of held-out loss against strength, and its sentence."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path

from subsetopt.documents.run import L2PathEntry, RunDocument, StrengthEntry
from subsetopt.files import replace_file
from subsetopt.report.palette import GRID, INK, LINE_COLOURS

TABLE, FIGURE = "l2_path.csv", "l2_path.png"
_COLUMNS = (*StrengthEntry.model_fields, "chosen")


def path_of(run: RunDocument) -> L2PathEntry | None:
    """Return the path that a run followed, None for a run with one strength."""
    return next((phase.l2_path for phase in run.phases if phase.l2_path is not None), None)


def path_files(directory: Path, run: RunDocument) -> list[Path]:
    """Write table and figure of the run's path and return their paths; none for a run with one strength."""
    path = path_of(run)
    if path is None:
        return []
    table = replace_file(directory / TABLE, _table(path).encode())
    return [table, replace_file(directory / FIGURE, _figure(path, run))]


def path_words(path: L2PathEntry | None) -> list[str]:
    """Return the sentences of a summary: the choice, and whether it lies at an end of the strengths tried."""
    if path is None:
        return []
    best, count = path.minima[path.best], len(path.minima)
    total = sum(minimum.evaluations for minimum in path.minima)
    lines = [
        f"L2 path: {count} strengths from {path.minima[0].l2:g} to {path.minima[-1].l2:g} in {total} evaluations; "
        f"l2 = {path.chosen:g} has the lowest held-out loss"
        + (f" ({best.held_out_loss:.4g})." if best.held_out_loss is not None else ".")
    ]
    if left := len(path.strengths) - count:
        lines.append(f"A limit left {left} weaker strength{'s' * (left > 1)} out.")
    elif count > 1 and path.best in (0, count - 1):
        side = "stronger" if path.best == 0 else "weaker"
        lines.append(f"It is the {'strongest' if path.best == 0 else 'weakest'} tried: try {side} ones, too.")
    return lines


def _table(path: L2PathEntry) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for place, minimum in enumerate(path.minima):
        values = {**minimum.model_dump(), "chosen": int(place == path.best)}
        writer.writerow(["" if values[name] is None else values[name] for name in _COLUMNS])
    return text.getvalue()


def _figure(path: L2PathEntry, run: RunDocument) -> bytes:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    places = _places(path.minima)
    known = [(x, m.held_out_loss) for x, m in zip(places, path.minima, strict=True) if m.held_out_loss is not None]
    if known:
        axes.plot(
            *zip(*known, strict=True), "o-", color=LINE_COLOURS[0], markersize=4, label="held-out loss, without L2"
        )
    trained = [(x, m.loss) for x, m in zip(places, path.minima, strict=True) if m.loss is not None]
    if trained:
        axes.plot(*zip(*trained, strict=True), "s--", color=LINE_COLOURS[1], markersize=3.5, label="objective, with L2")
    axes.axvline(places[path.best], color=INK, linestyle=(0, (1, 2)), linewidth=1, label=f"chosen: {path.chosen:g}")
    axes.set_xscale("log")
    if path.minima[-1].l2 == 0:
        axes.annotate("l2 = 0", (places[-1], 0.02), xycoords=("data", "axes fraction"), fontsize=8, color=INK)
    if all(loss > 0 for _, loss in [*known, *trained]):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("L2 strength", color=INK)
    axes.set_ylabel("loss", color=INK)
    axes.set_title(f"{run.dataset.name}, {run.model.name}: the L2 path", loc="left", fontsize=10, color=INK)
    axes.grid(True, which="major", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _places(minima: Sequence[StrengthEntry]) -> list[float]:
    """Return where strengths stand on a logarithmic axis; that of zero is a tenth of the smallest other one."""
    least = min((minimum.l2 for minimum in minima if minimum.l2 > 0), default=1.0)
    return [minimum.l2 or 0.1 * least for minimum in minima]
