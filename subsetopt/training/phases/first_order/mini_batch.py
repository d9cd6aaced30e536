"""One mini-batch: the sampler proposes, selection looks where it must, the kept rows are trained on and credited.

Every model call is charged before it is made: selection and scans to "selection", the training pass to "train". The
former see the stored rows, never augmented ones, without graph and in evaluation mode, so that BatchNorm statistics and
dropout see only what is trained on. A sampler's own arithmetic over whole splits (hashing, matching) is counted and
charged like the gradients that it could have paid for. Several ranks draw the same batch and compute a part of it each;
what the sampler observes is the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from subsetopt.data.batch_augmentation import Augmentation, Augmented
from subsetopt.devices import moved
from subsetopt.errors import SettingError
from subsetopt.inputs import Inputs, Parts, Stored
from subsetopt.objective import CrossEntropy, Loss, evaluate_last_layer
from subsetopt.objective.flat_model import Mode
from subsetopt.objective.flops import count_contractions, count_entries, count_flops
from subsetopt.objective.tally import tallied
from subsetopt.objective.weighting import prepared, values_of, without_weights
from subsetopt.samplers import Batch, Sampler, Scan, Seen
from subsetopt.seeding import make_generator
from subsetopt.training.context import RunContext
from subsetopt.training.ledger import Ledger
from subsetopt.training.phases.batch_sharing import shared_batches
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData

SCAN_CHUNK = 512
COUNTED_ROWS = 8


class ForwardPass(NamedTuple):
    """Outputs `(b, M)` of a forward pass, and what the sampler wants of it; `features` feed the last linear layer."""

    outputs: Tensor
    probabilities: Tensor | None
    features: Tensor | None


class MiniBatch:
    """Computes loss and gradient of the batches that `sampler` chooses from the rows of `data` (subset or full)."""

    def __init__(
        self,
        data: TrainingData,
        ledger: Ledger,
        run: RunContext,
        split: SplitName,
        sampler: Sampler,
        loss: Loss,
        augmentation: Augmentation | None = None,
        amp: bool = False,
    ) -> None:
        self._data, self._ledger, self._flat, self._sampler = data, ledger, run.model.flat, sampler
        self._augmentation, self._amp, self._run = augmentation, amp, run
        self._inputs, targets = data.trained(split)
        self._loss, self._targets = prepared(loss, targets, data.weights(split), run.model.flat.dtype)
        if sampler.needs_data:
            _require_one_tensor(self._inputs)
        self._sharing = shared_batches(data, run, self._inputs)

    @property
    def bind_rows(self) -> int:
        """Cost of preparing the sampler on the training inputs, in gradients of one sample."""
        if not self._sampler.needs_data:
            return 0
        return self._gradients(self._sampler.bind_flops(_require_one_tensor(self._inputs)[0].numel()))

    @property
    def first_step_cost(self) -> float:
        """Epoch-equivalents before and in the first step, for a sampler that has drawn nothing yet.

        Without a sampler's own arithmetic after a scan; of a batch of candidates one row is counted as trained on.
        """
        ledger, sampler = self._ledger, self._sampler
        cost = ledger.price("gradient", self.bind_rows if sampler.needs_data else 0)
        if sampler.scan_due:
            cost += self._scan_cost
        rows, candidates = sampler.opening
        looked = ledger.price("forward", rows) if candidates else 0.0
        return cost + looked + ledger.price("gradient", 1 if candidates else rows)

    @property
    def _scan_cost(self) -> float:
        """Epoch-equivalents of a scan, without the sampler's own arithmetic after it."""
        held_out = self._data.samples(SplitName.VALIDATION) if self._sampler.needs_validation_scan else 0
        return self._ledger.price("forward", len(self._targets) + held_out)

    def _affords_scan(self) -> bool:
        """Whether a scan leaves anything to train; if not, the sampler goes on with the rows that it has."""
        ledger, sampler = self._ledger, self._sampler
        if ledger.cost + self._scan_cost + ledger.price("gradient", sampler.opening[0]) <= ledger.limit:
            return True
        warning = f"{sampler.name} selected nothing: what was left of the budget does not hold a scan of the data"
        if not sampler.statistics().get("scans", 0) and warning not in self._run.warnings:
            self._run.warnings.append(warning)
        return False

    def bind(self) -> None:
        """Prepare a sampler that needs the training inputs, once; a restored sampler has been prepared."""
        if self._sampler.needs_data:
            self._ledger.charge("gradient", self.bind_rows, "selection")
            self._sampler.bind(_require_one_tensor(self._inputs))

    def gradient(self, w: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
        """Return (loss, gradient) at w of the next batch, None when selection kept too little for a step yet.

        The loss is the mean of weight times loss over the batch. Nothing is read to the host but what the sampler
        reads. A single row is no batch for a model with BatchNorm, and is passed over.
        """
        batch = self._chosen(w)
        if batch is None or (self._flat.batch_dependent and len(batch.indices) == 1):
            return None
        indices = moved(batch.indices, self._targets.device)
        if self._augmentation is not None:
            self._ledger.charge("flops", len(indices) * self._augmentation_flops, "augmentation")
        self._ledger.charge("gradient", len(indices), "train")
        inputs, donors, shares = self._augmented(self._stored(indices), generator)
        rows = indices if donors is None else indices[donors]
        targets = self._targets[rows]
        own = self._sharing.rows(len(indices))
        passed = self._forward(w, inputs[own], "train")
        losses = donor_losses(
            self._loss.per_sample, passed.outputs, targets[own], None if shares is None else shares[own]
        )
        weighted = losses
        if batch.weights is not None:
            weights = moved(batch.weights, losses.device, losses.dtype)
            weighted = losses * (weights if donors is None else weights[donors])[own]
        loss = weighted.sum() / len(indices)
        gradient = self._flat.gradient(loss, w, "train")
        loss = loss.detach()
        each = losses.detach() if donors is None else losses.detach().sum(1)
        self._sampler.observe(*self._seen(rows, each, passed, targets, shares, sums=(gradient, loss)))
        return loss, gradient

    def _chosen(self, w: Tensor) -> Batch | None:
        if self._sampler.scan_due and self._affords_scan():
            held_out = self._data.tensors(SplitName.VALIDATION) if self._sampler.needs_validation_scan else None
            validation = None if held_out is None else self._scan(w, *held_out)
            scan = self._scan(w, self._inputs, self._targets)
            self._counted(lambda: self._sampler.refresh(scan, validation))
        with tallied() as drawing:
            batch = self._sampler.propose()
        if drawing.flops:
            self._ledger.enter(drawing.flops, "selection")
        if not self._sampler.selection_due:
            return batch
        indices = moved(batch.indices, self._targets.device)
        self._ledger.charge("forward", len(indices), "selection")
        targets = self._targets[indices]
        own = self._sharing.rows(len(indices))
        with torch.no_grad():
            passed = self._forward(w, self._data.preprocess(self._stored(indices[own])), "eval")
            losses = self._loss.per_sample(passed.outputs, targets[own])
        seen = self._seen(indices, losses, passed, targets)
        columns = seen.losses, seen.probabilities, seen.features, seen.targets
        chosen: list[Batch | None] = []
        with tallied() as tally:
            flops = count_contractions(lambda: chosen.append(self._sampler.select(batch, *columns)))
        if flops + tally.host:
            self._ledger.enter(flops + tally.host, "selection")
        return chosen[0]

    def _seen(
        self,
        rows: Tensor,
        losses: Tensor,
        passed: ForwardPass,
        targets: Tensor,
        shares: Tensor | None = None,
        sums: Sequence[Tensor] = (),
    ) -> Seen:
        """Gather what the ranks saw of their rows, and add up `sums` over ranks in the same collective."""
        columns = self._sharing.sum_(len(rows), sums, [losses, passed.probabilities, passed.features])
        gathered, probabilities, features = columns
        assert gathered is not None, "a column that was given is gathered"
        return Seen(rows, gathered, probabilities, features, values_of(targets), shares)

    def _scan(self, w: Tensor, inputs: Stored, targets: Tensor) -> Scan:
        """Return last-layer gradients e = dl/dz (n, M) and features h (n, D) of all rows."""
        targets = self._loss.prepare(targets, self._flat.dtype)
        self._ledger.charge("forward", len(targets), "selection")
        residuals: list[Tensor] = []
        features: list[Tensor] = []
        own = self._sharing.rows(len(targets))
        for start in range(own.start, own.stop, SCAN_CHUNK):
            piece = slice(start, min(start + SCAN_CHUNK, own.stop))
            with torch.no_grad():
                passed = self._forward(w, self._data.preprocess(moved(inputs[piece], w.device)), "eval")
            assert passed.features is not None, "every sampler that scans is given features"
            outputs = passed.outputs.requires_grad_()
            loss = self._loss.per_sample(outputs, moved(targets[piece], w.device)).sum()
            residuals += torch.autograd.grad(loss, outputs)
            features.append(passed.features)
        e, h = (self._sharing.gather(len(targets), torch.cat(parts)) for parts in (residuals, features))
        return Scan(e, h, values_of(targets).to(w.device))

    def _stored(self, indices: Tensor) -> Inputs:
        """Return rows of the inputs on the device, from wherever they are."""
        return moved(self._inputs[indices.to(self._inputs.device)], self._targets.device)

    def _augmented(self, images: Inputs, generator: torch.Generator) -> Augmented:
        if self._augmentation is None:
            return Augmented(self._data.preprocess(images))
        assert isinstance(images, Tensor), "augmentation is refused for several inputs"
        return self._augmentation(images, self._data.preprocess, generator)

    def _forward(self, w: Tensor, x: Inputs, mode: Mode) -> ForwardPass:
        flat, needs, features = self._flat, self._sampler.needs, None
        with torch.autocast(self._data.device.type, torch.bfloat16, enabled=self._amp):
            if "features" in needs or self._sampler.needs_scan:
                outputs, features = evaluate_last_layer(flat, w, x, mode)
            else:
                outputs = flat.forward(w, x, mode)
        outputs = outputs.to(w.dtype)
        wanted = "probabilities" in needs and isinstance(without_weights(self._loss), CrossEntropy)
        return ForwardPass(outputs, outputs.detach().softmax(1) if wanted else None, features)

    @cached_property
    def _augmentation_flops(self) -> int:
        """Operations per image: one for each number that it writes, but for what standardising alone writes."""
        images, preprocess = (
            self._stored(torch.arange(min(COUNTED_ROWS, len(self._inputs)), device="cpu")),
            self._data.preprocess,
        )
        augmentation = self._augmentation
        assert augmentation is not None and isinstance(images, Tensor), "augmentation is refused for several inputs"
        written = count_entries(lambda: augmentation(images, preprocess, make_generator(0, "price of augmentation")))
        return max(0, written - count_entries(lambda: preprocess(images))) // len(images)

    def _counted(self, work: Callable[[], None]) -> None:
        """Do a sampler's own arithmetic and charge it, afterwards: how much it is depends on the data."""
        with tallied() as tally:
            rows = self._gradients(count_contractions(work))
        if rows:
            self._ledger.charge("gradient", rows, "selection")
        if tally.host:
            self._ledger.charge("flops", tally.host, "selection")

    def _gradients(self, flops: int) -> int:
        """Return `flops` in gradients of one sample; 0 for a model in which torch counts none: seconds show it."""
        return math.ceil(flops / self._gradient_flops) if flops and self._gradient_flops else 0

    @cached_property
    def _gradient_flops(self) -> float:
        """Flops of the forward and backward pass of one sample, the unit of the ledger's prices."""
        flat, rows = self._flat, slice(COUNTED_ROWS)
        w = flat.initial().requires_grad_()

        def gradient() -> None:
            outputs = flat.forward(w, self._data.preprocess(self._inputs[rows].to(w.device)), "deterministic")
            flat.gradient(self._loss.per_sample(outputs, self._targets[rows]).sum(), w, "deterministic")

        return count_flops(gradient) / len(self._inputs[rows])


def _require_one_tensor(inputs: Stored) -> Tensor:
    """Return inputs that a sampler can compare; raises `SettingError` for several, and for rows that are read."""
    if isinstance(inputs, Tensor):
        return inputs
    what = "several tensors" if isinstance(inputs, Parts) else "read row by row"
    raise SettingError(
        "codes", "inputs", f"the sampler compares inputs of one tensor, these are {what}", "set codes = 'features'"
    )


def donor_losses(
    per_sample: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor, shares: Tensor | None
) -> Tensor:
    """Return the losses `(b,)`; for mixed inputs with targets `(b, d, ...)` each donor's, times its share, `(b, d)`.

    So an importance weight goes with the sample that it belongs to, not with the row into which it was mixed.
    """
    if shares is None:
        return per_sample(outputs, targets)
    return shares * torch.stack([per_sample(outputs, targets[:, donor]) for donor in range(shares.shape[1])], dim=1)
