"""Parameters put in the places of a module's own, and the mode that it runs in meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

Mode = Literal["deterministic", "train", "eval", "statistics"]
Slot = tuple[nn.Module, str]


def slots_of(module: nn.Module, parameter: nn.Parameter) -> list[Slot]:
    """Return where a parameter sits, (module, attribute): more than one place where it is shared."""
    owners = ((owner, name) for owner in module.modules() for name in owner._parameters)
    return [(owner, name) for owner, name in owners if owner._parameters[name] is parameter]


@contextmanager
def installed(places: Sequence[Sequence[Slot]], parameters: Sequence[Tensor]) -> Iterator[None]:
    """Have each of `parameters` in all of its places, and then what was there."""
    originals = [slots[0][0]._parameters[slots[0][1]] for slots in places]
    try:
        for slots, tensor in zip(places, parameters, strict=True):
            _fill(slots, tensor)
        yield
    finally:
        for slots, original in zip(places, originals, strict=True):
            _fill(slots, original)


@contextmanager
def in_mode(module: nn.Module, normalisations: Sequence[_NormBase], recurrent: bool, mode: Mode) -> Iterator[None]:
    """Have the module in a mode (see `FlatModel.forward`); `recurrent`: without cuDNN, unless in training mode."""
    if module.training != (mode == "train"):
        module.train(mode == "train")
    norms = normalisations if mode in ("deterministic", "statistics") else []
    hidden = [(norm, norm.running_mean, norm.running_var) for norm in norms]
    cudnn: Any = torch.backends.cudnn
    had_cudnn = cudnn.enabled
    try:
        if recurrent and mode != "train":
            cudnn.enabled = False
        for norm in norms:
            norm.training = True
            if mode == "deterministic":
                norm.track_running_stats = False
                norm.running_mean = norm.running_var = None
        yield
    finally:
        if recurrent:
            cudnn.enabled = had_cudnn
        for norm, mean, var in hidden:
            norm.running_mean, norm.running_var = mean, var
            norm.track_running_stats, norm.training = True, False


def _fill(slots: Sequence[Slot], tensor: Tensor | None) -> None:
    for owner, name in slots:
        owner._parameters[name] = cast(Any, tensor)
