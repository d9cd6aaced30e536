"""Layers of a model that K-FAC has factors for, and recordings of their inputs and output gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from subsetopt.errors import ModelError
from subsetopt.objective.attention import applications, explicit_projections
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.patches import CONVOLUTION


class Applied(nn.Module):
    """Stands for a parameter `(o, d)` of `owner` that its forward pass gives to `torch.nn.functional.linear`."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__()
        self._of = [owner], name  # in a list: it is no part of this module

    @property
    def weight(self) -> Tensor | None:
        """The parameter that stands in its place at present."""
        (owner,), name = self._of
        return owner._parameters.get(name)


KRONECKER = nn.Linear | CONVOLUTION | Applied
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
        return isinstance(self.module, KRONECKER | nn.MultiheadAttention)


def find_layers(flat: FlatModel) -> tuple[list[Layer], list[int]]:
    """Return the layers with a known form of curvature, and the places of all other trainable parameters.

    Known: Linear, Conv1d to Conv3d and ConvTranspose1d to 3d without groups, BatchNorm, LayerNorm, GroupNorm,
    Embedding, and both projections of MultiheadAttention on one input. A parameter that two modules share belongs to
    no layer; nor does a bias whose weight is shared or frozen. A module called twice is one layer that has more rows.
    Parameters that F.linear takes are found by `applied_layers`.
    """
    places: dict[nn.Module, dict[str, int]] = {}
    for place, slots in enumerate(flat.slots):
        if len(slots) == 1:
            places.setdefault(slots[0][0], {})[slots[0][1]] = place
    layers = []
    for module, names in places.items():
        if isinstance(module, nn.MultiheadAttention) and "in_proj_weight" in names:
            layers.append(Layer(module, names["in_proj_weight"], names.get("in_proj_bias")))
            continue
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


def is_batched(module: nn.Module, inputs: Tensor, outputs: Tensor) -> bool:
    """Return whether the first axis of a call's `inputs` counts samples: torch's layers take single samples, too."""
    if isinstance(module, CONVOLUTION):
        return outputs.dim() == module.weight.dim()
    if isinstance(module, nn.LayerNorm):
        return inputs.dim() > len(module.normalized_shape)
    return outputs.dim() > 1


def applied_layers(flat: FlatModel, places: Sequence[int], call: Callable[[], object]) -> list[tuple[int, int]]:
    """Return those of `places` whose parameters F.linear takes as weight in `call()`, each with the place of its bias.

    -1 stands for no bias, for one that is none of these parameters, and for several. Parameters that two modules share,
    and those of more or less than two axes, are left out.
    """
    shapes, slots = flat.shapes, flat.slots
    own = {place: slots[place][0] for place in places if len(slots[place]) == 1}
    biases: dict[int, set[int]] = {}

    def seen(weight: Tensor, bias: Tensor | None) -> None:
        found = [place for place, (module, name) in own.items() if module._parameters.get(name) is weight]
        taken = [
            place for place, (module, name) in own.items() if bias is not None and module._parameters[name] is bias
        ]
        for place in found:
            if len(shapes[place]) == 2:
                biases.setdefault(place, set()).add(taken[0] if taken else -1)

    with applications(seen):
        call()
    pairs = [(weight, found.pop() if len(found) == 1 else -1) for weight, found in sorted(biases.items())]
    counts = [bias for _, bias in pairs]
    return [(weight, bias if counts.count(bias) == 1 else -1) for weight, bias in pairs]


def applied_layer(flat: FlatModel, weight: int, bias: int) -> Layer:
    """Return the layer of a parameter that F.linear takes, see `applied_layers`."""
    module, name = flat.slots[weight][0]
    return Layer(Applied(module, name), weight, None if bias < 0 else bias)


@contextmanager
def recording(layers: Sequence[Layer]) -> Iterator[None]:
    """Let `layers` keep input and output of every call made inside; the calls are forgotten at the end.

    What follows a layer gets a copy of its output, so that an activation in place does not change what is kept. Raises
    `ModelError` for a model that calls them inside torch.func.
    """

    def keep(layer: Layer, inputs: Tensor, outputs: Tensor) -> None:
        if torch._C._are_functorch_transforms_active():
            raise ModelError(
                "model: it calls its layers inside torch.func (grad, vmap), where K-FAC cannot see what goes in "
                "and out of them; use a solver without K-FAC, such as lbfgs"
            )
        # A module that recomputes its forward pass in the backward pass (checkpointing) calls its layers again.
        if torch._C._current_graph_task_id() == -1 and is_batched(layer.module, inputs, outputs):
            layer.calls.append((inputs.detach(), outputs))

    def hook(layer: Layer) -> Any:
        def called(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            keep(layer, inputs[0], output)
            return output.clone()

        return called

    def projected(weight: Tensor, inputs: Tensor, outputs: Tensor) -> None:
        for layer in layers:
            names = ("in_proj_weight", "weight")
            if any(weight is layer.module._parameters.get(name) for name in names):
                keep(layer, inputs, outputs)

    def applied(weight: Tensor, inputs: Tensor, outputs: Tensor, bias: Tensor | None) -> bool:
        mine = [layer for layer in layers if isinstance(layer.module, Applied) and layer.module.weight is weight]
        for layer in mine:
            keep(layer, inputs, outputs)
        return bool(mine)

    kinds = [type(layer.module) for layer in layers]
    with ExitStack() as stack:
        if nn.MultiheadAttention in kinds or Applied in kinds:
            stack.enter_context(explicit_projections(projected, applied))
        for layer in layers:
            if not isinstance(layer.module, nn.MultiheadAttention | Applied):
                stack.callback(layer.module.register_forward_hook(hook(layer)).remove)
            stack.callback(layer.calls.clear)
        yield


def used_elsewhere(layers: Sequence[Layer], outputs: Tensor, leaves: Sequence[Tensor]) -> list[int]:
    """Return the places of parameters of layers that `outputs` depend on by more than their recorded calls.

    Such as an embedding's weight that F.linear takes for the head, the output projection of attention between two
    inputs, whose module is never called, or a layer that is given single samples. One walk through the graph from
    `outputs` to the `leaves`, without arithmetic.
    """
    owners = {id(leaf): place for place, leaf in enumerate(leaves)}
    uses = [0] * len(leaves)
    pending = [] if outputs.grad_fn is None else [outputs.grad_fn]
    seen = set(pending)
    while pending:
        for child, _ in pending.pop().next_functions:
            place = owners.get(id(getattr(child, "variable", None)))
            if place is not None:
                uses[place] += 1
            elif child is not None and child not in seen:
                seen.add(child)
                pending.append(child)
    found = []
    for layer in layers:
        places = [place for place in (layer.weight, layer.bias) if place is not None]
        if any(uses[place] > len(layer.calls) for place in places):
            found += places
    return found
