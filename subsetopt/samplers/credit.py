"""Who gets the credit for an observed row: its sample, or all donors of a mixture in proportion to their shares."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Credit(NamedTuple):
    """Flat and aligned: sample `indices` `(c,)` were seen with `values` `(c,)` for the share `shares` `(c,)`."""

    indices: Tensor
    values: Tensor
    shares: Tensor


def credit(indices: Tensor, values: Tensor, weights: Tensor | None = None) -> Credit:
    """Spread `values` over donors.

    `indices` and `weights` have shape `(b,)` or `(b, donors)`; `values` has that shape or is `(b,)`, one for the whole
    mixture. A value that is not finite carries no share, so that one overflow cannot poison a sampler's memory.
    """
    detached = values.detach().float()
    if indices.ndim == 2 and detached.ndim == 1:
        detached = detached[:, None].expand(indices.shape)
    shares = torch.ones_like(detached) if weights is None else weights.to(detached)
    finite = torch.isfinite(detached)
    kept = torch.where(finite, detached, 0.0), torch.where(finite, shares, 0.0)
    return Credit(indices.reshape(-1), kept[0].reshape(-1), kept[1].reshape(-1))


def add_at(total: Tensor, indices: Tensor, values: Tensor) -> None:
    """Add `values` into `total` in place, repeated indices adding up.

    `index_put_` sorts on CUDA and so sums in one order; `index_add_` uses atomics, and a resumed run would differ.
    """
    total.index_put_((indices,), values.to(total.dtype), accumulate=True)


def latest(memory: Tensor, observed: Credit) -> None:
    """Overwrite `memory` `(N,)` in place with the share-weighted mean of what each observed sample just showed."""
    value, share = torch.zeros_like(memory), torch.zeros_like(memory)
    add_at(value, observed.indices, observed.values * observed.shares)
    add_at(share, observed.indices, observed.shares)
    memory.copy_(torch.where(share > 0, value / share.clamp_min(torch.finfo(share.dtype).tiny), memory))


def true_class_probability(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return p[y] with the shape of `targets`, `(b,)` or `(b, donors)`, from `probabilities` `(b, M)`."""
    columns = targets if targets.ndim == 2 else targets[:, None]
    return probabilities.detach().gather(1, columns).reshape(targets.shape)
