"""Arguments of the Python face: the right kind, or one line that says what is wanted; never another value in silence.

Nothing here imports torch before it is asked about a module or a tensor.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex, cast

from subsetopt.errors import SettingError


def kind_of(value: object) -> str:
    """Return what a value is, for a message: `the class Net`, `a Tensor (3, 2)`, `an int`, `None`."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    shape = getattr(value, "shape", None)
    shown = f" {tuple(shape)}" if isinstance(shape, tuple) and name in ("Tensor", "ndarray", "Parameter") else ""
    return f"{'an' if name[0].lower() in 'aeiou' or name == 'ndarray' else 'a'} {name}{shown}"


def plain(value: Any) -> Any:
    """Return a scalar of numpy as Python's own number, which is checked, saved and printed like one; else `value`."""
    import numpy as np

    return value.item() if isinstance(value, np.generic) else value


def require_module(setting: str, value: object, others: str = "") -> None:
    """Raise `SettingError` unless `value` is an instance of torch.nn.Module; `others` is what is taken beside it."""
    from torch import nn

    if isinstance(value, nn.Module):
        return
    wanted = f"a torch.nn.Module{others}"
    if isinstance(value, type) and issubclass(value, nn.Module):
        raise SettingError(
            setting, value, "is a class, not a model", f"give an instance, such as {value.__name__}(...)"
        )
    raise SettingError(setting, value, f"is {kind_of(value)}, not {wanted}", f"give {wanted}")


def require_switches(**switches: object) -> None:
    """Raise `SettingError` unless each of these settings is True or False."""
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise SettingError(name, value, f"is {kind_of(value)}, not a switch", "give True or False")


def require_text(setting: str, value: object, wanted: str) -> None:
    """Raise `SettingError` unless `value` is a string, which `wanted` describes."""
    if not isinstance(value, str):
        raise SettingError(setting, value, f"is {kind_of(value)}, not {wanted}", f"give {wanted}")


def require_device(setting: str, value: object) -> None:
    """Raise `SettingError` unless `value` names a device that torch knows and this machine has."""
    import torch

    if not isinstance(value, torch.device | str):
        raise SettingError(setting, value, f"is {kind_of(value)}, not a device", "give 'cpu' or 'cuda'")
    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise SettingError(setting, str(value), "this machine has no such device", "give 'cpu'") from None


def whole_number(setting: str, value: object, least: int = 0) -> int:
    """Return `value`, Python's or numpy's, as an int; raises `SettingError` unless it is whole and at least `least`."""
    remedy = f"give a whole number of at least {least}"
    try:
        number = operator.index(cast(SupportsIndex, value))
    except (TypeError, RuntimeError):
        raise SettingError(setting, value, "is not a whole number", remedy) from None
    if isinstance(value, bool) or bool(getattr(value, "ndim", False)):
        raise SettingError(setting, value, "is not a whole number", remedy)
    if number < least:
        raise SettingError(setting, value, "is out of range", remedy)
    return number


def finite_number(setting: str, value: object, example: str) -> float:
    """Return `value` as a float; raises `SettingError` unless it is a finite number >= 0."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise SettingError(setting, value, "must be a finite number >= 0", f"try {example}")
    return float(value)


def refuse_given(settings: Mapping[str, Any], names: tuple[str, ...], what: str, remedy: str) -> None:
    """Raise `SettingError` for a setting among `names` that an object given as `what` would make ineffective."""
    for name in names:
        if settings.get(name) is not None:
            raise SettingError(name, settings[name], f"has no effect: {what} is given as an object", remedy)


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether `function` can be called with so many arguments; True where its signature cannot be read."""
    try:
        inspect.signature(function).bind(*range(count))
    except ValueError:
        return True
    except TypeError:
        return False
    return True


def is_true(value: object) -> bool:
    """Whether a value is True, or what a comparison of numpy's or torch's numbers makes of it; not any other."""
    if isinstance(value, bool):
        return value
    scalar = str(getattr(value, "dtype", "")) in ("bool", "torch.bool") and getattr(value, "shape", None) == ()
    return scalar and bool(value)
