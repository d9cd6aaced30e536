"""Layers of a model that K-FAC has factors for, and recordings of their inputs and output gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from subsetopt.errors import ModelError
from subsetopt.objective.flat_model import FlatModel

CONVOLUTION = nn.Conv1d | nn.Conv2d
KRONECKER = nn.Linear | CONVOLUTION
"""Modules whose curvature is a Kronecker product."""


@dataclass
class Layer:
    """A module whose own trainable parameters get curvature: their places in the flat model's list, None if absent."""

    module: nn.Module
    weight: int | None
    bias: int | None
    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False)

    @property
    def kronecker(self) -> bool:
        """Whether its curvature is a Kronecker product; otherwise it is a diagonal."""
        return isinstance(self.module, KRONECKER)


def find_layers(flat: FlatModel) -> tuple[list[Layer], list[int]]:
    """Return the layers with a known form of curvature, and the places of all other trainable parameters.

    Known: Linear, Conv1d and Conv2d without groups, BatchNorm, LayerNorm, GroupNorm, Embedding. A parameter that two
    modules share belongs to no layer; nor does a bias whose weight is shared or frozen. A module called twice is one
    layer that has more rows.
    """
    places: dict[nn.Module, dict[str, int]] = {}
    for place, slots in enumerate(flat.slots):
        if len(slots) == 1:
            places.setdefault(slots[0][0], {})[slots[0][1]] = place
    layers = []
    for module, names in places.items():
        known = set(names) <= {"weight", "bias"} and is_known(module)
        if known and ("weight" in names or not isinstance(module, KRONECKER)):
            layers.append(Layer(module, names.get("weight"), names.get("bias")))
    covered = {place for layer in layers for place in (layer.weight, layer.bias)}
    return layers, [place for place in range(len(flat.names)) if place not in covered]


def is_known(module: nn.Module) -> bool:
    """Return whether K-FAC has a form of curvature for the module's own weight and bias."""
    if isinstance(module, CONVOLUTION):
        return module.groups == 1
    return isinstance(module, nn.Linear | _BatchNorm | nn.LayerNorm | nn.GroupNorm | nn.Embedding)


@contextmanager
def recording(layers: Sequence[Layer]) -> Iterator[None]:
    """Let `layers` keep input and output of every call made inside; the calls are forgotten at the end.

    What follows a layer gets a copy of its output, so that an activation in place does not change what is kept. Raises
    `ModelError` for a model that calls them inside torch.func.
    """

    def keep(layer: Layer) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if torch._C._are_functorch_transforms_active():
                raise ModelError(
                    "model: it calls its layers inside torch.func (grad, vmap), where K-FAC cannot see what goes in "
                    "and out of them; use a solver without K-FAC, such as lbfgs"
                )
            layer.calls.append((inputs[0].detach(), output))
            return output.clone()

        return hook

    with ExitStack() as stack:
        for layer in layers:
            handle = layer.module.register_forward_hook(keep(layer))
            stack.callback(handle.remove)
            stack.callback(layer.calls.clear)
        yield


PATCH_BYTES = 64 * 2**20  # of unfolded convolution inputs at a time


def patches(module: CONVOLUTION, x: Tensor) -> Tensor:
    """Return what each output position of `module` sees of x, shape (n, positions, C kh kw)."""
    padding: Any = module.padding
    if isinstance(padding, str) or module.padding_mode != "zeros":
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x, padding = F.pad(x, module._reversed_padding_repeated_twice, mode=mode), 0
    kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    if isinstance(module, nn.Conv1d):  # as one row of an image
        x, padding = x[..., None, :], (0, *padding) if padding else 0
        kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
    unfolded = F.unfold(x, cast(Any, kernel), cast(Any, dilation), padding, cast(Any, stride))
    return unfolded.transpose(1, 2)


def sample_rows(
    module: nn.Module, bias: bool, calls: Sequence[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs (n, t, d) and output gradients (n, t, o) of some samples at a time, t positions of all `calls`.

    `calls` are pairs of an input of the module and the gradient in its output. With `bias` the last of the d columns is
    of ones.
    """
    samples, per_sample = len(calls[0][0]), 1
    if isinstance(module, CONVOLUTION):
        per_sample = calls[0][0][0].numel() * module.weight[0, 0].numel() * len(calls) * module.weight.element_size()
    for start in range(0, samples, piece := max(1, PATCH_BYTES // max(1, per_sample))):
        inputs, gradients = [], []
        for x, g in calls:
            x, g = x[start : start + piece], g[start : start + piece]
            if isinstance(module, CONVOLUTION):
                x, g = patches(module, x), g.flatten(2).mT
            else:
                x, g = (rows.flatten(1, -2) if rows.dim() > 2 else rows[:, None] for rows in (x, g))
            inputs.append(torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2) if bias else x)
            gradients.append(g)
        yield torch.cat(inputs, 1), torch.cat(gradients, 1)
