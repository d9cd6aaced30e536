"""Whether a loss is curved in the outputs, without which the Gauss-Newton matrix is zero."""

from __future__ import annotations

import torch
from torch import Tensor

from subsetopt.objective.losses import CrossEntropy, Loss, MeanSquaredError
from subsetopt.objective.model_loss import ModelLoss
from subsetopt.objective.weighting import values_of, without_weights
from subsetopt.seeding import make_generator

SCALES = (1.0, 0.1, 0.01)


def output_hessian_fault(loss: Loss, outputs: Tensor, targets: Tensor) -> str:
    """Return why `loss` has no Hessian in the outputs, in a few words; "" where it has one.

    It is looked for at the outputs, at random ones and near the targets: a Huber loss is linear far from them.
    """
    if isinstance(without_weights(loss), CrossEntropy | MeanSquaredError):
        return ""
    if isinstance(without_weights(loss), ModelLoss):
        return "a loss(model, batch) shows no outputs; residuals do: see Residuals"
    generator = make_generator(0, "output curvature")
    noise = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    places, y = [outputs, *(scale * noise for scale in SCALES)], values_of(targets)
    if y.shape == outputs.shape:
        places += [y.to(outputs.dtype) + scale * noise for scale in SCALES]
    try:
        with torch.enable_grad():
            if any(bool(loss.output_hessian(place.detach(), targets)(noise).any()) for place in places):
                return ""
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return f"the loss has no second derivative in the outputs: {str(error).splitlines()[0][:100]}"
    return "the loss is linear in the outputs, and Gauss-Newton would be zero"
