"""Settings of a model: what the signature of its factory declares, and how texts become values of these types."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from subsetopt.errors import SettingError, setting, unknown_name
from subsetopt.settings import unknown_setting, wrong_type

SUPPLIED = ("in_shape", "n_outputs")


RESERVED = ("name", *SUPPLIED, "seed", "dtype")


_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def refuse_reserved(settings: Mapping[str, Any]) -> None:
    """Raise `SettingError` for a setting that `build_model` itself has: the run and its data set decide that one."""
    for name in RESERVED:
        if name in settings:
            raise SettingError(
                f"model_arg {name}", settings[name], "is set by the run and its data set", "leave it out"
            )


def convert_settings(model: str, factory: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` in the types of the factory's parameters: its annotations, else the types of its defaults.

    Values may be texts from the command line, or numbers, lists and the like from a file or from Python. Where the
    factory declares neither, a text that reads as a number or a switch becomes one. Raises `SettingError` for a setting
    that the factory does not take, one that it needs and that is missing, and a value of the wrong type.
    """
    parameters = _parameters(factory)
    if parameters is None:
        return {name: _guess(value) for name, value in given.items()}
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in SUPPLIED
    }
    for name, value in given.items():
        if name not in named and (not open_ended or name in SUPPLIED):
            raise unknown_setting("model", model, name, value, list(named))
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in given:
            raise SettingError(
                name, None, f"model {model!r} needs this setting", f"add {setting('model_args', {name: 'VALUE'})}"
            )
    hints = type_hints(factory)
    return {
        name: convert(name, value, hints.get(name, _type_of_default(named.get(name)))) for name, value in given.items()
    }


def supplied_arguments(factory: Callable[..., Any], **facts: Any) -> dict[str, Any]:
    """Return those of `facts` (in_shape, n_outputs) that the factory names."""
    parameters = _parameters(factory) or {}
    return {name: value for name, value in facts.items() if name in parameters}


def open_ended(factory: Callable[..., Any]) -> bool:
    """Return whether the factory takes **kwargs, so that its signature does not say what it takes."""
    parameters = _parameters(factory) or {}
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def convert(name: str, value: Any, hint: Any) -> Any:
    """Return `value` in the type `hint`: bool, int, float, str, tuple[int, ...], a Literal, or one of these or None."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        if value is None or (len(options) < len(typing.get_args(hint)) and str(value).lower() == "none"):
            return None
        return convert(name, value, options[0]) if len(options) == 1 else _guess(value)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise unknown_name(name, str(value), map(str, choices))
        return value
    if hint in _READERS:
        try:
            return _READERS[hint](value)
        except (ValueError, TypeError, KeyError, OverflowError):
            raise wrong_type(name, value, hint) from None
    return _guess(value)


def _read_switch(value: Any) -> bool:
    return value if isinstance(value, bool) else _SWITCH[str(value).strip().lower()]


def _read_whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    return int(value)


def _read_number(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


def _read_whole_numbers(value: Any) -> tuple[int, ...]:
    if isinstance(value, str):
        value = value.strip().strip("()[]").rstrip(",").split(",")
    return tuple(_read_whole(item) for item in ([value] if isinstance(value, int) else value))


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


_READERS: dict[Any, Callable[[Any], Any]] = {
    bool: _read_switch,
    int: _read_whole,
    float: _read_number,
    str: _read_text,
    tuple[int, ...]: _read_whole_numbers,
}


def _guess(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for read in (int, float, _read_whole_numbers):
        try:
            return read(value)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(value.lower(), value)


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(factory).parameters
    except (ValueError, TypeError):  # some builtins tell nothing about themselves
        return None


def type_hints(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a factory or of a class's constructor; none where they name nothing importable."""
    annotated: Any = factory
    try:
        return typing.get_type_hints(annotated.__init__ if isinstance(factory, type) else annotated)
    except (NameError, TypeError, AttributeError):  # annotations of the user's that name nothing importable
        return {}


def _type_of_default(parameter: inspect.Parameter | None) -> Any:
    if parameter is None or parameter.default is parameter.empty or parameter.default is None:
        return None
    default = parameter.default
    if isinstance(default, tuple | list) and default and all(type(item) is int for item in default):
        return tuple[int, ...]
    return type(default)
