"""Gradients of the last layer in factored form: g_i = e_i [h_i, 1]^T, never built.

e_i = p_i - y_i is the gradient with respect to the outputs, h_i the penultimate features, and the 1 stands for the
bias. Inner products follow as <g_i, g_j> = <e_i, e_j> (<h_i, h_j> + 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from subsetopt.errors import DataError
from subsetopt.samplers.protocol import Scan


def residuals(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return e = p - y `(b, M)`: `targets` are classes `(b,)` beside probabilities, or values beside outputs."""
    e = outputs.detach().float().clone()
    if targets.is_floating_point():
        return e - targets.reshape(e.shape).to(e)
    return e.scatter_add_(1, targets[:, None], torch.full_like(e[:, :1], -1.0))


def gram(e: Tensor, h: Tensor, e_other: Tensor | None = None, h_other: Tensor | None = None) -> Tensor:
    """Return <g_i, g_j> `(n, m)` between rows (e, h) and (e_other, h_other), which default to the same rows."""
    e_other, h_other = e if e_other is None else e_other, h if h_other is None else h_other
    return (e @ e_other.T) * (h @ h_other.T + 1)


def inner_with(e: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return <g_i, [weight, bias]> `(n,)` for a direction `weight` `(M, D)`, `bias` `(M,)` in the last layer."""
    return (e * (h @ weight.T + bias)).sum(1)


def in_index_order(scan: Scan, n: int, what: str = "training") -> Scan:
    """Return the scan with row i belonging to sample i; raises `DataError` unless every sample occurs exactly once.

    A scan made through a shuffling loader says by `indices` what its rows are; picks made from rows in loader order
    would otherwise be credited to other samples.
    """
    if len(scan.residuals) != n or len(scan.features) != n or len(scan.targets) != n:
        raise DataError(f"scan of the {what} set has {len(scan.residuals)} rows: expected {n}; scan every sample once")
    if scan.indices is None:
        return scan
    order = scan.indices.to(scan.targets.device).argsort()
    if not torch.equal(scan.indices.to(order)[order], torch.arange(n, device=order.device)):
        raise DataError(f"scan of the {what} set repeats or misses samples; scan every sample once")
    return Scan(scan.residuals[order], scan.features[order], scan.targets[order])
