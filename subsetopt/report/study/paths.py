"""Polylines as short SVG paths: vertices that the eye cannot tell apart are left out, steps are relative.

Thinning is by the algorithm of Ramer (1972) and of Douglas and Peucker (1973); matplotlib's path simplification is
private to its canvases.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def thinned(xs: Floats, ys: Floats, tolerance: float) -> npt.NDArray[np.intp]:
    """Return the indices to keep of a polyline with vertices of shape (n,), first and last included.

    Every vertex left out lies within `tolerance`, in the unit of the coordinates, of the segment that replaces it.
    """
    n = len(xs)
    keep = np.zeros(n, dtype=bool)
    keep[[0, -1]] = True
    spans = [(0, n - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        inner = slice(first + 1, last)
        distances = _to_segment(
            xs[inner] - xs[first], ys[inner] - ys[first], xs[last] - xs[first], ys[last] - ys[first]
        )
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            middle = first + 1 + farthest
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    return np.flatnonzero(keep)


def _to_segment(x: Floats, y: Floats, dx: float, dy: float) -> Floats:
    """Return the distances of points (x, y) to the segment from the origin to (dx, dy)."""
    length = dx * dx + dy * dy
    at = np.clip((x * dx + y * dy) / length, 0.0, 1.0) if length > 0 else np.zeros_like(x)
    return np.asarray(np.hypot(x - at * dx, y - at * dy))


def path_data(xs: Floats, ys: Floats, tolerance: float) -> str:
    """Return the `d` of a polyline with vertices of shape (n,) in pixels, thinned and rounded to a tenth of a pixel."""
    keep = thinned(xs, ys, tolerance)
    tenths = np.rint(10 * np.stack([xs[keep], ys[keep]])).astype(int)
    start = f"M{_decimal(tenths[0, 0])} {_decimal(tenths[1, 0])}"
    steps = [_step(dx, dy) for dx, dy in np.diff(tenths).T.tolist()]
    return start + (f"l{'l'.join(steps)}" if steps else "")


def _step(dx: int, dy: int) -> str:
    down = _decimal(dy)
    return _decimal(dx) + (down if down.startswith("-") else f" {down}")


def _decimal(tenths: int) -> str:
    """Return tenths as a decimal number without needless zeros, e.g. -.4."""
    text = f"{abs(tenths) / 10:.1f}".removesuffix(".0")
    return ("-" if tenths < 0 else "") + (text.removeprefix("0") if text != "0" else text)
