"""Settings of solvers, samplers and models: declared with type and range, checked before any work, one wording.

One mistake has one sentence, whatever the setting belongs to: `has no such setting; did you mean 'x'? it has ...`,
`is not a whole number; give ...`, `is out of range; give ...`, `unknown name; choose one of ...`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import operator
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subsetopt.arguments import plain, whole_number
from subsetopt.errors import SettingError, unknown_name

# Kept: to find them takes as long as several iterations on a small problem.
_hints: Callable[[Any], Mapping[str, Any]] = functools.cache(typing.get_type_hints)

Limits = Mapping[str, float | None]
_TESTS = {"above": operator.gt, "at_least": operator.ge, "below": operator.lt, "at_most": operator.le}
_KINDS: dict[Any, tuple[str, str]] = {
    bool: ("a switch", "true or false"),
    int: ("a whole number", "for example 8"),
    float: ("a finite number", "for example 0.1"),
    str: ("a text", "a word"),
    tuple[int, ...]: ("a list of whole numbers", "for example 64,32"),
}


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
    kind: type[Any], given: Mapping[str, Any], owner: str, fixed: frozenset[str] = frozenset(), *, what: str = "solver"
) -> dict[str, Any]:
    """Return `given` with numbers converted to the types that the dataclass `kind` declares.

    Raises `SettingError` for a name that `kind` has not (or that is `fixed` by the method's name), a wrong type or a
    value out of range; `owner` is the name of the solver or sampler (`what`) that the message mentions.
    """
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init and field.name not in fixed}
    hints = _hints(kind)
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name not in fields:
            raise unknown_setting(what, owner, name, value, sorted(fields))
        checked[name] = _convert(name, plain(value), hints[name], fields[name].metadata)
    return checked


def unknown_setting(what: str, owner: str, name: str, value: object, known: Sequence[str]) -> SettingError:
    """Return the error for a setting that the solver, sampler or model `owner` does not have."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listing = f"it has {', '.join(known)}" if known else "it has none"
    return SettingError(name, value, f"{what} {owner!r} has no such setting", hint + listing)


def wrong_type(name: str, value: object, kind: Any, limits: Limits | None = None) -> SettingError:
    """Return the error for a value that is not of the type `kind`: bool, int, float, str or tuple[int, ...]."""
    return SettingError(name, value, f"is not {_KINDS[kind][0]}", f"give {_wanted(kind, limits or {})}")


def _wanted(kind: Any, limits: Limits) -> str:
    words = [f"{word.replace('_', ' ')} {limit:g}" for word in _TESTS if (limit := limits.get(word)) is not None]
    if not words:
        return _KINDS[kind][1]
    article = "a whole number" if kind is int else "a number"
    return f"{article}{' of' if words[0].startswith('at ') else ''} {' and '.join(words)}"


def _convert(name: str, value: Any, hint: Any, limits: Limits) -> Any:
    """Return `value` in the type of `hint`: a union, a Literal, or one of `_KINDS`; raises `SettingError`."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        words = [word for option in options for word in typing.get_args(option)]
        if isinstance(value, str) and words:
            check_choice(name, value, words)
            return value
        return _convert(name, value, next(option for option in options if option is not type(None)), limits)
    if typing.get_origin(hint) is typing.Literal:
        check_choice(name, value, typing.get_args(hint))
        return value
    converted = value
    if hint is int and isinstance(value, float) and value.is_integer():
        converted = int(value)
    if hint is float and isinstance(value, int) and abs(value) <= sys.float_info.max:
        converted = float(value)
    infinite = isinstance(converted, float) and not math.isfinite(converted)
    if not isinstance(converted, hint) or (isinstance(value, bool) and hint is not bool) or infinite:
        raise wrong_type(name, value, hint, limits)
    if hint in (int, float):
        _check_range(name, value, hint, limits)
    return converted


def _check_range(name: str, value: float, kind: Any, limits: Limits) -> None:
    for word, holds in _TESTS.items():
        limit = limits.get(word)
        if limit is not None and not holds(value, limit):
            raise SettingError(name, value, "is out of range", f"give {_wanted(kind, limits)}")


Correction = typing.Literal["none", "importance", "self-normalised"]
"""Weights of importance sampling: none, 1/(N P_i), or these over their sum in a batch."""


def check_number(setting: str, value: object, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    """Raise `SettingError` unless `value` is a finite number in [low, high], or in (low, high] with `open_low`."""
    most = None if math.isinf(high) else high
    limits: Limits = {"above" if open_low else "at_least": low, "at_most": most}
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise wrong_type(setting, value, float, limits)
    _check_range(setting, value, float, limits)


def check_fraction(value: object, setting: str = "fraction") -> None:
    """Raise `SettingError` unless `value` is a share of the samples in (0, 1]."""
    check_number(setting, value, 0, 1, open_low=True)


def check_count(setting: str, value: object, least: int = 1) -> None:
    """Raise `SettingError` unless `value` is a whole number of at least `least`."""
    whole_number(setting, value, least)


def check_flag(setting: str, value: object) -> None:
    """Raise `SettingError` unless `value` is True or False."""
    if not isinstance(value, bool):
        raise wrong_type(setting, value, bool)


def check_choice(setting: str, value: object, choices: Sequence[str]) -> None:
    """Raise `SettingError`, with "did you mean", unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise unknown_name(setting, str(value), choices)


def rows_of(fraction: float, n: int) -> int:
    """Return floor(fraction * n), at least 1; a product such as 0.29 * 100 that rounds to 28.99... counts as 29."""
    return max(1, math.floor(fraction * n + 1e-9))


@dataclass(frozen=True)
class CheckedSettings:
    """Base of frozen dataclasses of settings: construction checks and converts what the fields declare.

    A field's type and its `setting(...)` range are what is checked here and what `subsetopt list` prints. Rules between
    settings belong in the `__post_init__` of the subclass, after this one. Raises `SettingError`.
    """

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for field in dataclasses.fields(self):
            value = _convert(field.name, plain(getattr(self, field.name)), hints[field.name], field.metadata)
            object.__setattr__(self, field.name, value)


@dataclass(frozen=True)
class NoSettings(CheckedSettings):
    """A sampler without settings."""


@dataclass(frozen=True)
class FractionSettings(CheckedSettings):
    """A sampler whose only setting is its share of the data."""

    fraction: float = setting(0.1, above=0, at_most=1)
