"""One mini-batch step: the sampler proposes, selection looks where it must, the kept rows are trained on and credited.

Every model call is charged before it is made: looks and scans to "selection", the training pass to "train". Looks run
without graph in evaluation mode, so that BatchNorm statistics and dropout see only what is trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from subsetopt.data.batch_augmentation import Augmentation, Augmented
from subsetopt.objective import CrossEntropy, Loss, evaluate_last_layer
from subsetopt.objective.flat_model import Mode
from subsetopt.samplers import Batch, Sampler, Scan
from subsetopt.training.config import PhaseConfig
from subsetopt.training.workspace import Workspace

SCAN_CHUNK = 512


class Look(NamedTuple):
    """What a forward pass shows of some rows; `features` are the inputs of the last linear layer."""

    losses: Tensor
    probabilities: Tensor | None
    features: Tensor | None
    outputs: Tensor


class MiniBatch:
    """Computes loss and gradient of the batches that `sampler` chooses from the rows of a phase."""

    def __init__(
        self,
        workspace: Workspace,
        config: PhaseConfig,
        sampler: Sampler,
        loss: Loss,
        augmentation: Augmentation | None,
        l2: float,
    ) -> None:
        self._workspace, self._config, self._sampler = workspace, config, sampler
        self._loss, self._augmentation, self._l2 = loss, augmentation, l2
        self._inputs, self._targets = workspace.data(config.data)
        self._targets = loss.prepare(self._targets, workspace.flat.dtype)
        if sampler.needs_data:
            sampler.bind(self._inputs)

    def gradient(self, w: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
        """Return (loss, gradient) at w of the next batch, None when selection kept too little for a step yet.

        The loss is the weighted mean over the batch plus l2/2 ||w||^2. Nothing is read to the host.
        """
        batch = self._chosen(w)
        if batch is None:
            return None
        indices = batch.indices.to(self._inputs.device)
        self._workspace.ledger.charge("gradient", len(indices), "train")
        augmented = self._augmented(self._inputs[indices], generator)
        donors = indices if augmented.donors is None else indices[augmented.donors]
        look = self._forward(w, augmented.inputs, self._targets[donors], augmented.shares, "train")
        losses = look.losses if batch.weights is None else look.losses * batch.weights.to(look.losses)
        loss = losses.mean() + 0.5 * self._l2 * w.dot(w)
        (gradient,) = torch.autograd.grad(loss, w)
        if self._config.clip_norm is not None:
            norm = torch.linalg.vector_norm(gradient)
            gradient *= (self._config.clip_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
        probabilities = None if look.probabilities is None else look.probabilities.detach()
        features = None if look.features is None else look.features.detach()
        observed = (look.losses.detach(), probabilities, features, self._targets[donors])
        self._sampler.observe(donors, *observed, weights=augmented.shares)
        return loss.detach(), gradient

    def _chosen(self, w: Tensor) -> Batch | None:
        if self._sampler.scan_due:
            validation = None
            if self._sampler.needs_validation_scan:
                held_out = self._workspace.split("validation")
                assert held_out is not None, "checked before step 0"
                validation = self._scan(w, *held_out)
            self._sampler.refresh(self._scan(w, self._inputs, self._targets), validation)
        batch = self._sampler.propose()
        if not self._sampler.selection_due:
            return batch
        indices = batch.indices.to(self._inputs.device)
        self._workspace.ledger.charge("forward", len(indices), "selection")
        with torch.no_grad():
            targets = self._targets[indices]
            look = self._forward(w, self._workspace.preprocess(self._inputs[indices]), targets, None, "eval")
        return self._sampler.select(batch, look.losses, look.probabilities, look.features, targets)

    def _scan(self, w: Tensor, inputs: Tensor, targets: Tensor) -> Scan:
        """Return last-layer gradients e = p - y (n, M) and features h (n, D) of all rows, in evaluation mode."""
        targets = self._loss.prepare(targets, self._workspace.flat.dtype)
        self._workspace.ledger.charge("forward", len(targets), "selection")
        residuals, features = [], []
        with torch.no_grad():
            for start in range(0, len(targets), SCAN_CHUNK):
                x = self._workspace.preprocess(inputs[start : start + SCAN_CHUNK])
                outputs, hidden = evaluate_last_layer(self._workspace.flat, w, x, "eval")
                residuals.append(self._residuals(outputs, targets[start : start + SCAN_CHUNK]))
                features.append(hidden)
        return Scan(torch.cat(residuals), torch.cat(features), targets)

    def _residuals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if isinstance(self._loss, CrossEntropy):
            return outputs.softmax(1) - torch.nn.functional.one_hot(targets, outputs.shape[1])
        return (outputs - targets) * (2 / outputs.shape[1])

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Augmented:
        if self._augmentation is None:
            return Augmented(self._workspace.preprocess(images))
        return self._augmentation(images, self._workspace.preprocess, generator)

    def _forward(self, w: Tensor, x: Tensor, targets: Tensor, shares: Tensor | None, mode: Mode) -> Look:
        flat, device = self._workspace.flat, self._workspace.device
        features = None
        with torch.autocast(device.type, torch.bfloat16, enabled=self._config.amp):
            if "features" in self._sampler.needs:
                outputs, features = evaluate_last_layer(flat, w, x, mode)
            else:
                outputs = flat.forward(w, x, mode)
        outputs = outputs.to(w.dtype)
        losses = mixed_losses(self._loss.per_sample, outputs, targets, shares)
        wanted = "probabilities" in self._sampler.needs and isinstance(self._loss, CrossEntropy)
        return Look(losses, outputs.detach().softmax(1) if wanted else None, features, outputs)


def mixed_losses(
    per_sample: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor, shares: Tensor | None
) -> Tensor:
    """Return the losses `(b,)`; for mixed inputs with targets `(b, d, ...)`, share-weighted sums over d donors."""
    if shares is None:
        return per_sample(outputs, targets)
    parts = [per_sample(outputs, targets[:, donor]) * shares[:, donor] for donor in range(shares.shape[1])]
    return torch.stack(parts).sum(0)
