"""The registry of solvers, and how one is made by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from subsetopt.registry import Registry
from subsetopt.settings import check_settings
from subsetopt.solvers.protocol import Solver

SOLVERS: Registry[Callable[..., Solver]] = Registry("solver", "subsetopt.solvers")


def make_solver(name: str, **settings: Any) -> Solver:
    """Return the solver registered under `name` (see `SOLVERS`).

    Raises `SettingError` for an unknown name, an unknown setting, a wrong type or a value out of range.
    """
    target = SOLVERS.get(name)
    fixed = frozenset(target.keywords) if isinstance(target, functools.partial) else frozenset[str]()
    kind: Any = target.func if isinstance(target, functools.partial) else target
    return target(**check_settings(kind, settings, name, fixed))
