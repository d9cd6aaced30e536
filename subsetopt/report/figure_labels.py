"""Labels at the ends of lines of a matplotlib figure, placed so that none covers another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

# Offsets in points and alignment, the first that is free is taken: below, above, beside, then further away.
_PLACES: tuple[tuple[tuple[int, int], Literal["left", "center", "right"]], ...] = (
    ((0, -12), "center"),
    ((0, 7), "center"),
    ((-7, -3), "right"),
    ((7, -3), "left"),
    ((0, -23), "center"),
    ((0, 18), "center"),
    ((-7, -14), "right"),
    ((-7, 8), "right"),
    ((7, -14), "left"),
    ((7, 8), "left"),
)


class EndLabel(NamedTuple):
    """A text at a point in data coordinates, in the colour of its line."""

    text: str
    point: tuple[float, float]
    colour: str


def label_ends(axes: Axes, labels: Iterable[EndLabel]) -> list[Annotation]:
    """Write every label that finds room inside the axes and beside the others and the legend; return those written."""
    figure = axes.figure  # `get_figure(root=True)` came with matplotlib 3.10
    assert isinstance(figure, Figure), "axes are drawn on a figure"
    figure.draw_without_rendering()  # settles the layout, without which texts have no extent
    legend = axes.get_legend()
    taken = [] if legend is None else [legend.get_window_extent()]
    written = []
    for label in labels:
        annotation = axes.annotate(
            label.text,
            label.point,
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            color=label.colour,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},  # readable on a noisy line
        )
        annotation.set_in_layout(False)
        box = _placed(axes, annotation, taken)
        if box is None:
            annotation.remove()
        else:
            taken.append(box)
            written.append(annotation)
    return written


def _placed(axes: Axes, annotation: Annotation, taken: Sequence[Bbox]) -> Bbox | None:
    """Move the label to the first free place and return its box, None where there is none."""
    inside = axes.get_window_extent().padded(2.0)
    for offset, alignment in _PLACES:
        annotation.set_position(offset)
        annotation.set_horizontalalignment(alignment)
        box = annotation.get_window_extent()
        in_axes = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
        if in_axes and not any(box.overlaps(other) for other in taken):
            return box
    return None
