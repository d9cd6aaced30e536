"""Curvature pairs spread over ranks: each keeps P / ranks columns of the ring, for models whose pairs fill a device.

Learning a step costs one small collective (the inner products), a direction one of P numbers (its parts are gathered).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from subsetopt.distributed import Ranks
from subsetopt.objective.tally import note_flops, tallied
from subsetopt.saving import UNSAVED
from subsetopt.solvers.curvature_pairs import CurvaturePairs


@dataclass
class ShardedPairs(CurvaturePairs):
    """A ring whose `rows` (2m + 2, P / ranks) are this rank's columns; the inner products are those of the whole.

    With m = 20 a rank stores 42 P / ranks numbers. `size` is P. H0 is a multiple of the identity, as with every ring
    that is not on the host.
    """

    ranks: Ranks = field(metadata=UNSAVED, default_factory=Ranks)
    size: int = 0

    may_scale: ClassVar[bool] = False

    @classmethod
    def spread(cls, whole: CurvaturePairs, w: Tensor, ranks: Ranks) -> ShardedPairs:
        """Return this rank's part of a ring, for vectors like w."""
        start, stop = ranks.share(w.numel())
        rows = whole.rows[:, start:stop].to(w.device, w.dtype, copy=True)
        known = whole.gram, whole.with_gradient, whole.order, whole.measured
        return cls(rows, *known, ranks=ranks, size=w.numel())

    @classmethod
    def none(cls, m: int, w: Tensor, ranks: Ranks) -> ShardedPairs:
        """Return an empty ring for m pairs of vectors like w."""
        start, stop = ranks.share(w.numel())
        empty = CurvaturePairs.empty(m, w[start:stop])
        return cls(empty.rows, empty.gram, empty.with_gradient, empty.order, ranks=ranks, size=w.numel())

    def whole(self) -> CurvaturePairs:
        """Return the ring that one process would have, on the host of rank 0 (without rows elsewhere)."""
        rows = torch.empty(len(self.rows) if self.ranks.main else 0, self.size, dtype=self.rows.dtype, device="cpu")
        for index, own in enumerate(self.rows):
            row = self.ranks.gather_rows(own, self.size)
            if self.ranks.main:
                rows[index] = row
        return CurvaturePairs(rows, self.gram, self.with_gradient, self.order, self.measured)

    @property
    def dimension(self) -> int:
        """P."""
        return self.size

    @property
    def on_host(self) -> bool:
        """Never: inner products are added up over ranks."""
        return False

    def insert(
        self, s: Tensor, y: Tensor, gradient: Tensor, correction: float = 1.0, step: float | None = None
    ) -> float:
        """Take this rank's part of the vectors; see `CurvaturePairs.insert`. One collective, one synchronisation."""
        with self._charged_whole():
            return super().insert(self._own(s), self._own(y), self._own(gradient), correction, step)

    def learn(
        self, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], correction: float, step: float
    ) -> float:
        """Take this rank's part of the vectors; see `CurvaturePairs.learn`. One collective, one synchronisation."""
        (w, g), (new_w, new_g) = before, after
        own_before, own_after = (self._own(w), self._own(g)), (self._own(new_w), self._own(new_g))
        with self._charged_whole():
            return super().learn(own_before, own_after, correction, step)

    def meet(self, gradient: Tensor) -> None:
        """Take the inner products with another current gradient; see `CurvaturePairs.meet`. One collective."""
        with self._charged_whole():
            super().meet(self._own(gradient))

    def apply(self, gradient: Tensor, square_norm: float, scale: float = 1.0) -> tuple[Tensor, float]:
        """Return (`scale` H g, g·H g) with the whole of H g on every rank: one collective."""
        with self._charged_whole():
            part, square = super().apply(self._own(gradient), square_norm, scale)
        return self.ranks.gather_rows(part, self.size), square

    def inner_products(self, rows: Tensor, gradient: Tensor, pair: slice | None) -> Tensor:
        """Add up over ranks what is computed from parts of the vectors."""
        with tallied() as own:
            table = super().inner_products(rows, gradient, pair)
        if width := self.rows.shape[1]:  # what numpy did of it is not algebra that each rank repeats
            note_flops(own.host // width * (self.size - width), host=True)
        self.ranks.sum_(table)
        return table

    @contextmanager
    def _charged_whole(self) -> Iterator[None]:
        """Note for the enclosed work on this rank's columns what all ranks do together, however many they are."""
        width = self.rows.shape[1]
        with tallied() as own:
            yield
        if width:
            note_flops((own.flops - own.host) // width * (self.size - width))

    def _own(self, vector: Tensor) -> Tensor:
        start, stop = self.ranks.share(self.size)
        return vector[start:stop]
