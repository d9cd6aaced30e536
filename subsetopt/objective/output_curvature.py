"""Whether a loss is curved in the outputs, without which the Gauss-Newton matrix is zero."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from subsetopt.objective.losses import CrossEntropy, Loss, MeanSquaredError
from subsetopt.objective.model_loss import ModelLoss
from subsetopt.objective.weighting import values_of, without_weights
from subsetopt.seeding import make_generator

SCALES = (1.0, 0.1, 0.01)
_BLOCK = 2**20  # outputs looked at together


def output_hessian_fault(loss: Loss, outputs: Tensor, targets: Tensor, every: Tensor | None = None) -> str:
    """Return why `loss` has no Hessian in the outputs, in a few words; "" where it has one.

    It is looked for at the outputs, at random ones and near the targets: a Huber loss is linear far from them. Some
    samples may have none, being ignored or of weight 0: others are looked for among `every` target there is.
    """
    if isinstance(without_weights(loss), CrossEntropy | MeanSquaredError):
        return ""
    if isinstance(without_weights(loss), ModelLoss):
        return "a loss(model, batch) shows no outputs; residuals do: see Residuals"
    try:
        with torch.enable_grad():
            if _is_curved(loss, outputs, targets, [outputs]):
                return ""
            rows = max(1, _BLOCK // outputs[0].numel())
            for start in range(0, 0 if every is None else len(every), rows):
                own = cast(Tensor, every)[start : start + rows]
                if _is_curved(loss, outputs.new_zeros(len(own), *outputs.shape[1:]), own, []):
                    return ""
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return f"the loss has no second derivative in the outputs: {str(error).splitlines()[0][:100]}"
    return "the loss is linear in the outputs, and Gauss-Newton would be zero"


def _is_curved(loss: Loss, like: Tensor, targets: Tensor, places: list[Tensor]) -> bool:
    """Whether the Hessian at `places`, at random outputs and near the targets of these samples is other than zero."""
    generator = make_generator(0, "output curvature")
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    places, y = [*places, *(scale * noise for scale in SCALES)], values_of(targets)
    if y.shape == like.shape:
        places += [y.to(like.dtype) + scale * noise for scale in SCALES]
    return any(bool(loss.output_hessian(place.detach(), targets)(noise).any()) for place in places)
