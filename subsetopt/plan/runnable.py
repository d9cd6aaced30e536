"""Which strategies are not for the data and the model of a plan: a command that is refused is no recommendation."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from subsetopt.errors import SettingError, UserError
from subsetopt.facts import PlannedStrategy
from subsetopt.training.context import PreparedRun
from subsetopt.training.phases.factory import build_phases
from subsetopt.training.preparation import drawn_subset
from subsetopt.training.settings.run import RunConfig, make_config


def refusals(config: RunConfig, prepared: PreparedRun, ways: Sequence[PlannedStrategy]) -> dict[str, str]:
    """Return why strategies are left out here, by their names; `config` has what the plan was given.

    Phases are built and checked as `train` does it before any work. On fewer than a strategy's `fewest` samples it
    runs, but by other means than those that its law was measured on, or at another cost.
    """
    found: dict[str, str] = {}
    for way in ways:
        if prepared.data.full_size < way.fewest:
            found[way.name] = f"its laws do not hold for fewer than {way.fewest} samples"
            continue
        try:
            _build({**config.model_dump(exclude_unset=True), **settings_of(way)}, prepared)
        except UserError as error:
            found[way.name] = _problem(error)
    return found


def settings_of(way: PlannedStrategy) -> dict[str, Any]:
    """Return the settings that the flags of a strategy mean, in the form that `make_config` takes."""
    found: dict[str, Any] = {}
    words = shlex.split(way.flags)
    for flag, value in zip(words[::2], words[1::2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        if name.endswith("_arg"):
            key, _, text = value.partition("=")
            found[f"{name}s"] = {**found.get(f"{name}s", {}), key: text}
        else:
            found[name] = None if value == "none" and _may_be_none(name) else value
    return found


def _build(settings: Mapping[str, Any], prepared: PreparedRun) -> None:
    data, budget, run = prepared
    tried = make_config(settings)
    own = data.with_subset(drawn_subset(tried, data.dataset))
    build_phases(own, budget, replace(run, config=tried, warnings=[]), may_idle=True)


def _may_be_none(name: str) -> bool:
    kinds = get_args(RunConfig.model_fields[name].annotation)
    return type(None) in kinds and str not in kinds


def _problem(error: UserError) -> str:
    """Return what a mistake says without its remedy, which is of a command that nobody has typed."""
    remedy = error.remedy if isinstance(error, SettingError) else ""
    return str(error).removesuffix(f"; {remedy}") if remedy else str(error)
