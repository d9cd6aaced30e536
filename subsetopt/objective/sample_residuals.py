"""Loss, gradient and every sample's residual in one pass over the samples."""

from __future__ import annotations

import torch
from torch import Tensor

from subsetopt.objective.arithmetic import accumulation_dtype, exact_arithmetic
from subsetopt.objective.model_loss import ModelLoss
from subsetopt.objective.module_call import outputs_of
from subsetopt.objective.objective import Objective
from subsetopt.objective.protocol import Purpose
from subsetopt.objective.weighting import without_weights


def gradient_and_residuals(
    objective: Objective, w: Tensor, purpose: Purpose = "train"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return f(w), its gradient (P,), and the residuals r (K,) of the objective's samples, float64 on the CPU.

    r_i is the norm of the gradient of c_i loss_i in the outputs of sample i, c_i its factor: |p - y| for
    cross-entropy, 2 |z - y| / M for squared loss. Where the loss calls the model itself and returns the n losses, there
    are no outputs, and r_i is |c_i loss_i|. Charged as the gradient that it is; with several ranks every one of them
    returns the whole. f(w) and the gradient are those of `value_and_gradient`, with an l2 term, to rounding.
    """
    flat, samples = objective.flat, objective.samples
    with flat.exclusive, exact_arithmetic(objective.device, objective.allow_tf32):
        objective.meter.charge("gradient", objective.n_samples, purpose)
        value, gradient, own = samples.within_memory(lambda: _sums(objective, w))
        objective.ranks.sum_(gradient, value)
        residuals = objective.ranks.gather_rows(own, objective.n_samples).to("cpu", torch.float64)
        if objective.l2 != 0:
            gradient.add_(w.detach(), alpha=objective.l2)
            norm = torch.linalg.vector_norm(w.detach(), dtype=value.dtype)
            value = value + 0.5 * objective.l2 * norm.square()
        return value, gradient, residuals


def _sums(objective: Objective, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what this rank's samples contribute to loss and gradient, and their residuals."""
    flat = objective.flat
    losses_alone = isinstance(without_weights(objective.loss), ModelLoss)
    leaves, gradient = flat.leaves(w), torch.zeros_like(w, requires_grad=False)
    for leaf, view in zip(leaves, flat.views(gradient), strict=True):
        leaf.grad = view
    value = torch.zeros((), dtype=accumulation_dtype(objective.device), device=objective.device)
    residuals: list[Tensor] = []
    with flat.at(leaves, "deterministic") as evaluate:
        for x, y in objective.samples:
            outputs = outputs_of(evaluate, x)
            slopes: list[Tensor] = []
            outputs.register_hook(slopes.append)
            part = objective.loss.total(outputs, y, value.dtype) / objective.n_samples
            part.backward(inputs=leaves)
            value += part.detach()
            (slope,) = slopes
            slope = slope * outputs.detach() if losses_alone else slope
            norms = torch.linalg.vector_norm(slope.reshape(len(slope), -1), dim=1)
            residuals.append(norms * objective.n_samples)
    return value, gradient, torch.cat(residuals)
