"""Method cards: what a registered method does, and its settings with defaults and ranges."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from subsetopt.models.arguments import SUPPLIED
from subsetopt.registry import Entry

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}
_SIGNS = {"above": ">", "at_least": ">=", "below": "<", "at_most": "<="}


class SettingRow(NamedTuple):
    """A setting, its default (None too where there is none), and the values that it takes, in words."""

    name: str
    default: Any
    values: str


def settings_of(entry: Entry[Any]) -> list[SettingRow]:
    """Return the settings of a method: of its dataclass, of its `Settings` or `settings()`, or of its signature."""
    target = entry.target
    if isinstance(target, functools.partial):
        return [row for row in _rows(target.func) if row.name not in target.keywords]
    own = getattr(target, "Settings", None)
    if own is None and callable(getattr(target, "settings", None)):
        own = target.settings()
    return [*_rows(target if own is None else own)]


def _rows(kind: Any) -> Iterator[SettingRow]:
    hints = _hints(kind)
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            if field.init:
                default = None if field.default is dataclasses.MISSING else field.default
                yield SettingRow(field.name, default, _values(hints.get(field.name), field.metadata))
    elif not isinstance(kind, type) or "__init__" in vars(kind):
        for name, parameter in inspect.signature(kind).parameters.items():
            if name not in SUPPLIED and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                default = None if parameter.default is parameter.empty else parameter.default
                yield SettingRow(name, default, _values(hints.get(name), {}))


def _values(hint: Any, limits: Mapping[str, Any]) -> str:
    """Return a type and range in words, e.g. `a whole number >= 1, or none`."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) or _is_union(hint) else (hint,)
    words = []
    for option in options:
        if typing.get_origin(option) is Literal:
            words.append(" | ".join(map(str, typing.get_args(option))))
        elif option is not type(None) and option is not None:
            words.append(_WORDS.get(option, getattr(option, "__name__", str(option)) if option else ""))
    bounds = [f"{_SIGNS[word]} {limit:g}" for word, limit in limits.items() if word in _SIGNS and limit is not None]
    text = " ".join([" or ".join(words), " and ".join(bounds)]).strip()
    return f"{text}, or none" if type(None) in options else text


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Union


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(vars(kind)["__init__"] if isinstance(kind, type) and not _is_data(kind) else kind)
    except (NameError, TypeError, AttributeError, KeyError):  # annotations that name nothing importable
        return {}


def _is_data(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)
