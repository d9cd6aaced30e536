"""Settings of a solver: dataclass fields with a type and a range, checked before any work is done."""

from __future__ import annotations

import dataclasses
import difflib
import operator
import types
import typing
from collections.abc import Mapping
from typing import Any

from subsetopt.errors import SettingError

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
