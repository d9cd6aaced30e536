"""Checkpoints of earlier versions in the form of this one.

Format 4 kept float64 arrays, such as L-BFGS's inner products, among the numbers; `subsetopt.saving.join` takes them
from there. Format 3 also kept the parts of a streaming phase in a dict of their own, what it may spend beside its other
numbers, and the stopping test of a solver under a dot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

EARLIER = 3
"""The format that `upgraded` reads."""

EARLIER_FORMATS = (EARLIER, 4)
"""Those that can be read besides that of this version."""

_BUDGET = ("began", "affordable", "end", "began_seconds", "affordable_seconds")
_NESTED = ("guard", "place", "change")  # parts of kfac-stream that are dataclasses


def upgraded(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a phase of format 3 has saved as the same phase saves it now."""
    if "parts" in numbers:
        return _streaming(tensors, numbers)
    renamed = {_slashed(name): tensor for name, tensor in tensors.items()}
    return renamed, dict(numbers)


def _streaming(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    parts = dict(numbers["parts"])
    own = {name: value for name, value in numbers.items() if name != "parts"}
    own |= {f"budget.{name}": own.pop(name) for name in _BUDGET}
    for part in _NESTED:
        own |= {f"{part}.{name}": value for name, value in parts.pop(part, {}).items()}
    if checks := parts.get("checks"):
        others = {name: checks[name] for name in ("buffers", "interval", "due")}
        parts["checks"] = {"test": {"best_w": None, **checks["counters"]}, **others}
    moves = {f"{part}/": f"{part}." for part in _NESTED} | {"checks/best/": "checks/test/"}
    return {_moved(name, moves): tensor for name, tensor in tensors.items()}, own | parts


def _moved(name: str, moves: Mapping[str, str]) -> str:
    for before, now in moves.items():
        if name.startswith(before):
            return now + name.removeprefix(before)
    return name


def _slashed(name: str) -> str:
    """Return the name with a slash after `test`, also where it is that of one of several subsets (`underway/0/`)."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + (f"test/{last.removeprefix('test.')}" if last.startswith("test.") else last)
