"""The eigenvalues of a layer's Fisher block in the eigenbasis of its Kronecker factors, as samples have them.

With U and V the eigenvectors of G and A, the matrix nearest to the block that is diagonal in U (x) V has the mean
squares of U' G_i V on its diagonal, G_i (o, d) being the gradient of sample i in the layer's weights (EKFAC: George,
Laurent, Bouthillier, Ballas and Vincent 2018, eq. 5). K-FAC's own products of eigenvalues take inputs, output gradients
and the positions of a convolution for independent: in the first layer of a small CNN their sum was 20 times too small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from subsetopt.objective.kfac.factor import Factor
from subsetopt.objective.tally import note_flops

TENSORS = ("both", "left", "right", "rest")

GRADIENT_BYTES = 16 * 2**20
"""Of gradients (o, d) of single samples at a time, which layers with several positions need."""

Rows = tuple[Tensor, Tensor]
"""Inputs (n, t, d) and output gradients (n, t, o) of a layer at the t positions of n samples: G_i = g_i' a_i."""


@dataclass
class Eigenvalues:
    """Those of pairs of kept vectors, `both` (r_g, r_a), and common ones of what wide factors leave out.

    `left` (r_g,) belongs to a kept vector of G with each direction that A leaves out, `right` (r_a,) to a kept vector
    of A with each one that G leaves out, `rest` (a 0-d tensor) to pairs of directions that are left out in both; zero
    where there are none.
    """

    both: Tensor
    left: Tensor
    right: Tensor
    rest: Tensor

    @classmethod
    def none(cls, a: Factor, g: Factor) -> Eigenvalues:
        """Return zeros."""
        zeros, kept, rank = g.basis.new_zeros, g.basis.shape[1], a.basis.shape[1]
        return cls(zeros(kept, rank), zeros(kept), zeros(rank), zeros(()))

    @classmethod
    def of(cls, rows: Iterator[Rows], a: Factor, g: Factor, total: int, *, bounded: bool = True) -> Eigenvalues:
        """Return the share of these samples in the mean squares over `total` samples.

        Gradients of single samples are made for a few at a time where they are large, unless `bounded` is false: sums
        over all at once round otherwise.
        """
        sums = cls.none(a, g)
        size = len(a.moment) * len(g.moment) * a.basis.element_size()
        for pair in rows:
            inputs, gradients = pair
            if inputs.shape[1] == 1:
                sums.add(_rank_one(inputs[:, 0], gradients[:, 0], a, g))
            else:
                pieces = [each.split(max(1, GRADIENT_BYTES // size) if bounded else len(each)) for each in pair]
                for x, y in zip(*pieces, strict=True):
                    sums.add(_any_rank(y.mT @ x, a, g))
        out_a, out_g = (max(1, len(factor.moment) - factor.basis.shape[1]) for factor in (a, g))
        scales = (1.0, 1.0 / out_a, 1.0 / out_g, 1.0 / (out_a * out_g))
        return cls(*(value.clamp_min(0.0) * (scale / total) for value, scale in zip(sums.tensors, scales, strict=True)))

    @property
    def tensors(self) -> list[Tensor]:
        """All four."""
        return [self.both, self.left, self.right, self.rest]

    def add(self, sums: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        """Add to each in place."""
        for mine, other in zip(self.tensors, sums, strict=True):
            mine += other

    def lerp(self, other: Eigenvalues, weight: float) -> Eigenvalues:
        """Return the mean in which `other` has that weight."""
        pairs = zip(self.tensors, other.tensors, strict=True)
        return Eigenvalues(*(torch.lerp(mine, new, weight) for mine, new in pairs))

    def all(self, o: int, d: int) -> Tensor:
        """Return the o d eigenvalues."""
        out_g, out_a = o - len(self.left), d - len(self.right)
        repeated = (self.left.repeat(out_a), self.right.repeat(out_g), self.rest.expand(out_g * out_a))
        return torch.cat([self.both.flatten(), *repeated])

    def counted(self, o: int, d: int) -> tuple[Tensor, Tensor]:
        """Return the different ones of the o d eigenvalues, and how often each occurs.

        Most of them belong to what wide factors leave out, and have one value for many.
        """
        out_g, out_a = o - len(self.left), d - len(self.right)
        groups = ((self.both.flatten(), 1), (self.left, out_a), (self.right, out_g), (self.rest[None], out_g * out_a))
        kept = [(values, count) for values, count in groups if count]
        counts = [torch.full_like(values, count, dtype=torch.long) for values, count in kept]
        return torch.cat([values for values, _ in kept]), torch.cat(counts)

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Return its tensors under names that begin with `prefix`."""
        return {prefix + name: getattr(self, name) for name in TENSORS}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], prefix: str) -> Eigenvalues:
        """Take back what `state` returned."""
        return cls(*(tensors[prefix + name] for name in TENSORS))


def spectral_product(
    a: Factor, g: Factor, values: Eigenvalues, matrix: Tensor, function: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the product of `function` of a layer's block with a `matrix` (o, d), the widths of g and a.

    The result may be written over the matrix.
    """
    left, right = g.basis, a.basis
    note_flops(product_flops(a, g))
    if a.is_sketched or g.is_sketched:
        return _leading_product(a, g, values, matrix, function)
    both = function(values.both)
    rotated = left.T @ matrix @ right
    if not (a.is_wide or g.is_wide):
        return left @ (both * rotated) @ right.T
    ga, ag, rest = function(values.left), function(values.right), function(values.rest)
    inner = (both - ga[:, None] - ag + rest) * rotated
    inner = left @ (inner @ right.T + (ga - rest)[:, None] * (left.T @ matrix))
    return inner + ((ag - rest) * (matrix @ right)) @ right.T + rest * matrix


def _leading_product(
    a: Factor, g: Factor, values: Eigenvalues, matrix: Tensor, function: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the same, at least one factor being wide, with no product made twice, and none with what is not left out.

    Streams of earlier versions, whose moments have no sketch, end as they began: by the other order of products.
    """
    left, right = g.basis, a.basis
    both, ga, ag, rest = (function(each) for each in values.tensors)
    if not g.is_wide:
        half = left.T @ matrix
        inner = (both - ga[:, None]) * (half @ right)
        torch.addmm(half.mul_(ga[:, None]), inner, right.T, out=half)
        return torch.mm(left, half, out=matrix)
    if not a.is_wide:
        half = matrix @ right
        inner = (both - ag) * (left.T @ half)
        torch.addmm(half.mul_(ag), left, inner, out=half)
        return torch.mm(half, right.T, out=matrix)
    half, other = left.T @ matrix, (ag - rest) * (matrix @ right)
    inner = (both - ga[:, None] - ag + rest) * (half @ right)
    torch.addmm(half.mul_((ga - rest)[:, None]), inner, right.T, out=half)
    torch.addmm(matrix.mul_(rest), left, half, out=matrix)
    return torch.addmm(matrix, other, right.T, out=matrix)


def product_flops(a: Factor, g: Factor) -> int:
    """Return the operations of `spectral_product`, for widths o and d of which r and q vectors are kept."""
    (o, r), (d, q) = g.basis.shape, a.basis.shape
    rotation = r * o * d + r * d * q
    if not (a.is_wide or g.is_wide):
        return 2 * (rotation + o * r * q + o * q * d)
    if not (a.is_sketched or g.is_sketched):
        return 2 * (rotation + r * q * d + 2 * r * o * d + 2 * o * d * q)
    if not g.is_wide:
        return 2 * (2 * o * o * d + 2 * o * d * q)
    if not a.is_wide:
        return 2 * (2 * o * d * d + 2 * r * o * d)
    return 2 * (2 * r * o * d + 2 * r * d * q + 2 * o * d * q)


def _rank_one(x: Tensor, y: Tensor, a: Factor, g: Factor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the sums over samples of (U'G_i V)^2 and of what bases leave out, G_i = y_i x_i', (n, o) and (n, d)."""
    kept_x, kept_y = (x @ a.basis).square(), (y @ g.basis).square()
    out_x, out_y = x.square().sum(1) - kept_x.sum(1), y.square().sum(1) - kept_y.sum(1)
    return kept_y.T @ kept_x, kept_y.T @ out_x, kept_x.T @ out_y, out_y @ out_x


def _any_rank(gradients: Tensor, a: Factor, g: Factor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the same for any G_i, (n, o, d), whose storage is used up."""
    half, zero = g.basis.T @ gradients, gradients.new_zeros(())
    both = (half @ a.basis).square_().sum(0)
    left = half.square_().sum((0, 2)) - both.sum(1) if a.is_wide else zero
    del half
    right = (gradients @ a.basis).square_().sum((0, 1)) - both.sum(0) if g.is_wide else zero
    rest = gradients.square_().sum() - both.sum() - left.sum() - right.sum() if a.is_wide and g.is_wide else zero
    return both, left, right, rest
