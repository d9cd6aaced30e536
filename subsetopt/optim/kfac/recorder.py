"""Hooks that see what goes in and out of layers, and the gradient that the loss sends into the model's outputs.

They stand while an estimate is due. In the forward pass every layer keeps its input and output; the last output of a
module that holds layers is the model's. When the loss's gradient comes back to it, before anything else of the backward
pass, noise of the loss's Hessian goes through the same graph.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.module import register_module_forward_hook

from subsetopt.errors import UserError
from subsetopt.objective.layers import KRONECKER, Layer, is_known
from subsetopt.objective.patches import CONVOLUTION

Measure = Callable[[GradientEdge, Tensor, Tensor, "list[Layer]"], None]
"""Called with the edge of the model's outputs, their values, the loss's gradient in them, and the layers called."""


@dataclass
class LayerRecorder:
    """Finds the layers whose parameters are in `wanted`, and records their calls while it is `on`.

    `owners` has, of each parameter seen so far, the modules that own it and its name there.
    """

    measure: Measure
    owners: dict[int, list[tuple[nn.Module, str]]] = field(default_factory=dict)
    wanted: set[int] = field(default_factory=set)
    _layers: dict[nn.Module, Layer] = field(default_factory=dict)
    _holds: dict[nn.Module, bool] = field(default_factory=dict)
    _handles: list[Any] = field(default_factory=list)
    _output: tuple[Any, Any] | None = None
    _busy: bool = False

    @property
    def on(self) -> bool:
        """Whether hooks stand."""
        return bool(self._handles)

    def start(self) -> None:
        """Set the hooks; they go with `stop`, or when the recorder is no longer used."""
        if self.on:
            return
        me = weakref.ref(self)

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            recorder = me()
            return None if recorder is None else recorder._see(module, inputs, output)

        handle = register_module_forward_hook(hook)
        weakref.finalize(self, handle.remove)
        self._handles.append(handle)

    def stop(self) -> None:
        """Take the hooks away and forget all calls."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.forget()

    def renew(self, wanted: set[int]) -> bool:
        """Look for these parameters (ids) from now on; return whether some have not been seen in a module yet."""
        if wanted != self.wanted:
            self.wanted, self.owners = wanted, {key: known for key, known in self.owners.items() if key in wanted}
            self._holds.clear()
        return not self.owners

    def forget(self) -> None:
        """Forget the calls of a forward pass."""
        if self._output is not None:
            self._output[0].remove()
        self._output = None
        self._layers.clear()

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self._busy or not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return None
        own = {name: p for name, p in module._parameters.items() if p is not None and id(p) in self.wanted}
        for name, p in own.items():
            known = self.owners.setdefault(id(p), [])
            if all(other is not module for other, _ in known):
                known.append((module, name))
        if own and set(own) <= {"weight", "bias"} and is_known(module) and isinstance(output, Tensor):
            output = self._record(module, own, inputs, output)
        if self._holds_layers(module):
            self._watch(output)
        return output

    def _record(self, module: nn.Module, own: Mapping[str, Tensor], inputs: Any, output: Tensor) -> Tensor:
        """Keep one call; what follows gets a copy of the output, which an activation in place may change.

        In evaluation mode the last call alone is kept: such passes often have no backward pass that ends them.
        """
        kronecker = isinstance(module, KRONECKER)
        if not output.requires_grad or not inputs or not isinstance(inputs[0], Tensor) or inputs[0].dim() < 2:
            return output
        unbatched = isinstance(module, CONVOLUTION) and output.dim() != module.weight.dim()
        if (kronecker and "weight" not in own) or unbatched:
            return output
        if torch.is_autocast_enabled(output.device.type):
            raise UserError("autocast: KFAC's factors need full precision; call the model outside torch.autocast")
        layer = self._layers.setdefault(
            module, Layer(module, 0 if "weight" in own else None, 0 if "bias" in own else None)
        )
        if not module.training:
            layer.calls.clear()
        layer.calls.append((inputs[0].detach(), output))
        return output.clone()

    def _holds_layers(self, module: nn.Module) -> bool:
        if module not in self._holds:
            self._holds[module] = any(
                p is not None and id(p) in self.wanted for part in module.modules() for p in part._parameters.values()
            )
        return self._holds[module]

    def _watch(self, output: Any) -> None:
        """Take what a module returns for the model's outputs, until a later one returns.

        The graph is entered again by the edge, as the tensor may be gone when the gradient comes; it is not kept in the
        hook, whose node it would keep alive.
        """
        tensor = outputs_of(output)
        if tensor is None:
            return
        if self._output is not None:
            self._output[0].remove()
        me, z = weakref.ref(self), tensor.detach()

        def hook(gradient: Tensor) -> None:
            recorder = me()
            if recorder is not None and not recorder._busy:
                recorder._arrived(z, gradient)

        self._output = tensor.register_hook(hook), get_gradient_edge(tensor)

    def _arrived(self, outputs: Tensor, gradient: Tensor) -> None:
        layers, edge, self._busy = list(self._layers.values()), self._output, True
        try:
            if layers and edge is not None:
                self.measure(edge[1], outputs, gradient, layers)
        finally:
            self._busy = False
            self.forget()


def outputs_of(output: Any) -> Tensor | None:
    """Return the tensor of predictions in what a module returns: itself, `.logits`, ["logits"], or the first one."""
    if hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), None))
    elif isinstance(output, list | tuple):
        output = next((part for part in output if isinstance(part, Tensor) and part.dim() > 0), None)
    if isinstance(output, Tensor) and output.requires_grad and output.is_floating_point() and output.dim() > 0:
        return output
    return None
