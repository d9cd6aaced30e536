"""A run on residuals: collocation points as samples of subsets, growing subsets and hand-offs, against the solution."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from subsetopt_cli.main import run
from torch import Tensor, nn

from subsetopt import Objective, Residuals, SubsetTrainer
from subsetopt.errors import ModelError, RunDirectoryError, SettingError
from subsetopt.seeding import make_generator, seeded_globals

POINTS = torch.rand(80, 1, generator=make_generator(0, "points")) * 2 - 1
ENDS = torch.tensor([[-1.0], [1.0]]).repeat(8, 1)
SETTINGS: dict[str, Any] = {"subset_frac": 0.5, "max_iterations": 120, "handoff": "none"}


def poisson(model: Any, points: Tensor) -> Tensor:
    points.requires_grad_()
    u = model(points)
    (du,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    (ddu,) = torch.autograd.grad(du.sum(), points, create_graph=True)
    return ddu + math.pi**2 * torch.sin(math.pi * points.detach())


def ends(model: Any, points: Tensor) -> Tensor:
    return model(points)


def terms(weight: float = 100.0) -> Residuals:
    return Residuals({"interior": (poisson, POINTS), "ends": (ends, ENDS, weight)})


def network() -> nn.Module:
    with seeded_globals(0, "points"):
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"handoff": "full"},
        {"grow": 2, "grow_start": 0.25},
        {"solver": "newton-cg", "solver_args": {"curvature": "ggn"}},
    ],
)
def test_a_run_finds_the_solution_of_poissons_equation(changes: dict[str, Any]) -> None:
    trainer = SubsetTrainer(network(), terms(), **{**SETTINGS, **changes}).fit()
    with torch.no_grad():
        error = (trainer.model(POINTS) - torch.sin(math.pi * POINTS)).abs().max()
    assert float(error) < 0.05
    q = trainer.result["overdetermination"]
    assert (q["samples"], q["outputs"], q["parameters"]) == (48, 1, 25)


def test_losses_of_a_run_are_those_of_the_objective(tmp_path: Path) -> None:
    output = tmp_path / "run"
    trainer = SubsetTrainer(network(), terms(), output=str(output), **{**SETTINGS, "max_iterations": 3}).fit()
    objective = Objective.from_residual(trainer.model, terms())
    assert trainer.result["metrics"]["train"]["loss"] == pytest.approx(
        float(objective.value(objective.initial())), rel=1e-4
    )
    assert run(["report", str(output)]) == 0
    with pytest.raises(RunDirectoryError, match=r"the loss is not that of the run"):
        SubsetTrainer.resume(output, model=network(), dataset=terms(1.0), max_iterations=20)
    resumed = SubsetTrainer.resume(output, model=network(), dataset=terms(), max_iterations=20)
    whole = SubsetTrainer(network(), terms(), **{**SETTINGS, "max_iterations": 20}).fit()
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_mini_batches_take_residuals_and_factors_do_not() -> None:
    changes = {"solver": "none", "handoff": "adam", "handoff_epochs": 20}
    trainer = SubsetTrainer(network(), terms(), **{**SETTINGS, **changes}).fit()
    before = Objective.from_residual(network(), terms())
    assert trainer.result["metrics"]["train"]["loss"] < float(before.value(before.initial()))
    with pytest.raises(ModelError, match="the loss calls the model itself"):
        SubsetTrainer(network(), terms(), solver="kfac-stream").fit()
    with pytest.raises(SettingError, match="leave loss out"):
        SubsetTrainer("mlp", terms()).fit()
