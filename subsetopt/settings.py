"""Settings of a solver: dataclass fields with a type and a range, checked before any work is done."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from subsetopt.arguments import whole_number
from subsetopt.errors import SettingError, unknown_name

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}


def setting(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Return a dataclass field for a number in the given range (None passes where the type allows it)."""
    limits = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    return dataclasses.field(default=default, metadata=limits)


def check_settings(
    kind: type[Any], given: Mapping[str, Any], owner: str, fixed: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Return `given` with numbers converted to the types that the dataclass `kind` declares.

    Raises `SettingError` for a name that `kind` has not (or that is `fixed` by the method's name), a wrong type or a
    value out of range; `owner` is the name of the solver that the message mentions.
    """
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init and field.name not in fixed}
    hints = typing.get_type_hints(kind)
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name not in fields:
            raise _unknown_setting(name, value, owner, sorted(fields))
        checked[name] = _convert(name, value, hints[name])
        _check_range(name, checked[name], fields[name].metadata)
    return checked


def _unknown_setting(name: str, value: object, owner: str, known: list[str]) -> SettingError:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return SettingError(name, value, f"solver {owner!r} has no such setting", f"{hint}it has {', '.join(known)}")


def _convert(name: str, value: Any, hint: Any) -> Any:
    """Return `value` in the type of `hint`: a union, a Literal, or one of `KINDS`."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _convert(name, value, next(option for option in options if option is not type(None)))
    if typing.get_origin(hint) is typing.Literal:
        if value not in typing.get_args(hint):
            choices = ", ".join(map(str, typing.get_args(hint)))
            raise SettingError(name, value, "unknown choice", f"choose one of {choices}")
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise SettingError(name, value, f"must be {KINDS[hint]}")
    return value


def _check_range(name: str, value: Any, limits: Mapping[str, float | None]) -> None:
    if not isinstance(value, int | float):
        return
    tests = (("above", operator.gt), ("at_least", operator.ge), ("below", operator.lt), ("at_most", operator.le))
    for word, holds in tests:
        limit = limits.get(word)
        if limit is not None and not holds(value, limit):
            raise SettingError(name, value, f"must be {word.replace('_', ' ')} {limit:g}")


CORRECTIONS = ("none", "importance", "self-normalised")


def check_number(setting: str, value: object, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    """Raise `SettingError` unless `value` is a finite number in [low, high], or in (low, high] with `open_low`."""
    bounds = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if math.isinf(high) else ']'}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SettingError(setting, value, "is not a finite number", f"give a number in {bounds}")
    if value > high or value < low or (open_low and value == low):
        raise SettingError(setting, value, "is out of range", f"give a number in {bounds}")


def check_fraction(value: object, setting: str = "fraction") -> None:
    """Raise `SettingError` unless `value` is a share of the samples in (0, 1]."""
    check_number(setting, value, 0, 1, open_low=True)


def check_count(setting: str, value: object, least: int = 1) -> None:
    """Raise `SettingError` unless `value` is a whole number of at least `least`."""
    whole_number(setting, value, least)


def check_flag(setting: str, value: object) -> None:
    """Raise `SettingError` unless `value` is True or False."""
    if not isinstance(value, bool):
        raise SettingError(setting, value, "is not a switch", "give true or false")


def check_choice(setting: str, value: object, choices: Sequence[str]) -> None:
    """Raise `SettingError`, with "did you mean", unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise unknown_name(setting, str(value), choices)


def rows_of(fraction: float, n: int) -> int:
    """Return floor(fraction * n), at least 1; a product such as 0.29 * 100 that rounds to 28.99... counts as 29."""
    return max(1, math.floor(fraction * n + 1e-9))


@dataclass(frozen=True)
class NoSettings:
    """A sampler without settings."""


@dataclass(frozen=True)
class FractionSettings:
    """A sampler whose only setting is its share of the data."""

    fraction: float = 0.1

    def __post_init__(self) -> None:
        check_fraction(self.fraction)


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
            raise _unknown_model_setting(model, name, value, list(named))
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in given:
            raise SettingError(name, None, f"model {model!r} needs this setting", f"add --model-arg {name}=VALUE")
    hints = _type_hints(factory)
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
        read, description = _READERS[hint]
        try:
            return read(value)
        except (ValueError, TypeError, KeyError):
            raise SettingError(name, value, f"is not {description}", _EXAMPLES[hint]) from None
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


_READERS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    bool: (_read_switch, "a switch"),
    int: (_read_whole, "a whole number"),
    float: (_read_number, "a finite number"),
    str: (_read_text, "a text"),
    tuple[int, ...]: (_read_whole_numbers, "a list of whole numbers"),
}


_EXAMPLES: dict[Any, str] = {
    bool: "give true or false",
    int: "give for example 8",
    float: "give for example 0.1",
    str: "give a word",
    tuple[int, ...]: "give for example 64,32",
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


def _type_hints(factory: Callable[..., Any]) -> dict[str, Any]:
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


def _unknown_model_setting(model: str, name: str, value: object, known: list[str]) -> SettingError:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listing = f"it has {', '.join(known)}" if known else "it has none"
    return SettingError(name, value, f"model {model!r} has no such setting", hint + listing)
