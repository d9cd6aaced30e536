"""Strategies that do not run on the data or the model of a plan are said, by building what `train` would build."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from subsetopt.data import dataset_from_arrays
from subsetopt.facts import PlannedStrategy
from subsetopt.plan.predictions import strategies
from subsetopt.plan.runnable import refusals, settings_of
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config


def found(samples: int = 400, model: str = "mlp", **settings: Any) -> dict[str, str]:
    x = torch.randn(samples, 3, 8, 8) if model == "resnet" else torch.randn(samples, 4)
    config = make_config({"model": model, "validation_fraction": 0.0, **settings})
    prepared = prepare(config, dataset=dataset_from_arrays(x, torch.arange(samples) % 2))
    return refusals(config, prepared, strategies())


def test_everything_runs_on_a_plain_problem() -> None:
    assert found(1000) == {}


def test_draws_by_residual_and_small_noisy_stages_do_not_go_with_batch_norm() -> None:
    """Before: `plan` recommended --subset-draw residual for a ResNet, a command that `train` refuses."""
    said = found(900, "resnet", model_args={"width": 2})
    assert set(said) == {"lbfgs@residual", "grow"}
    assert "BatchNorm" in said["lbfgs@residual"] and ";" not in said["lbfgs@residual"], "no remedy of another command"
    assert "16 samples with BatchNorm" in said["grow"]


def test_few_samples_leave_the_solves_on_all() -> None:
    """Before: `plan` recommended draws by residual for 32 rows, of which none are drawn."""
    said = found(32)
    assert {"lbfgs@residual", "lbfgs@0.1+full", "grow", "kfac-stream", "kfac-stream+lbfgs"} == set(said)
    assert "200 samples" in said["lbfgs@residual"] and "8 samples" in said["lbfgs@0.1+full"]


def test_flags_become_settings() -> None:
    way = PlannedStrategy("x", "full batch", "--subset-frac 0.1 --handoff full --handoff-arg preconditioner=kfac", ())
    assert make_config(settings_of(way)).handoff_args == {"preconditioner": "kfac"}
    assert settings_of(PlannedStrategy("x", "stream", "--max-iterations none --handoff none", ())) == {
        "max_iterations": None,
        "handoff": "none",
    }


@pytest.mark.parametrize("way", strategies(), ids=lambda way: way.name)
def test_settings_are_those_that_the_command_line_makes_of_the_flags(way: PlannedStrategy) -> None:
    """Reference: click's own parsing of `train`."""
    from subsetopt_cli.commands.train import command
    from subsetopt_cli.options import given_settings

    from subsetopt.training.settings.run import RunConfig

    parsed = command.make_context("train", way.flags.split()).params
    names = {name: value for name, value in parsed.items() if name in RunConfig.model_fields}
    assert make_config(settings_of(way)) == make_config(given_settings(RunConfig, names))
