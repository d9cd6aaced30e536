"""Fresh subsets of a data set, one after the other: which rows they have, and the loss and its gradient on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from subsetopt.devices import moved
from subsetopt.inputs import Inputs
from subsetopt.objective import FlatModel
from subsetopt.objective.chunks import bounds
from subsetopt.objective.evaluation import update_batch_norm
from subsetopt.objective.guard import PROBE_SAMPLES
from subsetopt.objective.losses import Loss
from subsetopt.objective.memory import UNMEASURED, automatic_chunk_size, with_saved_bytes
from subsetopt.objective.protocol import Purpose
from subsetopt.objective.sharding import SampleShare
from subsetopt.objective.weighting import prepared
from subsetopt.seeding import make_generator
from subsetopt.solvers.inner_products import dot
from subsetopt.training.context import RunContext
from subsetopt.training.ledger import Ledger
from subsetopt.training.phases.batch_sharing import shared_batches
from subsetopt.training.phases.random_streams import installed
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData


@dataclass
class StreamCursor:
    """How far passes over the samples have come: the pass, and the samples of it that have been handed out.

    `chunk` is how many samples of a subset are computed at once, 0 until that is known.
    """

    epoch: int = 0
    position: int = 0
    chunk: int = 0


class Measured(NamedTuple):
    """Loss and gradient at w on a subset, L2 included, and the standard error of the loss as a mean over samples.

    `halves` are the gradients of its two halves, where these were asked for, and `first` is the share of the first.
    """

    loss: Tensor
    error: Tensor
    gradient: Tensor
    samples: int
    halves: tuple[Tensor, Tensor] | None = None
    first: float = 0.5


class FreshSubsets:
    """Consecutive slices of a random order, so that every sample is seen once per pass; `stream` names the order.

    `loss` is the one given, of samples that come with their factors where they do not all count alike.
    """

    def __init__(
        self, data: TrainingData, ledger: Ledger, run: RunContext, split: SplitName, stream: str, loss: Loss
    ) -> None:
        self._data, self._ledger, self._run, self._stream = data, ledger, run, stream
        self._flat = run.model.flat
        self.inputs, targets = data.trained(split)
        self.loss, self.targets = prepared(loss, targets, data.weights(split), run.model.flat.dtype)
        self._sharing = shared_batches(data, run, self.inputs)
        self._order: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def random_rows(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the rows of random samples, at most `count`, whatever the passes have come to."""
        return moved(torch.randperm(len(self), generator=generator)[:count], self.inputs.device)

    def share(self, count: int) -> SampleShare:
        """Return which of `count` samples this rank computes."""
        return self._sharing.share(count)

    def batch(self, rows: Tensor) -> tuple[Inputs, Tensor]:
        """Return model inputs and targets of these rows, from wherever they are."""
        rows = rows.to(self.inputs.device)  # a checkpoint gives rows back on the device
        return self._data.preprocess(moved(self.inputs[rows], self._data.device)), self.targets[rows]

    def outputs(self, w: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return model outputs, without randomness, and targets of these rows; charged as a forward pass."""
        self._ledger.charge("forward", len(rows), "calibration")
        x, y = self.batch(rows)
        with torch.no_grad():
            return self._flat.forward(w, x, "deterministic"), y

    def refresh_batch_norm(self, w: Tensor, count: int, purpose: Purpose) -> None:
        """Set BatchNorm's running statistics to those at w of `count` random samples, the same every time.

        For a count of 0 they stay averages over the last subsets.
        """
        if count == 0:
            return
        rows = self.random_rows(count, make_generator(self._run.config.seed, f"{self._stream}:statistics"))
        inputs = self.inputs[rows]
        update_batch_norm(self._flat, w, inputs, preprocess=self._data.preprocess, meter=self._ledger, purpose=purpose)

    def next_rows(self, cursor: StreamCursor, size: int) -> Tensor:
        """Return the rows of the next subset: `size`, but the end of a pass is taken whole or in equal halves.

        So that no subset has less than three quarters of `size` samples, or more than one and a half times as many.
        """
        if cursor.position >= len(self):
            cursor.epoch, cursor.position = cursor.epoch + 1, 0
        if self._order is None or self._order[0] != cursor.epoch:
            generator = make_generator(self._run.config.seed, f"{self._stream}:order:{cursor.epoch}")
            self._order = cursor.epoch, moved(torch.randperm(len(self), generator=generator), self.inputs.device)
        left = len(self) - cursor.position
        count = left if left < 1.5 * size else math.ceil(left / 2) if left < 2 * size else size
        return self._order[1][cursor.position : cursor.position + count]

    def measure(
        self, w: Tensor, cursor: StreamCursor, size: int, random: dict[str, Tensor], halves: bool = False
    ) -> Measured:
        """Evaluate at w on the next subset, charged as one gradient; moves `cursor` and the `random` states.

        With `halves` the gradients of its first and second half are kept. Ranks compute a part each, and add up in one
        collective per part of the subset.
        """
        cursor.chunk = cursor.chunk or self.chunk()
        rows = self.next_rows(cursor, size)
        self._ledger.charge("gradient", len(rows), "train")
        cursor.position += len(rows)
        w, l2, count = w.detach(), self._run.model.l2, len(rows)
        with installed(random, self._data.device):
            found = [self._evaluate(w, part, cursor.chunk) for part in (rows.tensor_split(2) if halves else [rows])]
        losses = torch.cat([each for each, _ in found])
        gradients = [gradient.add_(w, alpha=l2) for _, gradient in found]
        loss, error = losses.mean() + 0.5 * l2 * dot(w, w), losses.std(correction=0) / count**0.5
        if not halves:
            return Measured(loss, error, gradients[0], count)
        first = len(found[0][0]) / count
        both = gradients[0], gradients[1]
        return Measured(loss, error, torch.lerp(both[1], both[0], first), count, both, first)

    def _evaluate(self, w: Tensor, rows: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """Return the losses of all `rows`, and the gradient of their mean."""
        count, own = len(rows), rows[self._sharing.rows(len(rows))]
        leaves, losses, gradient = self._flat.leaves(w), [], torch.zeros_like(w)
        for leaf, view in zip(leaves, self._flat.views(gradient), strict=True):
            leaf.grad = view
        for start, stop in bounds(len(own), chunk):
            x, y = self.batch(own[start:stop])
            each = self.loss.per_sample(self._flat.outputs(leaves, x, "train"), y)
            with self._flat.at(leaves, "train"):
                (each.sum() / count).backward(inputs=leaves)  # added to what the leaves' .grad are views of
            losses.append(each.detach())
        (all_losses,) = self._sharing.sum_(count, [gradient], [torch.cat(losses)])
        assert all_losses is not None, "the column that was given"
        return all_losses, gradient

    def chunk(self) -> int:
        """Return how many samples of a subset are computed at once: memory is bounded by it, the function is the same.

        With BatchNorm, which takes its statistics over the whole subset, all of them.
        """
        data, flat, chosen = self._data, self._flat, self._run.config.chunk_size
        if flat.batch_dependent:
            return len(self)
        if isinstance(chosen, int):
            return chosen
        few = self.inputs[:PROBE_SAMPLES].to(data.device)
        self._ledger.charge("forward", len(few), "calibration")
        w = flat.initial().requires_grad_()
        x = data.preprocess(few)
        _, saved = with_saved_bytes(lambda: flat.forward(w, x, "deterministic"), w, UNMEASURED * x.nbytes)
        return automatic_chunk_size(saved / len(few), data.device, False)


MOST, FEWEST = 1000, 16  # samples; below the fewest the averages stay


COST_SHARE = 0.03  # of what the stream may spend


def statistics_samples(flat: FlatModel, ledger: Ledger, samples: int, affordable: float) -> int:
    """Return how many of `samples` to take for `COST_SHARE` of the `affordable` cost; 0 for none."""
    if not flat.has_running_statistics:
        return 0
    bought = MOST if math.isinf(affordable) else int(COST_SHARE * affordable / ledger.price("forward", 1))
    count = min(MOST, samples, bought)
    return count if count >= FEWEST else 0
