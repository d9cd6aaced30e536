"""How a model is called with its inputs, as the signature of its forward pass tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from subsetopt.errors import ModelError
from subsetopt.inputs.parts import Inputs, Parts
from subsetopt.inputs.rows import LazyRows, Stored
from subsetopt.inputs.signature import Signature
from subsetopt.inputs.trials import those_that_work

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and named arguments of a call."""

Style = Literal["apart", "whole", "bare"]
"""Each part is an argument; the dict or tuple is one; the only part is one, without its name."""

TRIED = 2
"""Rows that a model is called with where its signature does not tell."""


def called(module: nn.Module, x: Inputs) -> Any:
    """Return what `module` makes of inputs `x`: `module(x)`, `module(*x)` or `module(**x)` (see `style_of`)."""
    if isinstance(x, Tensor):
        return module(x)
    arguments, named = arguments_of(x, style_of(module, x))
    return module(*arguments, **named)


def style_of(module: nn.Module, x: Parts) -> Style:
    """Return how `module` takes the parts `x`, placed as it gets them.

    They become arguments of their own, by name or by position, where `forward` takes them so. A first argument that is
    annotated as a dict (or a tuple), or the only one that has to be given, gets them as a whole. A dict of one
    tensor may also mean the tensor itself: where no annotation tells, a few rows do. Raises `ModelError` where
    `forward` takes `x` in no way, or in several that differ.
    """
    signature = Signature.of(module)
    single = len(x.tensors) == 1
    if signature is None:
        return "bare" if single else "apart"
    if x.names is None:
        return _of_tuple(signature, x)
    known = signature.names & set(x.keys)
    as_one = signature.first is not None and signature.binds(*arguments_of(x, "whole"))
    apart = signature.binds(*arguments_of(x, "apart"))
    if as_one and signature.takes == "mapping" and not known - {signature.first}:
        return "whole"
    if apart and single and known == {signature.first} and as_one and signature.takes is None:
        return _tried(module, x, ["apart", "whole"], signature, named=True)
    if apart and (known or not (as_one or signature.anything)):
        return "apart"
    if known and not apart:
        raise _mismatch(signature, x)
    styles: list[Style] = ["apart"] if apart else []
    if single and (as_one or signature.anything):
        styles.append("bare")
    if as_one and signature.takes != "tensor":
        styles.append("whole")
    if not styles:
        raise _mismatch(signature, x)
    return styles[0] if len(styles) == 1 else _tried(module, x, styles, signature)


def arguments_of(x: Parts, style: Style) -> Arguments:
    """Return the arguments that the parts `x` are in this style."""
    if style == "whole":
        return (x.given(),), {}
    if style == "bare" or x.names is None:
        return x.tensors, {}
    return (), dict(x.items())


def fitted_to(module: nn.Module, inputs: Stored, placed: Callable[[Stored], Parts]) -> Stored:
    """Return inputs of a single part as a plain tensor where `module` takes it so.

    `placed` returns a few rows as the module gets them.
    """
    structure = inputs.template if isinstance(inputs, LazyRows) else inputs
    if isinstance(inputs, Tensor) or isinstance(structure, Tensor) or len(structure.tensors) > 1:
        return inputs
    bare = structure.names is None or style_of(module, placed(inputs[:TRIED])) == "bare"
    return inputs.part(structure.keys[0]) if bare else inputs


def takes_tensor(module: nn.Module, x: Parts) -> bool:
    """Whether `module` may be given the only part of `x` as its first argument, without the name."""
    signature, style = Signature.of(module), style_of(module, x)
    return style == "bare" or (style == "apart" and signature is not None and signature.first == x.keys[0])


def describe(x: Inputs) -> str:
    """Return shape and dtype of inputs, for messages."""
    if isinstance(x, Tensor):
        return f"shape {tuple(x.shape)} {x.dtype}"
    return "shapes " + ", ".join(f"{key} {tuple(part.shape)} {part.dtype}" for key, part in x.items())


def _of_tuple(signature: Signature, x: Parts) -> Style:
    as_one = signature.first is not None and signature.binds(*arguments_of(x, "whole"))
    if as_one and signature.takes == "sequence":
        return "whole"
    if signature.binds(*arguments_of(x, "apart")):
        return "apart"
    if as_one and signature.takes is None:
        return "whole"
    raise _mismatch(signature, x)


def _tried(module: nn.Module, x: Parts, styles: list[Style], signature: Signature, named: bool = False) -> Style:
    """Return the only one of `styles` in which the model takes some rows of `x`, or one of several that agree.

    With `named`, the first one is meant unless only another works.
    """
    calls = {style: arguments_of(x[:TRIED].detach().clone(), style) for style in styles}
    works, reasons, alike = those_that_work(module, calls)
    if named and (not works or works[0] == styles[0]):
        return styles[0]
    if not works:
        said = "; ".join(f"{_GIVEN[style]} it fails ({reason})" for style, reason in reasons.items())
        raise ModelError(
            f"model: its forward takes ({signature}) and the inputs are named {', '.join(x.keys)}: {said}; mend it, or "
            "annotate the argument as Tensor or dict"
        )
    if not alike:
        raise ModelError(
            f"model: its forward takes ({signature}), and gives other outputs for inputs named {', '.join(x.keys)} "
            f"{' or '.join(_GIVEN[style] for style in works)}; annotate the argument as Tensor or dict"
        )
    return works[0]


_GIVEN: dict[Style, str] = {"apart": "by name", "bare": "as a tensor", "whole": "as a dict"}


def _mismatch(signature: Signature, x: Parts) -> ModelError:
    given = f"{len(x.tensors)} tensors" if x.names is None else f"named {', '.join(x.names)}"
    return ModelError(
        f"model: its forward takes ({signature}), the inputs are {given}; name them alike, or choose among them "
        "with as_dataset(..., inputs=...)"
    )
