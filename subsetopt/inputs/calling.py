"""How a model is called with its inputs, as the signature of its forward pass tells."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from subsetopt.errors import ModelError
from subsetopt.inputs.parts import Inputs, Parts
from subsetopt.inputs.rows import LazyRows, Stored

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and named arguments of a call."""

Style = Literal["apart", "whole", "bare"]
"""Each part is an argument; the dict or tuple is one; the only part is one, without its name."""


def called(module: nn.Module, x: Inputs) -> Any:
    """Return what `module` makes of inputs `x`: `module(x)`, `module(*x)` or `module(**x)` (see `style_of`)."""
    if isinstance(x, Tensor):
        return module(x)
    arguments, named = arguments_of(x, style_of(module, x))
    return module(*arguments, **named)


def style_of(module: nn.Module, x: Parts) -> Style:
    """Return how `module` takes the parts `x`.

    They become arguments of their own, by name or by position, where `forward` takes them so; a `forward` of one
    argument is given the dict or tuple as a whole. Raises `ModelError` where it takes neither.
    """
    signature = _signature(module)
    if signature is None or _binds(signature, *arguments_of(x, "apart")):
        return "apart"
    if len(x.tensors) == 1:
        return "bare"
    takes = list(signature.parameters)
    if len(takes) == 1 and not set(takes) & set(x.keys) and _binds(signature, *arguments_of(x, "whole")):
        return "whole"
    given = f"{len(x.tensors)} tensors" if x.names is None else f"named {', '.join(x.names)}"
    raise ModelError(
        f"model: its forward takes ({', '.join(takes)}), the inputs are {given}; name them alike, or choose among them "
        "with as_dataset(..., inputs=...)"
    )


def arguments_of(x: Parts, style: Style) -> Arguments:
    """Return the arguments that the parts `x` are in this style."""
    if style == "whole":
        return (x.given(),), {}
    if style == "bare" or x.names is None:
        return x.tensors, {}
    return (), dict(x.items())


def fitted_to(module: nn.Module, inputs: Stored) -> Stored:
    """Return inputs of a single part as a plain tensor where `module` does not take it by its name."""
    structure = inputs.template if isinstance(inputs, LazyRows) else inputs
    if isinstance(inputs, Tensor) or isinstance(structure, Tensor) or len(structure.tensors) > 1:
        return inputs
    signature = _signature(module)
    if structure.names is not None and signature is not None and structure.names[0] in signature.parameters:
        return inputs
    return inputs.part(structure.keys[0])


def describe(x: Inputs) -> str:
    """Return shape and dtype of inputs, for messages."""
    if isinstance(x, Tensor):
        return f"shape {tuple(x.shape)} {x.dtype}"
    return "shapes " + ", ".join(f"{key} {tuple(part.shape)} {part.dtype}" for key, part in x.items())


def _signature(module: nn.Module) -> inspect.Signature | None:
    try:
        return inspect.signature(module.forward)
    except (TypeError, ValueError):  # compiled and scripted modules have none
        return None


def _binds(signature: inspect.Signature, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
    try:
        signature.bind(*arguments, **named)
    except TypeError:
        return False
    return True
