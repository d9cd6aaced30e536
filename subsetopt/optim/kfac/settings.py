"""Settings of `KFAC`, checked at every step: schedulers and users write into the groups."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from subsetopt.errors import SettingError, unknown_name
from subsetopt.optim.settings import read_count, read_number, read_rate, read_switch, read_weight_decay

LOSSES = ("cross_entropy", "binary_cross_entropy", "mse")


def check_group(group: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return `group`; raises `SettingError` under the name that the user typed."""
    read_rate(group["lr"])
    read_rate(group["fallback_lr"], "fallback_lr", "1e-3 is Adam's usual one")
    read_weight_decay(group["weight_decay"])
    read_switch("maximize", group["maximize"])
    read_count("update_every", group["update_every"])
    for name in ("momentum", "memory"):
        if not 0 <= read_number(name, group[name]) < 1:
            raise SettingError(name, group[name], "must lie in [0, 1)", "leave it at its default")
    for name in ("trust", "damping"):
        if not (name == "damping" and group[name] is None) and not 0 < read_number(name, group[name]) < float("inf"):
            raise SettingError(name, group[name], "must be a finite number above 0", "leave it at its default")
    if group["loss"] is not None and group["loss"] not in LOSSES:
        raise unknown_name("loss", str(group["loss"]), LOSSES)
    if isinstance(group["seed"], bool) or not isinstance(group["seed"], int):
        raise SettingError("seed", group["seed"], "must be a whole number")
    return group


def check_parameters(parameters: Iterable[Tensor]) -> None:
    """Raise `SettingError` for parameters that KFAC cannot train."""
    for p in parameters:
        if is_lazy(p):
            raise SettingError("params", "lazy", "parameters have no shape yet", "run the model once on a batch first")
        if p.is_complex():
            raise SettingError("params", "complex", "factors are of real numbers", "use torch.view_as_real")
        if p.dtype in (torch.float16, torch.bfloat16):
            raise SettingError("params", str(p.dtype), "factors need full precision", "train in float32")
        if hasattr(p, "full_tensor"):
            raise SettingError(
                "params", type(p).__name__, "each rank holds a part of each parameter", "use DistributedDataParallel"
            )
        if p.device.type == "meta":
            raise SettingError("params", "meta", "parameters hold no numbers", "load or initialise the model first")


def check_gradients(parameters: Iterable[Tensor]) -> None:
    """Raise `SettingError` for sparse gradients."""
    for p in parameters:
        if p.grad is not None and p.grad.layout != torch.strided:
            raise SettingError("params", "sparse gradients", "factors need dense ones", "use Embedding(sparse=False)")
