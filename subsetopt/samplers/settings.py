"""Checks of samplers' settings, all made before step 0: a bad value never surfaces in the middle of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from subsetopt.arguments import whole_number
from subsetopt.errors import SettingError, unknown_name

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
