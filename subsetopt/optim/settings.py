"""The settings of a step, read from its parameter group at every step: schedulers and users write into it."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from subsetopt.errors import SettingError, unknown_name
from subsetopt.optim.closure import ClosureTerms

_SEARCHES = (None, "strong_wolfe")


@dataclass(frozen=True)
class StepSettings:
    """What the parameter group says, in plain Python types; `max_eval` is resolved."""

    lr: float
    max_iter: int
    max_eval: int
    tolerance_grad: float
    tolerance_change: float
    history_size: int | None
    strong_wolfe: bool
    keep_curvature: bool
    fixed_closure: bool
    terms: ClosureTerms


def read_settings(group: Mapping[str, Any]) -> StepSettings:
    """Return the settings in `group`; raises `SettingError` under the name that the user typed."""
    max_iter, max_eval = read_count("max_iter", group["max_iter"]), group["max_eval"]
    search = group["line_search_fn"]
    if search not in _SEARCHES:
        raise unknown_name("line_search_fn", str(search), ["strong_wolfe"])
    return StepSettings(
        lr=read_rate(group["lr"]),
        max_iter=max_iter,
        max_eval=max_iter * 5 // 4 if max_eval is None else read_count("max_eval", max_eval),
        tolerance_grad=_tolerance("tolerance_grad", group["tolerance_grad"]),
        tolerance_change=_tolerance("tolerance_change", group["tolerance_change"]),
        history_size=None if group["history_size"] is None else read_count("history_size", group["history_size"]),
        strong_wolfe=search is not None,
        keep_curvature=read_switch("keep_curvature", group["keep_curvature"]),
        fixed_closure=read_switch("fixed_closure", group["fixed_closure"]),
        terms=ClosureTerms(
            weight_decay=read_weight_decay(group["weight_decay"]),
            maximize=read_switch("maximize", group["maximize"]),
        ),
    )


def read_weight_decay(value: Any) -> float:
    """Return a finite number of at least 0; raises `SettingError`."""
    decay = read_number("weight_decay", value)
    if not (math.isfinite(decay) and decay >= 0):
        raise SettingError("weight_decay", value, "must be a finite number of at least 0", "0 turns it off")
    return decay


def read_exceptions(value: Any) -> tuple[type[BaseException], ...]:
    """Return exception types as a tuple; raises `SettingError`."""
    kinds = value if isinstance(value, tuple | list) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise SettingError("infeasible", value, "must be exception types", "try (torch.linalg.LinAlgError,)")
    return tuple(kinds)


def read_rate(value: Any, name: str = "lr", remedy: str = "1.0 is right almost always") -> float:
    """Return a learning rate; raises `SettingError` for a negative or infinite one."""
    lr = read_number(name, value)
    if not (math.isfinite(lr) and lr >= 0):
        raise SettingError(name, value, "must be a finite number of at least 0", remedy)
    return lr


def _tolerance(name: str, value: Any) -> float:
    """Return a tolerance; a negative one, which no test can meet, counts as 0."""
    tolerance = read_number(name, value)
    if math.isnan(tolerance):
        raise SettingError(name, value, "must be a number", "0 turns the test off")
    return max(tolerance, 0.0)


def read_number(name: str, value: Any) -> float:
    """Return a plain number; those of numpy and torch are as good as Python's."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise SettingError(name, tuple(value.shape), "a tensor must have one element")
    if isinstance(value, bool | str):
        raise SettingError(name, value, "must be a number")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise SettingError(name, value, "must be a number") from error


def read_count(name: str, value: Any) -> int:
    """Return a whole number of at least 1; integers of numpy and torch are as good as Python's."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        count = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = -1
    if count < 1:
        raise SettingError(name, value, "must be a whole number of at least 1")
    return count


def read_switch(name: str, value: Any) -> bool:
    """Return True or False; raises `SettingError` for anything else."""
    if not isinstance(value, bool):
        raise SettingError(name, value, "must be True or False")
    return value
