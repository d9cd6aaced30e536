"""Selective Backprop: train mostly on samples whose loss is high among recent losses.

## What it does
Every candidate batch gets a forward pass in eval mode without graph. Each sample is accepted by a coin whose bias is
the percentile of its loss; accepted samples queue up to full batches, which are forwarded again, with graph, and
stepped. Before that a warm-up accepts everything, and its training losses start the history: the first epoch, but no
more than a tenth of a training whose length is known, or a training of one epoch would be plain SGD.

## Formula
u_i = share of the last R losses strictly below l_i; p_i = max(p_min, u_i^beta); accept with probability p_i. For a
continuous loss E[p] = 1 / (beta + 1), so a keep rate q wants beta = 1/q - 1.
`correction`: weights c / p_i with c = mean over ranks of max(p_min, (rank/R)^beta), the mean acceptance of samples
distributed like the history ("importance": first-order unbiased while losses drift slowly), or scaled to mean one in
every batch ("self-normalised").
`variant = "composer"`: keep floor(qB) of each batch without replacement, rank (lowest loss 1) drawn with weight
((rank - 1/2) / B)^{1/q - 1}.

## Settings
- `fraction` (None): keep rate q; sets beta. None: 0.25 (beta = 3) for "jiang", 0.5 for "composer".
- `beta` (None): selectivity, instead of `fraction`; "jiang" only.
- `p_min` (0.0): least acceptance probability; must be positive with a correction.
- `history` (1024): R, the number of recent losses that make percentiles.
- `stale_epochs` (1): a selection epoch's losses, stored by sample index, also decide the next `stale_epochs` - 1
  epochs, which then need no selection forward.
- `variant` ("jiang"): "jiang" or "composer".
- `start` (0.5), `end` (0.9): composer's window, as shares of `total_steps`; batches outside it are trained whole.
- `interrupt` (2): composer trains every `interrupt`-th batch whole; 0 for never.
- `warmup` (None): share of `total_steps` that "jiang" trains whole before it selects; None: the first epoch, at most a
  tenth of `total_steps`.
- `total_steps` (None): proposals of the whole training, known to a run; None selects without a window.
- `correction` ("none"): "none", "importance" or "self-normalised"; "jiang" only.

## True cost
A forward for every candidate, then forward and backward for the kept share q: (1 + 3q)/3 epoch-equivalents per epoch
at three forwards per gradient. Masking the losses of one full forward instead saves nothing.

## Source
Jiang et al. 2019, "Accelerating deep learning by focusing on the biggest losers", arXiv 1910.00762; the variant:
MosaicML Composer, composer/algorithms/selective_backprop.

## Deviations from the official code
Stale losses are attached to sample indices (public stale code forwards the whole batch and attaches losses to the
wrong samples), and a training forward refreshes the stored loss of its samples for free. Selection is in eval mode
(the original forwards in train mode and updates batch-norm statistics twice). The warm-up is an epoch at most; the
original's is one epoch, which makes it plain SGD where the budget is one. The corrections are ours: it has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from subsetopt.data.given.memory import require_room
from subsetopt.devices import moved
from subsetopt.errors import SettingError
from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.credit import Credit, credit, latest
from subsetopt.samplers.draws import draw_permutation, draw_without_replacement, self_normalised
from subsetopt.samplers.factory import register
from subsetopt.samplers.protocol import Batch, Seen
from subsetopt.settings import CheckedSettings, Correction, check_number, rows_of, setting

WARM_SHARE = 0.1  # of a training of known length: the longest warm-up, where none is set


def acceptance_probability(losses: Tensor, history: Tensor, beta: float, p_min: float) -> Tensor:
    """Return p_i = max(p_min, u_i^beta), u_i the share of `history` `(R,)` strictly below `losses` `(b,)`."""
    below = torch.searchsorted(history.sort().values, losses.contiguous())
    return (below / len(history)).pow(beta).clamp_min(p_min)


def mean_acceptance(history_size: int, beta: float, p_min: float) -> float:
    """Return the mean of p over samples whose losses are distributed like a history of `history_size` losses."""
    ranks = torch.arange(history_size, dtype=torch.float64, device="cpu") / history_size
    return float(ranks.pow(beta).clamp_min(p_min).mean())


def keep_by_rank(losses: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """Return the positions of floor(q B) rows drawn without replacement, weights ((rank - 1/2) / B)^{1/q - 1}."""
    b = len(losses)
    ranks = (torch.arange(b, device=losses.device) + 0.5) / b
    drawn, _ = draw_without_replacement(ranks.pow(1 / fraction - 1), rows_of(fraction, b), generator)
    return losses.argsort()[drawn]


@dataclass(frozen=True)
class SelectiveBackpropSettings(CheckedSettings):
    """Settings of both variants; see the method card."""

    fraction: float | None = setting(None, above=0, at_most=1)
    beta: float | None = setting(None, at_least=0)
    p_min: float = setting(0.0, at_least=0, at_most=1)
    history: int = setting(1024, at_least=1)
    stale_epochs: int = setting(1, at_least=1)
    variant: Literal["jiang", "composer"] = "jiang"
    start: float = setting(0.5, at_least=0, at_most=1)
    end: float = setting(0.9, at_least=0, at_most=1)
    interrupt: int = setting(2, at_least=0)
    warmup: float | None = setting(None, at_least=0, at_most=1)
    total_steps: int | None = setting(None, at_least=1)
    correction: Correction = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta is not None and (self.fraction is not None or self.variant == "composer"):
            raise SettingError("beta", self.beta, "fraction already sets the keep rate", "give only fraction")
        check_number("end", self.end, self.start, 1)
        if self.warmup is not None and self.variant == "composer":
            raise SettingError("warmup", self.warmup, "composer's variant has a window", "give start and end")
        if self.correction != "none" and self.variant == "composer":
            raise SettingError("correction", self.correction, "composer's variant has no known P", "use 'none'")
        if self.correction != "none" and self.p_min == 0:
            raise SettingError("p_min", self.p_min, "a correction divides by it", "give e.g. p_min = 0.05")

    @property
    def exponent(self) -> float:
        """Beta of the original."""
        if self.beta is not None:
            return float(self.beta)
        return 3.0 if self.fraction is None else 1 / self.fraction - 1


@register(
    "selective-backprop", "train on samples accepted by the percentile of their loss (Jiang), or Composer's variant"
)
class SelectiveBackprop(QueueSampler):
    """Percentile history, Bernoulli acceptance and a queue of accepted samples."""

    Settings = SelectiveBackpropSettings
    settings: SelectiveBackpropSettings
    needs_selection_forward = True
    needs = frozenset({"losses"})
    granularity = "batch"
    persistent = ("history", "pushed", "stored", "queue", "queue_weights", "proposals", "_feeds_history")

    def __init__(self, n_samples: int, batch_size: int, seed: int, device: torch.device, *rest: Any) -> None:
        super().__init__(n_samples, batch_size, seed, device, *rest)
        needed = 20 * self.settings.history  # losses in float32, and ranks and chances of acceptance in float64
        require_room("history", self.settings.history, needed, "use some thousands", device)
        self.history = torch.zeros(self.settings.history, device=device)
        self.pushed = 0
        self.stored = torch.full((n_samples,), torch.nan, device=device)
        self.queue = torch.empty(0, dtype=torch.int64, device=device)
        self.queue_weights = torch.empty(0, device=device)
        self.proposals = 0
        self._feeds_history = False
        s = self.settings
        self.normalise_batches = s.correction == "self-normalised"
        self._mean_acceptance = mean_acceptance(s.history, s.exponent, s.p_min)

    @property
    def _warm_steps(self) -> int:
        """Proposals that are trained whole before "jiang" selects; at least one, which starts the history."""
        share, total = self.settings.warmup, self.settings.total_steps
        if total is None:
            return self.steps_per_epoch
        if share is None:
            return max(1, min(self.steps_per_epoch, math.floor(WARM_SHARE * total)))
        return max(1, math.floor(share * total))

    def draw_block(self) -> Batch:
        """Return all samples in a new order as candidates, or those that stale losses already accept."""
        order = draw_permutation(self.n_samples, self.n_samples, self.generator, self.device)
        if not self._stale(epoch=self._blocks):
            return Batch(order)
        accepted, weights = self._accept(order, self.stored[order])
        return Batch(accepted, weights)

    def propose(self) -> Batch:
        """Return candidates, or a batch to train on where no selection forward is due."""
        batch = super().propose()
        self.proposals += 1
        self._feeds_history = not self.selection_due and not self._stale(self.epoch)
        return batch

    def learn(self, seen: Seen) -> None:
        """Store the losses by sample if stale ones will be used; in the first epoch they also make the history."""
        self._store(credit(seen.indices, seen.losses, seen.weights))
        if self._feeds_history:
            self._push(seen.losses.detach().float())

    def keep(self, batch: Batch, seen: Seen) -> Batch | None:
        """Accept candidates by the percentile of their loss, and hand out full batches; Composer keeps a share."""
        losses = seen.losses.float()
        self._store(credit(batch.indices, losses))
        if self.settings.variant == "composer":
            keep = 0.5 if self.settings.fraction is None else self.settings.fraction
            return Batch(batch.indices[keep_by_rank(losses, keep, self.generator)])
        self._push(losses)
        accepted, weights = self._accept(batch.indices, losses)
        self.queue = torch.cat((self.queue, accepted))
        if weights is not None:
            self.queue_weights = torch.cat((self.queue_weights, weights))
        return self._pop()

    def _store(self, observed: Credit) -> None:
        if self.settings.stale_epochs > 1:
            latest(self.stored, observed)

    def _stale(self, epoch: int) -> bool:
        return self.settings.variant == "jiang" and epoch > 0 and (epoch - 1) % self.settings.stale_epochs > 0

    def _wants_selection(self) -> bool:
        s = self.settings
        if s.variant == "jiang":
            return self.proposals >= self._warm_steps and not self._stale(self.epoch)
        inside = s.total_steps is None or s.start <= self.proposals / s.total_steps < s.end
        return inside and (s.interrupt == 0 or (self.proposals + 1) % s.interrupt != 0)

    def _accept(self, indices: Tensor, losses: Tensor) -> tuple[Tensor, Tensor | None]:
        s = self.settings
        p = acceptance_probability(losses, self.history[: self.pushed], s.exponent, s.p_min)
        coin = moved(torch.rand(len(p), generator=self.generator), self.device)
        # A sample without a stored loss has not been seen: accepted, as in the first epoch.
        p = torch.where(losses.isnan(), 1.0, p)
        accepted = (coin < p).nonzero()[:, 0]
        weights = None if s.correction == "none" else self._mean_acceptance / p[accepted]
        return indices[accepted], weights

    def _pop(self) -> Batch | None:
        b = self.batch_size
        if len(self.queue) < b:
            return None
        corrected = self.settings.correction != "none"
        batch = Batch(self.queue[:b], self.queue_weights[:b] if corrected else None)
        self.queue, self.queue_weights = self.queue[b:], self.queue_weights[b:]
        return self_normalised(batch) if self.settings.correction == "self-normalised" else batch

    def _push(self, losses: Tensor) -> None:
        """Write into the ring; `pushed` stays in [0, 2R) so that the valid part and the next slot are both known."""
        size = len(self.history)
        recent = losses[-size:]
        slots = (self.pushed + torch.arange(len(recent), device=losses.device)) % size
        self.history[slots] = recent
        total = self.pushed + len(recent)
        self.pushed = total if total < size else size + total % size
