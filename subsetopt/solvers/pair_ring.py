"""A ring of curvature pairs with their inner products, learnt from one step after another.

What is made of them is said in `curvature_pairs.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from subsetopt.objective.host import host_read, note_read
from subsetopt.objective.tally import note_flops
from subsetopt.solvers import diagonal_scaling
from subsetopt.solvers.inner_products import (
    Array,
    array,
    host_pair_products,
    on_host,
    pair_products,
    precision,
    quiet,
)
from subsetopt.solvers.ring_passes import EXACT, SHORT, empty_rows, host_ring_products, ring_products
from subsetopt.solvers.ring_places import Places, Vector


@dataclass
class PairRing:
    """A ring of m pairs and a free slot: row 2i of `rows` (2m + 2, P) is s_i, row 2i + 1 is y_i.

    `gram` (2m + 2, 2m + 2) holds the inner products of the rows, and `with_gradient` (2m + 2,) those of the rows with
    the current gradient, both in float64. `order` lists the slots in use from the oldest pair to the newest; the free
    one follows the newest. Of the newest `measured` pairs all products are known, of the others only those of each y_j
    with the rows of pairs up to j. `told` has what the newest pairs say of a diagonal H0 (`diagonal_scaling.py`), which
    is for rings on the host of many pairs: beside few it would cost as much as all the rest, and is for `dear`
    evaluations alone.
    """

    rows: Tensor
    gram: Vector
    with_gradient: Vector
    order: list[int]
    measured: int = 0
    told: list[diagonal_scaling.Gains] = field(default_factory=list)
    dear: bool = False

    may_scale: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Begin without a direction; later `with_product` has the products of each y_j with the last H g.

        `_float64` copies short float32 rows, whose products are summed so; `_places` says where `order` has its rows;
        `_diagonal` is the D of the newest pairs, once it is made.
        """
        self.with_product: Vector | None = None
        self._diagonal: Vector | None = None
        self._float64: Array | None = None
        self._places: Places | None = None

    @classmethod
    def empty(cls, m: int, w: Tensor) -> Self:
        """Return a ring for m pairs of vectors like w."""
        count = 2 * m + 2
        return cls(empty_rows(count, w), np.zeros((count, count)), np.zeros(count), [])

    def insert(
        self, s: Tensor, y: Tensor, gradient: Tensor, correction: float = 1.0, step: float | None = None
    ) -> float:
        """Keep (s, t y), t = `correction`, if s·y > eps·||s||·||y||, in place of the oldest where the ring is full.

        `gradient` is the one at the new point and y its change: what the pairs in use have to do with y is the
        difference of what they have to do with both gradients, so that the ring meets one new vector and not three.
        `step` says that s is so many times the last direction, -H g. Returns ||s||. One synchronisation.
        """
        at = self.free_rows()
        self.rows[at.start] = s
        torch.mul(y, correction, out=self.rows[at.start + 1])
        self.rows_changed(at)
        with quiet():
            return self.take(at, gradient, correction, step)

    def learn(
        self, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], correction: float, step: float
    ) -> float:
        """Insert the differences between two points (w, g), without a copy of them; see `insert`."""
        at = self.free_rows()
        with quiet():
            self._subtract(at, before, after, correction)
            self.rows_changed(at)
            return self.take(at, after[1], correction, step)

    def _subtract(
        self, at: slice, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], correction: float
    ) -> None:
        if self.on_host:
            s, y = self.rows.numpy()[at]
            np.subtract(array(after[0]), array(before[0]), out=s)
            np.subtract(array(after[1]), array(before[1]), out=y)
            if correction != 1:
                y *= correction
            return
        for row, old, new in zip(self.rows[at], before, after, strict=True):
            torch.sub(new, old, out=row)
        if correction != 1:
            self.rows[at.start + 1].mul_(correction)

    def take(self, at: slice, gradient: Tensor, correction: float, step: float | None) -> float:
        """Take the pair in the free rows into use; see `insert`."""
        with_gradient, (ss, sy, yy) = self.read_products(gradient, at)
        length = math.sqrt(ss)
        curved = sy > precision(gradient.dtype) * length * math.sqrt(yy)
        self.keep(at, correction, with_gradient, sy, yy, curved, step)
        return length

    def rows_changed(self, at: slice) -> None:
        """Take note that these rows have been written."""
        if self._float64 is not None:
            self._float64[at] = self.rows.numpy()[at]

    def free_rows(self) -> slice:
        """Return the rows of the free slot."""
        slots = self.rows.shape[0] // 2
        slot = (self.order[-1] + 1) % slots if self.order else 0
        return slice(2 * slot, 2 * slot + 2)

    @property
    def parts(self) -> list[slice]:
        """The rows of the pairs in use, without the free ones; on an accelerator with them, in one part."""
        used, free = 2 * len(self.order) + 2, self.free_rows()
        if not self.rows.is_cpu:
            return [slice(0, used)]
        return [part for part in (slice(0, free.start), slice(free.stop, used)) if part.start < part.stop]

    def keep(
        self,
        at: slice,
        correction: float,
        with_gradient: Vector,
        sy: float,
        yy: float,
        curved: bool,
        step: float | None,
    ) -> None:
        """Take the pair in the free rows into use if it is `curved`, by what all rows have to do with the new gradient.

        `sy` and `yy` are the products of s with t y and of t y with the second row of the pair, which is t y itself.
        Those of s with the other y_j follow from the direction's, if `step` times it is s.
        """
        former = self.with_gradient[: len(with_gradient)]
        with_y = with_gradient - former
        if correction != 1:
            with_y *= correction
        former[:] = with_gradient
        if not curved:
            self.rows[at] = 0  # y may have overflowed, and a direction sums over the free slot, too
            self.rows_changed(at)
            self.with_gradient[at] = 0.0
            return
        known = step is not None and self.with_product is not None
        if step is not None and self.with_product is not None:
            y = self.places.y
            self.gram[at.start, y] = self.gram[y, at.start] = -step * self.with_product
        i, j = at.start, at.start + 1
        if self.scales and self.order:
            s, y = self._rows_to_measure()[at]
            self.told = [*self.told[1 - diagonal_scaling.PAIRS :], diagonal_scaling.gains(s, y, self.diagonal())]
        self.gram[: len(with_y), j] = self.gram[j, : len(with_y)] = with_y
        self.gram[i, j] = self.gram[j, i] = sy
        self.gram[j, j] = yy
        self.order.append(i // 2)
        del self.order[: 1 - len(self.gram) // 2]  # the oldest, where none is free
        self.measured = min(self.measured + 1, len(self.order)) if known else 1
        self.with_product = self._places = self._diagonal = None

    def meet(self, gradient: Tensor) -> None:
        """Take the inner products with another current gradient. One synchronisation."""
        self.with_product = None
        if self.order:
            with quiet():
                read, _ = self.read_products(gradient)
            self.with_gradient[: len(read)] = read

    def read_products(self, gradient: Tensor, pair: slice | None = None) -> tuple[Vector, list[float]]:
        """Return those of the rows in use, and of the free ones, with g; then s·s, s·y and y·y of `pair`."""
        used = 2 * len(self.order) + 2
        if not self.on_host:
            read = host_read(self.inner_products(self.rows[:used], gradient, pair))
            return np.array(read[:used]), read[used:]
        note_read()
        width = self.rows.shape[1]
        note_flops(2 * used * width + (0 if pair is None else 6 * width), host=True)
        rows = self._rows_to_measure()
        with_gradient = host_ring_products(rows[:used], array(gradient))
        return with_gradient, [] if pair is None else host_pair_products(*rows[pair])

    def _rows_to_measure(self) -> Array:
        rows = self.rows.numpy()
        if rows.dtype == np.float64 or rows.shape[1] > EXACT:
            return rows
        if self._float64 is None:
            self._float64 = rows.astype(np.float64)
        return self._float64

    @property
    def dimension(self) -> int:
        """P, of which the rows may be a part."""
        return self.rows.shape[1]

    @property
    def places(self) -> Places:
        """Where the s and the y of `order` are."""
        if self._places is None:
            self._places = Places.of(self.order, len(self.gram) // 2)
        return self._places

    @property
    def on_host(self) -> bool:
        """True where numpy takes the inner products: each of its calls costs less than torch's."""
        return self.rows.shape[1] <= SHORT and on_host(self.rows)

    def inner_products(self, rows: Tensor, gradient: Tensor, pair: slice | None) -> Tensor:
        """Return what `read_products` reads, on the device."""
        with_gradient = ring_products(rows, gradient[None]).flatten()
        return with_gradient if pair is None else torch.cat([with_gradient, pair_products(*self.rows[pair])])

    @property
    def scales(self) -> bool:
        """True where a diagonal H0 is thought of."""
        least = diagonal_scaling.PAIRS if self.dear else diagonal_scaling.LEAST_MEMORY
        return self.may_scale and len(self.gram) // 2 - 1 >= least and self.on_host

    def diagonal(self) -> Vector | None:
        """Return D of the newest pairs, see `diagonal_scaling.diagonal`."""
        if self._diagonal is None:
            slots = self.order[-diagonal_scaling.PAIRS :]
            self._diagonal = diagonal_scaling.diagonal(self._rows_to_measure(), slots, self.curvature(slots))
        return self._diagonal

    def curvature(self, slots: list[int]) -> Vector:
        """Return s·y (k,) of the pairs in these slots."""
        s = 2 * np.array(slots)
        products: Vector = self.gram[s, s + 1]
        return products
