"""Draws from a given distribution over samples, and the weights that undo them.

Random numbers come from a CPU generator whatever device the probabilities live on, so that a run draws the same
samples on every device. `torch.multinomial` is not used: it refuses more than 2^24 categories and reports no
inclusion probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor

from subsetopt.devices import moved
from subsetopt.samplers.protocol import Batch


def wide_dtype(device: torch.device) -> torch.dtype:
    """Return float64 where the device has it, for sums over all samples."""
    return torch.float32 if device.type == "mps" else torch.float64


def draw_with_replacement(probabilities: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return `size` independent indices, i with probability P_i; `(n,)` non-negative, need not sum to one."""
    cumulative = probabilities.to(wide_dtype(probabilities.device)).cumsum(0)
    uniform = moved(torch.rand(size, generator=generator, dtype=torch.float64), cumulative.device, cumulative.dtype)
    # right=True: an empty interval, that is P_i = 0, is never hit, not even by a uniform number of exactly zero.
    return torch.searchsorted(cumulative, uniform * cumulative[-1], right=True).clamp_(max=len(probabilities) - 1)


def draw_without_replacement(probabilities: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return `size` distinct indices in random order, and the conditional inclusion probability of each.

    Successive draws proportional to P_i without replacement are the `size` earliest arrivals T_i ~ Exp(P_i)
    (Efraimidis and Spirakis 2006, the Gumbel top-k trick). Given the first arrival tau that missed, sample i was in
    with probability q_i = 1 - exp(-P_i tau), and sum_{i in S} f_i / q_i is unbiased for sum_i f_i (Duffield, Lund
    and Thorup 2007; Kool, van Hoof and Welling 2019). `probabilities` `(n,)` need not sum to one.
    """
    p = probabilities.to(wide_dtype(probabilities.device))
    arrivals = torch.empty(len(p), dtype=torch.float64, device="cpu").exponential_(generator=generator)
    arrivals = moved(arrivals, p.device, p.dtype) / p
    shuffle = moved(torch.randperm(size, generator=generator), p.device)
    if size >= len(p):
        return shuffle, torch.ones_like(p)
    earliest = arrivals.topk(size + 1, largest=False, sorted=True)
    indices = earliest.indices[:size][shuffle]
    return indices, -torch.expm1(-p[indices] * earliest.values[size])


def draw_permutation(n: int, size: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return `size` of n distinct indices, uniformly and in random order."""
    return moved(torch.randperm(n, generator=generator)[:size], device)


def importance_weights(probabilities: Tensor, n: int) -> Tensor:
    """Return 1 / (N P_i) for single-draw probabilities of the rows drawn, float32."""
    return (1.0 / (n * probabilities)).float()


def self_normalised(batch: Batch) -> Batch:
    """Return the batch with weights rescaled to mean one: sum w l / sum w instead of sum w l / b."""
    if batch.weights is None:
        return batch
    return Batch(batch.indices, batch.weights / batch.weights.mean())
