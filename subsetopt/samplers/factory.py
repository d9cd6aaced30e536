"""Make a sampler by its name, and say what it is."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from subsetopt.arguments import plain, require_device, whole_number
from subsetopt.errors import SettingError
from subsetopt.registry import Registry
from subsetopt.samplers.base import QueueSampler
from subsetopt.settings import check_flag, check_settings

S = TypeVar("S", bound=type[QueueSampler])
SAMPLERS: Registry[type[QueueSampler]] = Registry("sampler", "subsetopt.samplers.methods")

CARD_SECTIONS = ("What it does", "Formula", "Settings", "True cost", "Source", "Deviations from the official code")


def register(name: str, summary: str) -> Callable[[S], S]:
    """Register the decorated sampler class under `name`, which also becomes its attribute `name`."""

    def decorate(target: S) -> S:
        target.name = name
        SAMPLERS.register(name, summary)(target)
        return target

    return decorate


def make_sampler(
    name: str,
    n_samples: int,
    batch_size: int,
    seed: int = 0,
    *,
    device: torch.device | str = "cpu",
    drop_last: bool = False,
    **settings: Any,
) -> QueueSampler:
    """Return the sampler `name` over samples 0 .. n_samples - 1, all settings checked.

    Indices and weights live on `device`; random numbers come from the stream "sampler" of `seed`, drawn on the CPU so
    that every device gets the same batches. Without `drop_last` the batches of an epoch are as few
    as `batch_size` allows and share its rows evenly; with it they are all whole, and the rest is withheld. Raises
    `SettingError` for an unknown sampler or setting (with "did you mean") and for a value out of range.
    """
    target = SAMPLERS.get(name)
    n_samples, batch_size = whole_number("n_samples", n_samples, 1), whole_number("batch_size", batch_size, 1)
    seed = whole_number("seed", seed)
    require_device("device", device)
    check_flag("drop_last", drop_last)
    given = {key: plain(value) for key, value in settings.items()}
    checked = target.Settings(**check_settings(target.Settings, given, name, what="sampler"))
    sampler = target(n_samples, batch_size, seed, torch.device(device), checked, drop_last)
    if drop_last and sampler.epoch_rows < sampler.rows_per_proposal:
        problem = f"exceeds the {sampler.epoch_rows} rows of an epoch, so drop_last leaves no batch"
        raise SettingError("batch_size", batch_size, problem, "lower it, or raise fraction")
    return sampler


def default_settings(name: str) -> dict[str, Any]:
    """Return the settings of the sampler `name` with their defaults."""
    return dataclasses.asdict(SAMPLERS.get(name).Settings())


def card(name: str) -> str:
    """Return the method card of the sampler `name`: what it does, formula, settings, cost, source, deviations."""
    return inspect.cleandoc(sys.modules[SAMPLERS.get(name).__module__].__doc__ or "")
