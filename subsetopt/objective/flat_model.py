"""A user's module as a function of one flat parameter vector."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._utils import _unflatten_dense_tensors
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from subsetopt.errors import ModelError
from subsetopt.inputs import Inputs, Stored, fitted_to
from subsetopt.models.kept import KeptAttributes, derived_attributes
from subsetopt.objective.arithmetic import plain
from subsetopt.objective.chunks import Preprocess, part_placer
from subsetopt.objective.module_call import InPlaceOfForward, ModuleCall, outputs_of
from subsetopt.objective.placing import Mode, Slot, in_mode, installed, slots_of
from subsetopt.objective.private_copy import check_parameters, copied, plain_names, private_copy

__all__ = ["FlatModel", "Mode", "Slot"]


class FlatModel:
    """A private copy of `model` evaluated at a flat vector w of shape (P,).

    w holds the trainable parameters, each once however often it is shared, in the order of `named_parameters()` and
    each in row-major order. Frozen parameters take part in the forward pass but not in w. The caller's module is
    never touched. `dtype` (float32 or float64) and `device` default to those of the first trainable parameter.
    Raises `ModelError` for a model without trainable parameters, or with lazy, empty or complex ones.
    """

    def __init__(
        self, model: nn.Module, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> None:
        check_parameters(model)
        first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        self.dtype = first.dtype if dtype is None else dtype
        self.device = torch.device(first.device if device is None else device)
        if self.dtype not in (torch.float32, torch.float64):
            raise ModelError(
                f"model: dtype {self.dtype} is too coarse for second-order methods; "
                "use float32 or float64, as model.float() gives"
            )
        self._module = private_copy(model, self.dtype, self.device)
        self.kept, self.derived = KeptAttributes(self._module), derived_attributes(model)
        self._call = ModuleCall(self._module)
        # One module serves all threads: whoever has put parameters in place has it to himself until they are out.
        self.exclusive = threading.RLock()
        trainable = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        self.names = tuple(trainable)
        self.shapes = tuple(p.shape for p in trainable.values())
        self._numels = [p.numel() for p in trainable.values()]
        self.size = sum(self._numels)
        self._slots = [slots_of(self._module, parameter) for parameter in trainable.values()]
        self._norms = [m for m in self._module.modules() if isinstance(m, _NormBase) and m.track_running_stats]
        # cuDNN's recurrent layers have no gradient in eval mode, and no second derivative; torch's own have both.
        recurrent = any(isinstance(m, nn.RNNBase) for m in self._module.modules())
        self._recurrent = recurrent and self.device.type == "cuda"
        # InstanceNorm, the other kind of _NormBase, treats every sample by itself.
        self.batch_dependent = any(isinstance(m, _BatchNorm) for m in self._module.modules())
        self._initial = torch.cat([plain(p).reshape(-1) for p in trainable.values()])
        self._templates = tuple(torch.empty(shape, device="meta") for shape in self.shapes)
        # The module's own parameters become views of the starting point, so that it is stored once.
        for parameter, view in zip(trainable.values(), self.views(self._initial), strict=True):
            parameter.data = view

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "exclusive"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state, exclusive=threading.RLock())

    @property
    def differentiates(self) -> bool:
        """Whether the model's forward pass was seen to call autograd itself."""
        return self._call.differentiates

    @property
    def offsets(self) -> tuple[int, ...]:
        """Return where each parameter starts in w."""
        return tuple(sum(self._numels[:index]) for index in range(len(self._numels)))

    @property
    def slots(self) -> Sequence[Sequence[Slot]]:
        """Where each parameter of w sits in the private copy: (module, attribute), more than one where it is shared."""
        return self._slots

    @property
    def has_running_statistics(self) -> bool:
        """Whether `update_batch_norm` has anything to do."""
        return bool(self._norms)

    @property
    def description(self) -> str:
        """Return a text that is equal for models of equal architecture."""
        return f"{self._module!r}|{self.names}|{self.shapes}|{self.dtype}"

    def modules(self) -> Iterator[nn.Module]:
        """Yield the private copy's modules, for hooks."""
        return self._module.modules()

    def constants(self) -> list[Tensor]:
        """Return what the deterministic forward pass uses besides w and the inputs: the frozen parameters."""
        return [parameter.detach() for parameter in self._module.parameters() if not parameter.requires_grad]

    def fitting(self, inputs: Stored, preprocess: Preprocess | None = None) -> Stored:
        """Return the inputs as this model takes them: a single part by its name, in a dict, or as a plain tensor."""
        if self.is_called_by_loss:
            return inputs
        return fitted_to(self._module, inputs, part_placer(self.device, self.dtype, preprocess))

    def given_as(self, input_name: str) -> FlatModel:
        """Return the same model, sharing all it has, which hands its single tensor on by this name, or in a dict."""
        view = copy.copy(self)
        view.exclusive, view._call = self.exclusive, ModuleCall(self._module, input_name=input_name)
        return view

    @property
    def input_name(self) -> str | None:
        """The name by which a single tensor is handed on (see `given_as`)."""
        return self._call.input_name

    def renewed(self, w: Tensor) -> FlatModel:
        """Return an independent model that starts at w, with the current buffers."""
        new = FlatModel(self.module(w), dtype=self.dtype, device=self.device)
        return new if self.input_name is None else new.given_as(self.input_name)

    def initial(self) -> Tensor:
        """Return a fresh copy of the parameters the model came with, shape (P,)."""
        return self._initial.clone()

    def views(self, w: Tensor) -> list[Tensor]:
        """Return the parameters in w, in their shapes, without copying; differentiable where w is."""
        return list(_unflatten_dense_tensors(w, self._templates))

    def leaves(self, w: Tensor) -> list[Tensor]:
        """Return the views of w as independent autograd leaves; gradients reach them, and never w."""
        return [view.requires_grad_() for view in self.views(self.check(w).detach())]

    def check(self, w: Tensor) -> Tensor:
        """Return `w`; raises `ModelError` when its shape, dtype or device is not this model's."""
        if w.shape != (self.size,) or w.dtype != self.dtype or w.device.type != self.device.type:
            raise ModelError(
                f"w: shape {tuple(w.shape)} {w.dtype} on {w.device}; "
                f"expected shape ({self.size},) {self.dtype} on {self.device}, as initial() gives"
            )
        return plain(w) if w.is_inference() else w

    def forward(self, w: Tensor, x: Inputs, mode: Mode) -> Tensor:
        """Return the model's outputs for `x` at w; differentiable in w where w requires a gradient.

        `deterministic`: dropout off, BatchNorm on the statistics of `x`, running statistics untouched.
        `train`: dropout on (the caller seeds torch's generator), running statistics updated. `eval`: as usual.
        `statistics`: as `eval`, but BatchNorm uses and records the statistics of `x`.
        """
        return self.outputs(self.views(self.check(w)), x, mode)

    def outputs(self, parameters: Sequence[Tensor], x: Inputs, mode: Mode) -> Tensor:
        """Return the outputs as `call` does; raises `ModelError` in one line where the model itself fails."""
        return cast(Tensor, outputs_of(lambda x: self.call(parameters, x, mode), x, mode))

    def call(self, parameters: Sequence[Tensor], x: Inputs, mode: Mode) -> Tensor:
        """Return the outputs with `parameters` (as `views` or `leaves` give them) in place."""
        with self.at(parameters, mode) as evaluate:
            return evaluate(x)

    @contextmanager
    def at(self, parameters: Sequence[Tensor], mode: Mode) -> Iterator[Callable[[Inputs], Tensor]]:
        """Put `parameters` in place for many calls, and yield the function from inputs to outputs.

        A backward pass made inside also fits modules that recompute their forward pass in it (checkpointing). Other
        threads wait until these parameters are out of place again.
        """
        placed, running = installed(self._slots, parameters), in_mode(self._module, self._norms, self._recurrent, mode)
        with self.exclusive, placed, running:
            yield lambda x: self._call(x, mode)

    def gradient(self, total: Tensor, w: Tensor, mode: Mode) -> Tensor:
        """Return the gradient in `w`, shape (P,), of `total`, which was computed from `forward(w, ..., mode)`.

        Parameters are in place for modules that recompute their forward pass in the backward pass (checkpointing).
        """
        with self.at(self.views(w), mode):
            (gradient,) = torch.autograd.grad(total, w)
        return gradient

    def functional(self, parameters: Sequence[Tensor], x: Inputs) -> Tensor:
        """Return the outputs without touching the module, in the mode that `at` has set: a form compilers can trace."""
        arguments, named = self._call.arguments(self._call.own(x))
        in_place = dict(zip(self.names, parameters, strict=True))
        return cast(Tensor, functional_call(self._module, in_place, arguments, dict(named)))

    def evaluated_by(self, function: InPlaceOfForward) -> FlatModel:
        """Return the same model, sharing all it has, whose outputs for `x` are `function(module, x)`."""
        view = copy.copy(self)
        view.exclusive, view._call = self.exclusive, ModuleCall(self._module, function)
        return view

    @property
    def is_called_by_loss(self) -> bool:
        """Whether outputs are those of a function that calls the module (see `evaluated_by`)."""
        return self._call.function is not None

    def buffers(self) -> dict[str, Tensor]:
        """Return copies of the model's buffers (running statistics and the like) by name, for a checkpoint."""
        return {name: plain(buffer).clone() for name, buffer in self._module.named_buffers()}

    def load_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """Set the buffers that `buffers()` gave back; raises `ModelError`, changing nothing, when they do not fit."""
        own = dict(self._module.named_buffers())
        _check_names(own, buffers, "buffers")
        with torch.no_grad():
            for name, buffer in own.items():
                buffer.copy_(buffers[name])

    def write_back(self, w: Tensor, module: nn.Module) -> None:
        """Copy w and the buffers into `module`, a model of the same architecture, keeping its dtype and device.

        Raises `ModelError`, changing nothing, when the names or shapes do not match.
        """
        parameters = plain_names(module.named_parameters(remove_duplicate=False))
        targets = {name: parameters[name] for name in self.names if name in parameters}
        _check_names(dict(zip(self.names, self.views(self.check(w)), strict=True)), targets, "module")
        buffers = plain_names(module.named_buffers())
        own = dict(self._module.named_buffers())
        _check_names(own, buffers, "module")
        with torch.no_grad():
            for name, view in zip(self.names, self.views(w), strict=True):
                targets[name].copy_(view)
            for name, buffer in own.items():
                buffers[name].copy_(buffer)

    def state_dict(self, w: Tensor) -> dict[str, Tensor]:
        """Return an ordinary module state dict at w: independent tensors, shared ones under each of their names."""
        with (
            self.exclusive,
            torch.no_grad(),
            installed(self._slots, [view.detach() for view in self.views(self.check(w))]),
        ):
            return {name: plain(value).clone() for name, value in self._module.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Tensor:
        """Take buffers and frozen parameters from `state` and return the w it holds, shape (P,).

        Raises `ModelError`, changing nothing, when names or shapes do not match.
        """
        own = self._module.state_dict(keep_vars=True)
        _check_names(own, state, "state dict")
        trainable = {id(slots[0][0]._parameters[slots[0][1]]) for slots in self._slots}
        with torch.no_grad():
            for name, value in own.items():
                if id(value) not in trainable:
                    value.copy_(state[name])
        return torch.cat([state[name].detach().to(self._initial).reshape(-1) for name in self.names])

    def module(self, w: Tensor) -> nn.Module:
        """Return a new, independent module at w with the current buffers, in eval mode."""
        with self.exclusive:
            module = copied(self._module).eval()
            self.write_back(w, module)
        return module

    @contextmanager
    def averaging(self) -> Iterator[None]:
        """Reset the running statistics and let BatchNorm average them with equal weights (momentum None).

        An exception inside brings the old statistics back.
        """
        with self.exclusive:
            before = self.buffers()
            momenta = [norm.momentum for norm in self._norms]
            try:
                for norm in self._norms:
                    norm.reset_running_stats()
                    norm.momentum = None
                yield
            except BaseException:
                self.load_buffers(before)
                raise
            finally:
                for norm, momentum in zip(self._norms, momenta, strict=True):
                    norm.momentum = momentum


def _check_names(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    missing, extra = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if missing or extra:
        raise ModelError(f"{what}: missing {missing or 'nothing'}, unexpected {extra or 'nothing'}; use the same model")
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            shapes = f"shape {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
            raise ModelError(f"{what}: {name} has {shapes}; use the same model")
