"""DeepXDE: `model.compile("L-BFGS")`, unmodified, with `subsetopt.optim.LBFGS` in the place of torch's."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from subsetopt.errors import SettingError
from subsetopt.optim import LBFGS
from subsetopt.required import require


@contextmanager
def lbfgs_in_deepxde(**settings: Any) -> Iterator[None]:
    """Have `model.compile("L-BFGS")` inside take our L-BFGS, with `settings` over those of `set_LBFGS_options`.

    DeepXDE's module of optimizers alone is changed, and put back; models that were compiled inside keep their
    optimizer. Raises `UserError` without DeepXDE, or with another backend than pytorch.
    """
    backend = require("deepxde", "deepxde").backend.backend_name
    if backend != "pytorch":
        raise SettingError("DDE_BACKEND", backend, "L-BFGS of ours is for torch", "set DDE_BACKEND=pytorch")
    LBFGS([torch.nn.Parameter(torch.zeros(1))], **settings)  # settings are read here, not in compile
    module = require("deepxde.optimizers.pytorch.optimizers", "deepxde")
    ours = types.ModuleType("torch")
    ours.__dict__.update(vars(torch))
    optim = types.ModuleType("torch.optim")
    optim.__dict__.update(vars(torch.optim))
    optim.__dict__["LBFGS"] = functools.partial(_lbfgs, settings)
    ours.__dict__["optim"] = optim
    before, module.torch = module.torch, ours
    try:
        yield
    finally:
        module.torch = before


def _lbfgs(settings: dict[str, Any], params: Any, **given: Any) -> LBFGS:
    return LBFGS(params, **{**given, **settings})
