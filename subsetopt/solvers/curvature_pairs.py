"""Curvature pairs whose quasi-Newton product is found among inner products.

H g is a linear combination of the pairs (s_i, y_i) and g. Its coefficients follow from inner products alone, so that an
iteration needs one matrix product with the ring of pairs to learn a step and one to form the direction, and no loop
over vectors of length P (Byrd, Nocedal & Schnabel 1994; Chen, Wang & Zhou 2014).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.devices import moved
from subsetopt.objective.host import host_read
from subsetopt.objective.lapack import dtrtrs
from subsetopt.objective.tally import note_flops
from subsetopt.solvers.inner_products import combination, ring_products

GAMMA_PAIRS = 5  # newest pairs among which H0 is chosen


@dataclass
class CurvaturePairs:
    """A ring of m pairs and a free slot: row 2i of `rows` (2m + 2, P) is s_i, row 2i + 1 is y_i.

    `gram` (2m + 2, 2m + 2) holds the inner products of each y_j with the rows of pairs up to j, and `with_gradient`
    (2m + 2,) those of the rows with the current gradient, both in float64. `order` lists the slots in use from the
    oldest pair to the newest; the free one follows the newest.
    """

    rows: Tensor
    gram: NDArray[np.float64]
    with_gradient: NDArray[np.float64]
    order: list[int]

    @classmethod
    def empty(cls, m: int, w: Tensor) -> CurvaturePairs:
        """Return a ring for m pairs of vectors like w."""
        count = 2 * m + 2
        return cls(w.new_zeros(count, w.numel()), np.zeros((count, count)), np.zeros(count), [])

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
        eps = torch.finfo(w.dtype).eps
        products = zip(pairs, flat[::4], flat[1::4], flat[3::4], strict=True)
        curved = [pair for pair, ss, sy, yy in products if sy > eps * math.sqrt(ss) * math.sqrt(yy)][-m:]
        for slot, pair in enumerate(curved):
            ring.rows[2 * slot : 2 * slot + 2] = torch.stack(pair)
        used = 2 * len(curved)
        ring.gram[:used, :used] = ring_products(ring.rows[:used], ring.rows[:used]).cpu().numpy()
        ring.order = list(range(len(curved)))
        return ring

    def insert(self, s: Tensor, y: Tensor, gradient: Tensor, correction: float = 1.0) -> float:
        """Keep (s, t y), t = `correction`, if s·y > eps·||s||·||y||, in place of the oldest where the ring is full.

        `gradient` is the one at the new point and y its change: what the pairs in use have to do with y is the
        difference of what they have to do with both gradients, so that the ring meets one new vector and not three.
        Returns ||s||. One synchronisation.
        """
        at = self.free_rows()
        self.rows[at.start] = s
        torch.mul(y, correction, out=self.rows[at.start + 1])
        *with_gradient, ss, sy, _, yy = host_read(self.inner_products(gradient, self.rows[at]))
        self.keep(at, correction, with_gradient, sy, yy, sy > torch.finfo(s.dtype).eps * math.sqrt(ss) * math.sqrt(yy))
        return math.sqrt(ss)

    def free_rows(self) -> slice:
        """Return the rows of the free slot."""
        slots = len(self.rows) // 2
        slot = (self.order[-1] + 1) % slots if self.order else 0
        return slice(2 * slot, 2 * slot + 2)

    def keep(
        self, at: slice, correction: float, with_gradient: list[float], sy: float, yy: float, curved: bool
    ) -> None:
        """Take the pair in the free rows into use if it is `curved`, by what all rows have to do with the new gradient.

        `sy` and `yy` are the products of s with t y and of t y with the second row of the pair, which is t y itself.
        """
        with_y = correction * (np.array(with_gradient) - self.with_gradient[: len(with_gradient)])
        self.with_gradient[: len(with_gradient)] = with_gradient
        if not curved:
            self.rows[at] = 0  # y may have overflowed, and a direction sums over the free slot, too
            self.with_gradient[at] = 0.0
            return
        self.gram[: len(with_y), at.start + 1] = self.gram[at.start + 1, : len(with_y)] = with_y
        self.gram[at, at.start + 1] = self.gram[at.start + 1, at] = [sy, yy]
        self.order.append(at.start // 2)
        del self.order[: 1 - len(self.rows) // 2]  # the oldest, where none is free

    def shifted(self, strength: float) -> CurvaturePairs:
        """Return the pairs (s, y + strength s) of the same function with strength/2 ||w||^2 added; `meet` before use.

        Those that are not curved any more, where `strength` is negative, are left out.
        """
        pairs = [(self.rows[2 * slot], self.rows[2 * slot + 1] + strength * self.rows[2 * slot]) for slot in self.order]
        note_flops(8 * len(pairs) ** 2 * self.rows.shape[1])
        return CurvaturePairs.of(pairs, len(self.rows) // 2 - 1, self.rows[0])

    def meet(self, gradient: Tensor) -> None:
        """Take the inner products with another current gradient. One synchronisation."""
        if self.order:
            read = host_read(self.inner_products(gradient, self.rows[:0]))
            self.with_gradient[: len(read)] = read

    def whole(self) -> CurvaturePairs:
        """Return what is to be saved: the ring itself, unless it is spread over ranks."""
        return self

    def inner_products(self, gradient: Tensor, pair: Tensor) -> Tensor:
        """Return those of the rows in use, and of the free ones, with g; then those within `pair` (c, P); float64."""
        rows = self.rows[: 2 * len(self.order) + 2]
        return torch.cat([ring_products(rows, gradient[None]).flatten(), ring_products(pair, pair).flatten()])

    def coefficients(self, pairs: int) -> tuple[NDArray[np.float64], float]:
        """Return (c, gamma) with H g = rowsᵀ c + gamma g from the newest `pairs` (Byrd, Nocedal & Schnabel, eq. 3.1).

        With R the upper triangle of SᵀY, D its diagonal and p = R⁻¹ Sᵀg:
        H g = gamma g - gamma Y p + S R⁻ᵀ [(D + gamma YᵀY) p - gamma Yᵀg]. gamma is the largest s·y / y·y of the newest
        few pairs: that quotient leans to the stiff directions, the more so the worse the conditioning.
        """
        note_flops(4 * pairs**2, host=True)  # two triangular systems and a product
        s, y = _pair_rows(self.order[-pairs:])
        # In the order of columns, as LAPACK takes it; dtrtrs reads the upper triangle alone.
        R = np.asfortranarray(self.gram[s][:, y])
        YY = np.ascontiguousarray(self.gram[y][:, y])
        D = R.diagonal()
        gamma = float((D[-GAMMA_PAIRS:] / YY.diagonal()[-GAMMA_PAIRS:]).max())
        p, _ = dtrtrs(R, self.with_gradient[s])
        inner = D * p + gamma * (YY @ p - self.with_gradient[y])
        c = np.zeros(len(self.gram))
        c[y] = -gamma * p
        c[s], _ = dtrtrs(R, inner, trans=1)
        return c, gamma

    def apply(self, gradient: Tensor, square_norm: float) -> tuple[Tensor, float]:
        """Return (H g, g·H g) for the current gradient, whose square norm is given. No synchronisation.

        Where rounding in R leaves g·H g not positive, the older half of the pairs is left out, again and again: it is
        not positive in the end only if the newest pair alone fails, too.
        """
        pairs = len(self.order)
        while True:
            with np.errstate(over="ignore", invalid="ignore"):
                c, gamma = self.coefficients(pairs)
                square = float(c @ self.with_gradient + gamma * square_norm)
            if 0 < square < math.inf or pairs == 1:
                break
            pairs //= 2
        used = 2 * len(self.order) + 2
        weights = moved(torch.from_numpy(c[:used]), gradient.device, gradient.dtype)
        return combination(gradient, self.rows[:used], weights, beta=gamma), square


def _pair_rows(order: Sequence[int]) -> tuple[Any, Any]:
    """Return where the s and the y of these slots are: slices, which copy nothing, until the ring has turned."""
    first, last = order[0], order[-1]
    if last - first == len(order) - 1:
        return slice(2 * first, 2 * last + 1, 2), slice(2 * first + 1, 2 * last + 2, 2)
    s = 2 * np.array(order)
    return s, s + 1


def curvature_correction(decrease: float, slope: float, new_slope: float, noise: float) -> float:
    """Return t such that t s·y is the curvature sᵀH s at the end of a step rather than its mean along the step.

    It belongs to the cubic through both losses and slopes (Biggs 1973; Zhang, Deng & Chen 1999): t = 1 + theta / s·y,
    theta = 6 (f - f') + 3 (g + g')·s, within [1/2, 2]; `slope` and `new_slope` are g·s and g'·s, `decrease` is f - f'.
    1 where the rounding error of the losses, `noise`, could move t by more than a hundredth.
    """
    sy = new_slope - slope
    if not 1200 * noise <= sy:
        return 1.0
    return min(max(1 + (6 * decrease + 3 * (slope + new_slope)) / sy, 0.5), 2.0)
