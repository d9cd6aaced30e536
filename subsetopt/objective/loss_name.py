"""A text that is equal for equal functions of the user's, also in another process."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

DEPTH = 4
"""How far functions within functions, and settings within settings, are followed."""


def callable_name(function: Callable[..., Any]) -> str:
    """Return where `function` is from and what it was made with: settings and tensors of a module, captured values.

    So that a loss with other class weights is another loss, for whoever keeps curvature of an objective.
    """
    return _described(function, DEPTH)


def _described(value: Any, depth: int) -> str:
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        return f"tensor({tuple(value.shape)}, {value.dtype}, {digest})"
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_described(item, depth - 1)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_described(item, depth - 1) for item in value)}]"
    if isinstance(value, functools.partial):
        return f"partial({_described([value.func, value.args, value.keywords], depth)})"
    return _origin(value) + _settings(value, depth)


def _origin(value: Any) -> str:
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    code = getattr(value, "__code__", None)
    return name if code is None else f"{name}:{code.co_filename}:{code.co_firstlineno}"


def _settings(value: Any, depth: int) -> str:
    closure = getattr(value, "__closure__", None) or ()
    captured: list[Any] = [cell.cell_contents for cell in closure if _is_filled(cell)]
    captured += [getattr(value, "__defaults__", None), getattr(value, "__kwdefaults__", None)]
    owner = getattr(value, "__self__", None)
    for holder in (value, owner):
        if isinstance(holder, nn.Module):
            plain = {k: v for k, v in vars(holder).items() if k[0] != "_" and k != "training"}
            captured += [plain, dict(holder.named_parameters()), dict(holder.named_buffers())]
        elif holder is not None and not isinstance(holder, type) and hasattr(holder, "__dict__"):
            captured.append(vars(holder))
    known = [item for item in captured if isinstance(item, Tensor) or item not in (None, {}, ())]
    return f"({_described(known, depth - 1)})" if known else ""


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
