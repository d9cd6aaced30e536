"""Where a ring has its pairs' rows, oldest first: slices until it has turned, then windows of tables made once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Indices = NDArray[np.int64]


class Places(NamedTuple):
    """Where the s and the y of some slots are: slices, which copy nothing, until the ring has turned."""

    s: Any
    y: Any
    window: slice | None  # of `_turning`, once the ring has turned

    @classmethod
    def of(cls, order: Sequence[int], slots: int) -> Places:
        """Return the places of consecutive slots of a ring, in this order."""
        first, last = order[0], order[-1]
        if last - first == len(order) - 1:
            return cls(slice(2 * first, 2 * last + 1, 2), slice(2 * first + 1, 2 * last + 2, 2), None)
        window = slice(first, first + len(order))
        s, y, _, _ = _turning(slots)
        return cls(s[window], y[window], window)

    def tables(self, gram: Vector) -> tuple[Vector, Vector]:
        """Return s_i·y_j and y_i·y_j from the products of all rows."""
        if self.window is None:
            return gram[self.s, self.y], gram[self.y, self.y]
        _, _, sy, yy = _turning(len(gram) // 2)
        return gram.take(sy[self.window, self.window]).T, gram.take(yy[self.window, self.window]).T


@lru_cache(4)
def _turning(slots: int) -> tuple[Indices, Indices, Indices, Indices]:
    """Return for two turns of a ring the rows of s and y (2n,), and where s_i·y_j and y_i·y_j lie in a flat `gram`.

    These (2n, 2n) are transposed, so that what is taken by them comes in the order of columns, which LAPACK wants.
    """
    s = 2 * (np.arange(2 * slots) % slots)
    y = s + 1
    return s, y, 2 * slots * s + y[:, None], 2 * slots * y + y[:, None]
