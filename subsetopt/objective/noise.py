"""The sampling noise of a subset's gradient, from the chunk gradients that a gradient evaluation makes anyway."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MINIMUM_CHUNKS = 8


class NoiseAccumulator:
    """Estimates tr(Cov(g_i)) / K, the expected squared error of the mean gradient of K independent samples.

    With C chunk means g_c of n_c samples each, K = sum n_c and g the overall mean,
    E||g_c - g||^2 = tr(Cov) (1/n_c - 1/K), because cov(g_c, g) = Cov / K. Hence sum_c n_c ||g_c - g||^2 / (C - 1) is
    unbiased for tr(Cov) whatever the sizes (the between-groups mean square of a one-way analysis of variance,
    Scheffe 1959, section 3.1). Written as sum_c n_c ||g_c||^2 - K ||g||^2 it needs one pass.
    Chunks must be random samples of the rows. Leave a common term (the gradient of the L2 penalty) out of both.
    """

    def __init__(self, sizes: Sequence[int], dtype: torch.dtype, first: int = 0) -> None:
        self._sizes, self._dtype, self._first = sizes, dtype, first
        self._weighted_squares: list[Tensor] = []

    def add(self, chunk_sum: Tensor) -> None:
        """Take the sum of the gradients of the next chunk, from number `first` on, divided by K: (n_c / K) g_c."""
        size, total = self._sizes[self._first + len(self._weighted_squares)], sum(self._sizes)
        self._weighted_squares.append(_squared_norm(chunk_sum, self._dtype) * (total**2 / size))

    @property
    def between(self) -> Tensor:
        """sum_c n_c ||g_c||^2 over the chunks added here, a scalar tensor; ranks add theirs up."""
        return torch.stack(self._weighted_squares).sum()

    def estimate(self, mean_gradient: Tensor, between: Tensor | None = None) -> Tensor:
        """Return the estimate as a scalar tensor, after all chunks; `mean_gradient` is their sum g.

        `between` is that over all chunks where some were added elsewhere.
        """
        total, chunks = sum(self._sizes), len(self._sizes)
        between = self.between if between is None else between
        between = between - total * _squared_norm(mean_gradient, self._dtype)
        return between.clamp(min=0.0) / ((chunks - 1) * total)


def _squared_norm(vector: Tensor, dtype: torch.dtype) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(vector, dtype=dtype)
    return norm.square()
