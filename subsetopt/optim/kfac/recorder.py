"""Hooks that see what goes in and out of layers, and the gradient that the loss sends into the model's outputs.

They stand while an estimate is due. In the forward pass every layer keeps its input and output, attention those of its
two projections, and a module with parameters of its own those of its calls of F.linear; the last output of a module
that holds layers is the model's. When the loss's gradient comes back to it, before anything else of the backward
pass, noise of the loss's Hessian goes through the same graph.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from subsetopt.errors import UserError
from subsetopt.objective.attention import explicit_projections
from subsetopt.objective.layers import KRONECKER, Applied, Layer, is_known
from subsetopt.objective.patches import CONVOLUTION

Measure = Callable[[GradientEdge, Tensor, Tensor, "list[Layer]"], None]
"""Called with the edge of the model's outputs, their values, the loss's gradient in them, and the layers called."""


@dataclass
class LayerRecorder:
    """Finds the layers whose parameters are in `wanted`, and records their calls while it is `on`.

    `owners` has, of each parameter seen so far, the modules that own it and its name there; `partners`, of weights that
    are no `weight` of a module that has a `bias`, the bias that is applied with it.
    """

    measure: Measure
    owners: dict[int, list[tuple[nn.Module, str]]] = field(default_factory=dict)
    partners: dict[int, Tensor | None] = field(default_factory=dict)
    wanted: set[int] = field(default_factory=set)
    _layers: dict[nn.Module, Layer] = field(default_factory=dict)
    _applied: dict[int, Layer] = field(default_factory=dict)
    _modes: list[tuple[nn.Module, explicit_projections]] = field(default_factory=list)
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

        def before(module: nn.Module, inputs: Any) -> None:
            if (recorder := me()) is not None:
                recorder._enter(module)

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            if (recorder := me()) is not None:
                recorder._leave(module)

        # What is entered is left, also where a forward pass fails; and before its outputs are looked at.
        handles = [
            register_module_forward_pre_hook(before),
            register_module_forward_hook(after, always_call=True),
            register_module_forward_hook(hook),
        ]
        for handle in handles:
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
        self._applied.clear()

    def _enter(self, module: nn.Module) -> None:
        """Look into the forward pass of attention, and of a module whose own parameters F.linear may take."""
        if self._busy or not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return
        own: list[Tensor] = [p for p in module._parameters.values() if p is not None and id(p) in self.wanted]
        if isinstance(module, nn.MultiheadAttention) and module.out_proj.weight is not None:
            own.append(module.out_proj.weight)
        if any(p.dim() == 2 and id(p) in self.wanted for p in own) and not is_known(module):
            mode = explicit_projections(partial(self._projected, module), partial(self._took, module))
            self._modes.append((module, mode))
            mode.__enter__()  # type: ignore[no-untyped-call]  # torch leaves its types out

    def _leave(self, module: nn.Module) -> None:
        if self._modes and self._modes[-1][0] is module:
            self._modes.pop()[1].__exit__(None, None, None)  # type: ignore[no-untyped-call]  # as above

    def _projected(self, module: nn.Module, weight: Tensor, inputs: Tensor, outputs: Tensor) -> None:
        """Keep a projection of attention `module`: that of its inputs, or of the layer inside it for its outputs."""
        inner = [each for each in module.modules() if any(p is weight for p in each._parameters.values())]
        if inner:
            name = next(key for key, p in inner[0]._parameters.items() if p is weight)
            self._keep(inner[0], name, inner[0]._parameters.get(name.replace("weight", "bias")), inputs, outputs)

    def _took(self, module: nn.Module, weight: Tensor, inputs: Tensor, outputs: Tensor, bias: Tensor | None) -> bool:
        """Keep a call of F.linear with a parameter of `module`; False where it is none."""
        name = next((key for key, p in module._parameters.items() if p is weight and id(p) in self.wanted), None)
        if name is None or weight.dim() != 2 or inputs.dim() < 2 or not outputs.requires_grad:
            return False
        own = any(p is bias for p in module._parameters.values()) if bias is not None else False
        return self._keep(module, name, bias if own else None, inputs, outputs)

    def _keep(self, owner: nn.Module, name: str, bias: Tensor | None, inputs: Tensor, outputs: Tensor) -> bool:
        weight = owner._parameters[name]
        if weight is None or id(weight) not in self.wanted:
            return False
        self._require_precision(outputs)
        bias = bias if bias is not None and id(bias) in self.wanted else None
        known = self.owners.setdefault(id(weight), [])
        if all(other is not owner for other, _ in known):
            known.append((owner, name))
        if id(weight) not in self._applied:
            self._applied[id(weight)] = Layer(Applied(owner, name), 0, None if bias is None else 0)
        elif (self.partners.get(id(weight)) is None) != (bias is None):
            return False  # with and without a bias: it is no one layer
        self.partners[id(weight)] = bias
        layer = self._applied[id(weight)]
        if not owner.training:
            layer.calls.clear()
        layer.calls.append((inputs.detach(), outputs))
        return True

    def _require_precision(self, output: Tensor) -> None:
        if torch.is_autocast_enabled(output.device.type):
            raise UserError("autocast: KFAC's factors need full precision; call the model outside torch.autocast")

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
        self._require_precision(output)
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
        layers, edge, self._busy = [*self._layers.values(), *self._applied.values()], self._output, True
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
