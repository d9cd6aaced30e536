"""Cards name every setting with the default that it has; reference: the dataclasses and signatures themselves."""

from __future__ import annotations

import re
from typing import Any

import pytest

from subsetopt.cards import SettingRow, settings_of
from subsetopt.models import MODELS
from subsetopt.registry import Entry
from subsetopt.solvers import SOLVERS
from subsetopt.solvers.iterate import StopSettings
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.settings.plans import PLANS
from subsetopt.training.settings.run import RunConfig

OURS: list[Entry[Any]] = [entry for entry in SOLVERS if not entry.name.startswith("scipy:")] + list(METHODS)
COMMON = set(StopSettings.__dataclass_fields__)


@pytest.mark.parametrize("entry", OURS, ids=lambda entry: entry.name)
def test_the_card_of_a_solver_or_strategy_names_every_setting_of_its_own_with_its_default(entry: Entry[Any]) -> None:
    for row in settings_of(entry):
        if row.name not in COMMON:
            found = re.search(rf"`{row.name}`\s+\(([^):]*)", entry.card)
            assert found is not None, row.name
            given = found[1].strip('"')
            assert given == str(row.default).lower(), row.name


@pytest.mark.parametrize("entry", [*OURS, *OPTIMIZERS, *PLANS], ids=lambda entry: entry.name)
def test_cards_have_their_sections_in_one_order(entry: Entry[Any]) -> None:
    assert re.findall("^## (.*)$", entry.card, re.M) == ["What it does", "Settings", "True cost", "Source"]


@pytest.mark.parametrize("entry", list(OPTIMIZERS), ids=lambda entry: entry.name)
def test_the_card_of_an_optimizer_has_its_rate_and_decay(entry: Entry[Any]) -> None:
    assert f"`lr` ({entry.target.rate:g})" in entry.card
    decay = entry.target.decoupled_decay
    assert f"`weight_decay` ({'the run' if decay is None else f'{decay:g}'}" in entry.card


@pytest.mark.parametrize("entry", OURS, ids=lambda entry: entry.name)
def test_the_tuned_setting_exists_and_starts_at_its_default_unless_that_is_open(entry: Entry[Any]) -> None:
    rows = {row.name: row for row in settings_of(entry)}
    assert entry.knob is not None and entry.knob.name in rows
    if entry.name in METHODS:
        assert entry.knob.centre == rows[entry.knob.name].default


def test_rows_say_types_and_ranges() -> None:
    rows = {row.name: row for row in settings_of(SOLVERS.entry("lbfgs"))}
    assert rows["memory"] == SettingRow("memory", None, "a whole number >= 1, or none")
    assert rows["curvature"] == SettingRow("curvature", 0.9, "a number > 0 and < 1")
    assert rows["preconditioner"].values == "none | diagonal | kfac"
    assert "method" not in {row.name for row in settings_of(SOLVERS.entry("scipy:BFGS"))}
    assert [row.name for row in settings_of(MODELS.entry("linear"))] == ["bias"]


@pytest.mark.parametrize("entry", list(PLANS), ids=lambda entry: entry.name)
def test_the_card_of_a_plan_names_flags_that_exist_with_their_defaults(entry: Entry[Any]) -> None:
    flags = re.findall(r"`--([a-z0-9-]+)[^`]*`(?:\s+\(([\w.]+)\))?", entry.card)
    assert flags
    for flag, default in flags:
        field = RunConfig.model_fields[flag.replace("-", "_")]
        if default:
            shown = {True: "on"}.get(field.default, str(field.default))
            assert default in (shown, shown.removesuffix(".0")), flag
