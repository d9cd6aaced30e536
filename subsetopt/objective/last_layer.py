"""Outputs of a model together with the inputs of its last linear layer, from one forward pass.

For a loss l(z) with z = W h + b the last layer's gradient of a sample is (dl/dz) [h, 1]^T: selection methods compare
samples by these factors and never form the gradients themselves (Katharopoulos and Fleuret 2018; methods such as CRAIG
and GradMatch use the same approximation).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from subsetopt.errors import ModelError
from subsetopt.inputs import Inputs
from subsetopt.objective.flat_model import FlatModel, Mode


def has_last_layer(flat: FlatModel) -> bool:
    """Return whether the model has a linear layer to take features from; outputs of a loss that calls it are none."""
    return not flat.is_called_by_loss and _last_linear(flat) is not None


def evaluate_last_layer(flat: FlatModel, w: Tensor, x: Inputs, mode: Mode) -> tuple[Tensor, Tensor]:
    """Return outputs `(n, M)` and detached features h `(n, D)`, the inputs of the last linear layer, for inputs `x`.

    Raises `ModelError` where the model does not end in a linear layer.
    """
    layer = _last_linear(flat)
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen[:] = [(inputs[0], output)]

    if layer is not None:
        with flat.exclusive:
            handle = layer.register_forward_hook(keep)
            try:
                outputs = flat.forward(w, x, mode)
            finally:
                handle.remove()
        if seen and seen[0][1] is outputs:
            return outputs, seen[0][0].detach().flatten(1)
    raise ModelError("model: no linear layer at its end, whose inputs this sampler compares; use another sampler")


def _last_linear(flat: FlatModel) -> nn.Linear | None:
    layers = [module for module in flat.modules() if isinstance(module, nn.Linear)]
    return layers[-1] if layers else None
