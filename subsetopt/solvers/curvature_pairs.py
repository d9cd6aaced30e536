"""Curvature pairs whose quasi-Newton product is found among inner products.

H g is a linear combination of the pairs (s_i, y_i) and g. Its coefficients follow from inner products alone, so that an
iteration needs one matrix product with the ring of pairs to learn a step and one to form the direction, and no loop
over vectors of length P (Byrd, Nocedal & Schnabel 1994; Chen, Wang & Zhou 2014).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from subsetopt.devices import moved
from subsetopt.objective.host import host_read
from subsetopt.objective.tally import note_flops, note_possible
from subsetopt.solvers import diagonal_scaling
from subsetopt.solvers.conjugation import ASYMMETRY, STRICT_ASYMMETRY, ConjugatePairs, conjugate
from subsetopt.solvers.inner_products import array, precision, quiet
from subsetopt.solvers.pair_ring import PairRing
from subsetopt.solvers.ring_passes import host_combination, ring_combination, ring_products
from subsetopt.solvers.ring_places import Places, Vector

GAMMA_PAIRS = 10  # newest pairs among which H0 is chosen


@dataclass
class CurvaturePairs(PairRing):
    """A ring of pairs (s, y) that gives the quasi-Newton product H g of the current gradient.

    H0 is gamma I, or gamma D where the newest pairs speak for a diagonal D (`diagonal_scaling.py`).
    """

    @classmethod
    def of(cls, pairs: Sequence[tuple[Tensor, Tensor]], m: int, w: Tensor) -> CurvaturePairs:
        """Return a ring for m pairs with the newest m of `pairs` (s, y) in it, those with s·y > eps·||s||·||y||.

        `meet` the current gradient before use. One synchronisation.
        """
        ring = cls.empty(m, w)
        if not pairs:
            return ring
        dots = torch.stack([ring_products(torch.stack(pair), torch.stack(pair)) for pair in pairs])
        flat = host_read(dots.reshape(-1))
        eps = precision(w.dtype)
        products = zip(pairs, flat[::4], flat[1::4], flat[3::4], strict=True)
        curved = [pair for pair, ss, sy, yy in products if sy > eps * math.sqrt(ss) * math.sqrt(yy)][-m:]
        for slot, pair in enumerate(curved):
            ring.rows[2 * slot : 2 * slot + 2] = torch.stack(pair)
        used = 2 * len(curved)
        ring.gram[:used, :used] = ring_products(ring.rows[:used], ring.rows[:used]).cpu().numpy()
        ring.order = list(range(len(curved)))
        ring.measured = len(curved)
        return ring

    def shifted(self, strength: float) -> CurvaturePairs:
        """Return the pairs (s, y + strength s) of the same function with strength/2 ||w||^2 added; `meet` before use.

        Those that are not curved any more, where `strength` is negative, are left out.
        """
        pairs = [(self.rows[2 * slot], self.rows[2 * slot + 1] + strength * self.rows[2 * slot]) for slot in self.order]
        note_flops(8 * len(pairs) ** 2 * self.rows.shape[1])
        ring = CurvaturePairs.of(pairs, len(self.rows) // 2 - 1, self.rows[0])
        ring.dear = self.dear
        return ring

    def whole(self) -> CurvaturePairs:
        """Return what is to be saved: the ring itself, unless it is spread over ranks."""
        return self

    def _tables(self, pairs: int) -> tuple[Places, ConjugatePairs, Vector, Vector]:
        """Return the places of the newest `pairs`, the conjugate ones of these, and s_i·y_j and y_i·y_j."""
        note_flops(8 * pairs**2, host=True)  # triangular systems and products
        places = self.places if pairs == len(self.order) else Places.of(self.order[-pairs:], len(self.gram) // 2)
        SY, YY = places.tables(self.gram)
        measured = max(1, min(self.measured, pairs))
        complete = len(self.order) >= self.dimension  # they may span all directions
        return places, conjugate(SY[-measured:, -measured:], ASYMMETRY if complete else STRICT_ASYMMETRY), SY, YY

    def coefficients(self, pairs: int) -> tuple[Vector, float]:
        """Return (c, gamma) with H g = rowsᵀ c + gamma g from the newest `pairs` (Byrd, Nocedal & Schnabel, eq. 3.1).

        The newest pairs are made conjugate first (see `ConjugatePairs.weights`). gamma is the largest s·y / y·y of the
        newest few pairs: that quotient leans to the stiff directions, the more so the worse the conditioning.
        """
        (s, y, _), newest, SY, YY = self._tables(pairs)
        gamma = float(np.maximum.reduce(SY.diagonal()[-GAMMA_PAIRS:] / YY.diagonal()[-GAMMA_PAIRS:]))
        c = np.zeros(len(self.gram))
        c[s], c[y] = newest.weights(SY, YY, self.with_gradient[s], self.with_gradient[y], gamma)
        return c, gamma

    def apply(self, gradient: Tensor, square_norm: float, scale: float = 1.0) -> tuple[Tensor, float]:
        """Return (`scale` H g, g·H g) for the current gradient, whose square norm is given. No synchronisation.

        Where rounding in R leaves g·H g not positive, the older half of the pairs is left out, again and again: it is
        not positive in the end only if the newest pair alone fails, too.
        """
        with quiet():
            power = self._power_of_diagonal()
            d = None if power is None else self.diagonal()
            if power is not None and d is not None:
                note_possible(0)
                return self._apply_scaled(gradient, scale, diagonal_scaling.powered(d, power))
            note_possible(self._price_of_diagonal if self.scales else 0)
            return self._apply(gradient, square_norm, scale)

    @property
    def _price_of_diagonal(self) -> int:
        """Operations that a product takes more where H0 is a diagonal: D, gamma, and a third pass over the y."""
        pairs = len(self.order) + 1
        return (11 * (diagonal_scaling.PAIRS + 1) + 2 * pairs + 6) * self.dimension + 32 * pairs**2

    def _power_of_diagonal(self) -> float | None:
        """Return the power of D that the newest pairs speak for, more loudly where one quadratic explains all pairs."""
        power = diagonal_scaling.chosen(self.told) if self.scales else None
        if power is None or diagonal_scaling.chosen(self.told, diagonal_scaling.OF_A_QUADRATIC) is not None:
            return power
        _, newest, _, _ = self._tables(len(self.order))
        return None if len(newest.T) == len(self.order) else power

    def _apply(self, gradient: Tensor, square_norm: float, scale: float) -> tuple[Tensor, float]:
        pairs = len(self.order)
        while True:
            c, gamma = self.coefficients(pairs)
            square = float(c.dot(self.with_gradient)) + gamma * square_norm
            if 0 < square < math.inf or pairs == 1:
                break
            pairs //= 2
        y = self.places.y
        self.with_product = self.gram[y].dot(c) + gamma * self.with_gradient[y]
        used = 2 * len(self.order) + 2
        weights = scale * c[:used]
        if self.on_host:
            rows = self.rows.numpy()[:used]
            note_flops(2 * rows.size, host=True)
            return host_combination(array(gradient), rows, weights, scale * gamma), square
        moved_weights = moved(torch.from_numpy(weights), gradient.device, gradient.dtype)
        parts = [(self.rows[part], moved_weights[part]) for part in self.parts]
        return ring_combination(gradient, parts, scale * gamma), square

    def _apply_scaled(self, gradient: Tensor, scale: float, d: Vector) -> tuple[Tensor, float]:
        """Return what `apply` does, with H0 = gamma d, gamma being the largest s·y / y·d y of the newest few pairs."""
        pairs, used = len(self.order), 2 * len(self.order) + 2
        rows = self._rows_to_measure()[:used]
        while True:
            slots = self.order[-pairs:]
            newest_slots = slots[-GAMMA_PAIRS:]
            gamma = diagonal_scaling.largest_quotient(rows, newest_slots, self.curvature(newest_slots), d)
            (s, _, _), newest, SY, _ = self._tables(pairs)
            halves, Sg = (rows[::2], rows[1::2]), self.with_gradient[s]
            found = diagonal_scaling.product(newest, SY, Sg, array(gradient), halves, slots, gamma * d)
            if 0 < found.square < math.inf or pairs == 1:
                break
            pairs //= 2
        c = np.zeros(len(self.gram))
        c[s] = found.with_s
        self.with_product = found.with_y_rows[self.order] + self.gram[self.places.y].dot(c)
        vector = found.vector if scale == 1 else scale * found.vector
        return torch.from_numpy(vector.astype(self.rows.numpy().dtype, copy=False)), found.square
