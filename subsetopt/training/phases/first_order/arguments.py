"""The arguments of an optimizer, against the signature of its class and of the classes that it derives from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from subsetopt.errors import SettingError
from subsetopt.settings import unknown_setting

SUPPLIED = ("params", "lr")


def parameters_of(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return what `factory` can be told by name, without its parameters and its rate.

    A class with **kwargs passes them on to those that it derives from: what none of them names would be swallowed.
    """
    found: dict[str, inspect.Parameter] = {}
    for each in inspect.getmro(factory) if isinstance(factory, type) else (factory,):
        if isinstance(each, type) and "__init__" not in vars(each):
            continue
        try:
            own = inspect.signature(each).parameters
        except (ValueError, TypeError):  # some builtins tell nothing about themselves
            break
        for name, parameter in own.items():
            by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            # What a base class needs, its heir gives: torch's own has `params` and `defaults`.
            if by_name and (not found or each is factory or parameter.default is not parameter.empty):
                found.setdefault(name, parameter)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
            break
    return found


def checked_arguments(
    name: str, factory: Callable[..., Any] | None, given: Mapping[str, Any], fixed: tuple[str, ...] = ("lr",)
) -> dict[str, Any]:
    """Return `given` in the types that the optimizer `name` declares.

    Raises `SettingError` for a name that it does not know, or that the phase sets (`fixed`), a value of another type,
    and one that it needs and that is missing.
    """
    from subsetopt.models.arguments import type_hints  # with torch, which a list of names does without

    known = {} if factory is None else parameters_of(factory)
    first = next(iter(known), "params")
    named = {key: parameter for key, parameter in known.items() if key not in (first, *SUPPLIED, *fixed)}
    hints = {} if factory is None else type_hints(factory)
    for key, value in given.items():
        if key not in named:
            raise unknown_setting("optimizer", name, key, value, sorted({*named, *fixed}))
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in given:
            raise SettingError(key, None, f"optimizer {name!r} needs this setting", f"write {name}({key}=...)")
    return {key: _converted(key, value, hints.get(key), named[key].default) for key, value in given.items()}


def _converted(key: str, value: Any, hint: Any, default: Any) -> Any:
    """Return `value` as annotated, else a switch where the default is one, and a tuple where that is one."""
    from subsetopt.models.arguments import convert

    converted = convert(key, value, bool if hint is None and isinstance(default, bool) else hint)
    if not isinstance(default, tuple):
        return converted
    if not isinstance(converted, list | tuple) or len(converted) != len(default):
        example = ",".join(map(str, default))
        raise SettingError(key, value, f"takes {len(default)} values", f"for example {key}={example}")
    return tuple(converted)
