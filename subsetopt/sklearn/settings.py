"""Settings of the estimators, checked in `fit` as scikit-learn wants it: a constructor stores what it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, get_args

import numpy as np
import torch
from sklearn.utils import check_random_state

from subsetopt.errors import SettingError
from subsetopt.models.layers import Activation

DTYPES = ("auto", "float32", "float64")
ACTIVATIONS = get_args(Activation)
SWITCHES = ("standardize", "early_stopping", "warm_start")
# Above so many numbers in the largest layer's output, float32 pays: matrix products take most of the time from there.
DOUBLE_BELOW = 2**20


def check_parameters(given: Mapping[str, Any]) -> None:
    """Raise `SettingError` (a `ValueError`) for the first constructor argument that cannot be used."""
    widths = hidden_widths(given["hidden_layer_sizes"])
    if any(width < 1 for width in widths):
        raise SettingError(
            "hidden_layer_sizes", given["hidden_layer_sizes"], "needs whole numbers from 1", "give for example (100,)"
        )
    _one_of("activation", given["activation"], ACTIVATIONS)
    _one_of("dtype", given["dtype"], DTYPES)
    if given["l2"] != "auto":
        _number("l2", given["l2"], 0.0, math.inf)
    _number("gtol", given["gtol"], 0.0, math.inf)
    _whole("max_iter", given["max_iter"], 1)
    _whole("n_iter_no_change", given["n_iter_no_change"], 1)
    _number("validation_fraction", given["validation_fraction"], 0.0, 1.0, open_ends=True)
    if given["subset_frac"] != "auto":
        _number("subset_frac", given["subset_frac"], 0.0, 1.0)
        if given["subset_frac"] == 0:
            raise SettingError("subset_frac", 0, "must lie in (0, 1]", "try 0.1, or 'auto'")
    for name in SWITCHES:
        if not isinstance(given[name], bool):
            raise SettingError(name, given[name], "is not a switch", "give True or False")


def resolved_device(name: Any) -> torch.device:
    """Return the device of `device`; raises `SettingError` where torch knows none of that name, or has none here."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, TypeError, AssertionError) as error:
        raise SettingError("device", name, "is no device that torch can use here", "use device='cpu'") from error


def drawn_seed(random_state: Any) -> int:
    """Return a seed drawn from `random_state`: a number, None, or one of numpy's generators, which moves on by it."""
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    try:
        return int(check_random_state(random_state).randint(2**31 - 1))
    except ValueError as error:
        problem = "is no seed and no generator"
        raise SettingError("random_state", random_state, problem, "give a whole number from 0 to 2**32 - 1") from error


def hidden_widths(sizes: Any) -> tuple[int, ...]:
    """Return the widths of hidden layers that `hidden_layer_sizes`, a number or a sequence, means; () is linear."""
    whole = isinstance(sizes, Integral) and not isinstance(sizes, bool)
    parts = (sizes,) if whole else sizes
    if isinstance(parts, (str, bytes)) or not (isinstance(parts, Sequence) or hasattr(parts, "__iter__")):
        raise SettingError("hidden_layer_sizes", sizes, "is no sequence of widths", "give for example (100,)")
    parts = tuple(parts)
    if any(isinstance(part, bool) or not isinstance(part, Integral) for part in parts):
        raise SettingError("hidden_layer_sizes", sizes, "needs whole numbers from 1", "give for example (100,)")
    return tuple(int(part) for part in parts)


def working_dtype(name: str, rows: int, widths: Sequence[int]) -> torch.dtype:
    """Return the dtype that `dtype` means for a network of these widths, inputs and outputs included."""
    if name == "auto":
        return torch.float64 if rows * max(widths) < DOUBLE_BELOW else torch.float32
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def _one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise SettingError(name, value, "is not known", f"choose from {', '.join(choices)}")


def _number(name: str, value: Any, low: float, high: float, open_ends: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise SettingError(name, value, "is not a finite number", "give for example 0.1")
    number = float(value)
    inside = low < number < high if open_ends else low <= number <= high
    if not inside:
        span = f"{'(' if open_ends else '['}{low:g}, {high:g}{')' if open_ends else ']'}"
        raise SettingError(
            name, value, f"must lie in {span}" if high < math.inf else f"must be at least {low:g}", "try 0.1"
        )


def _whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise SettingError(name, value, f"must be a whole number from {least}", "try 200")
