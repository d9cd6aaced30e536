"""A copy of a user's module that an objective may change: checked, uncompiled, in one dtype on one device."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from subsetopt.errors import ModelError

COMPILED = "_orig_mod."
"""What torch.compile puts before the names of the parameters of a module that it wraps."""

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


def check_parameters(model: nn.Module) -> None:
    """Raise `ModelError` for a model that has no flat vector of real parameters, or none that can be put in place."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ModelError(
            "model: it is, or has in it, a torch.jit module, whose parameters cannot be exchanged; give the nn.Module "
            "that it was made from"
        )
    trainable = False
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ModelError(f"model: parameter {name} is lazy; run the model once on a sample before handing it over")
        if parameter.is_meta:
            raise ModelError(
                f"model: parameter {name} is on the meta device and has no values; load its weights, or use "
                "model.to_empty(device='cpu') and initialise it"
            )
        if parameter.is_complex():
            raise ModelError(f"model: parameter {name} is complex; split it into real and imaginary parameters")
        if parameter.requires_grad and parameter.numel() == 0:
            raise ModelError(f"model: parameter {name} has no elements (shape {tuple(parameter.shape)}); remove it")
        trainable |= parameter.requires_grad
    for name, buffer in model.named_buffers():
        if buffer.is_meta or is_lazy(buffer):
            raise ModelError(f"model: buffer {name} has no values (meta device, or lazy); fill it first")
    if not trainable:
        raise ModelError("model: no trainable parameters; set requires_grad=True on those to be fitted")
    _check_embeddings(model)


def _check_embeddings(model: nn.Module) -> None:
    """Refuse trainable embeddings whose forward pass changes w, or whose gradient is not that of the loss."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.weight.requires_grad:
            if module.max_norm is not None:
                raise ModelError(
                    f"model: {type(module).__name__} {name!r} has max_norm={module.max_norm!r} and changes its weights "
                    "in the forward pass; use max_norm=None, and l2 to keep them small"
                )
            if module.scale_grad_by_freq:
                raise ModelError(
                    f"model: {type(module).__name__} {name!r} has scale_grad_by_freq=True, so that its gradient is not "
                    "that of the loss; use scale_grad_by_freq=False"
                )


def private_copy(model: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Return an independent copy in `dtype` (its complex buffers in the complex dtype of that precision) on `device`.

    What torch.compile wrapped runs as it is: its own settings say whether an objective is compiled. Raises `ModelError`
    for a model that cannot be copied.
    """
    private = uncompiled(copied(model))
    for parameter in private.parameters():
        parameter.grad = None
    for module in private.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False  # gradients of the same values, in a flat vector that is dense

    def placed(tensor: Tensor) -> Tensor:
        # nn.Module.to would drop the imaginary part of complex buffers.
        kind = dtype if tensor.is_floating_point() else _COMPLEX[dtype] if tensor.is_complex() else tensor.dtype
        return tensor.to(device=device, dtype=kind)

    with torch.inference_mode(False), torch.no_grad():
        return cast(nn.Module, private._apply(placed))


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy; raises `ModelError` where that cannot be made.

    Tensors that a module has computed from its parameters and kept (the older `nn.utils.weight_norm`) come along as
    plain values.
    """
    odd = (tensor for tensor in _kept_tensors(model) if not tensor.is_leaf or tensor.is_inference())
    return _copied(model, {id(tensor): _ordinary(tensor) for tensor in odd})


def copied_around_tensors(model: nn.Module) -> nn.Module:
    """Return a deep copy that has the very tensors of `model`, in its state; raises `ModelError` as `copied`."""
    return _copied(model, {id(tensor): tensor for tensor in _kept_tensors(model)})


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    try:
        with torch.inference_mode(False):
            return copy.deepcopy(model, memo)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        raise ModelError(f"model: it cannot be copied ({reason}); make copy.deepcopy(model) work") from error


def uncompiled(model: nn.Module) -> nn.Module:
    """Return what torch.compile has wrapped, in `model` itself and in place of its submodules."""
    original = getattr(model, COMPILED.rstrip("."), None)
    model = original if isinstance(original, nn.Module) else model
    for owner in [*model.modules()]:
        owner._compiled_call_impl = None
        for name, child in owner._modules.items():
            if child is not None and isinstance(getattr(child, COMPILED.rstrip("."), None), nn.Module):
                owner._modules[name] = uncompiled(child)
    return model


def plain_names(state: Any) -> dict[str, Tensor]:
    """Return a mapping of named tensors under the names they have without torch.compile."""
    return {name.replace(COMPILED, ""): tensor for name, tensor in dict(state).items()}


def _kept_tensors(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        own = {name: value for name, value in vars(module).items() if name != "_modules"}
        yield from _tensors_in(own)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(_tensors_in, [*value.values()]))
    elif isinstance(value, list | tuple | set):
        yield from chain.from_iterable(map(_tensors_in, value))


def _ordinary(tensor: Tensor) -> Tensor:
    with torch.inference_mode(False):
        values = tensor.detach().clone()
    return nn.Parameter(values, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values
