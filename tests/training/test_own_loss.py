"""A loss given to `SubsetTrainer` as an object, against the objective with that loss, and when the run is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt import Objective, SubsetTrainer, minimize, model_loss
from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.errors import RunDirectoryError, UserError
from subsetopt.seeding import make_generator

N = 60
G = make_generator(0, "own loss")
X = torch.randn(N, 3, generator=G)
Y = (X[:, 0] + torch.randn(N, generator=G) > 0.8).long()
WEIGHT = torch.tensor([1.0, 6.0])
SETTINGS: dict[str, Any] = {"subset_frac": 1.0, "l2": 1e-2, "dtype": "float64", "gtol": 1e-8, "handoff": "none"}


def data() -> Dataset:
    return dataset_from_arrays(X, Y, validation_fraction=0, normalize="none")


def test_class_weights_move_the_minimum_to_that_of_the_objective() -> None:
    loss = nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1)
    trainer = SubsetTrainer("linear", data(), loss=loss, **SETTINGS).fit()
    objective = Objective(trainer.model, X, Y, loss, 1e-2, dtype=torch.float64)
    best = minimize(objective, torch.zeros(objective.size, dtype=torch.float64), gtol=1e-8)
    assert trainer.result["solve"]["loss"] == pytest.approx(best.loss, rel=1e-8)
    plain = SubsetTrainer("linear", data(), **SETTINGS).fit()
    found = [int(each.predictor(X).argmax(1).sum()) for each in (trainer, plain)]
    assert found[0] > found[1], "a class that weighs more is predicted more often"


@pytest.mark.parametrize(
    "changes",
    [
        {"solver": "none", "handoff": "adam", "handoff_epochs": 5},
        {"solver": "kfac-stream", "solver_epochs": 5},
        {"solver": "newton-cg", "solver_args": {"curvature": "ggn", "preconditioner": "kfac"}},
    ],
)
def test_every_kind_of_phase_takes_it(changes: dict[str, Any]) -> None:
    trainer = SubsetTrainer("linear", data(), loss=nn.CrossEntropyLoss(WEIGHT), **{**SETTINGS, **changes}).fit()
    assert trainer.result["metrics"]["train"]["loss"] < 0.69


def test_a_resumed_run_needs_the_same_loss(tmp_path: Path) -> None:
    loss = nn.CrossEntropyLoss(WEIGHT)
    output = tmp_path / "run"
    SubsetTrainer("linear", data(), loss=loss, output=str(output), max_iterations=2, **SETTINGS).fit()
    for other in (None, nn.CrossEntropyLoss(2 + WEIGHT)):
        with pytest.raises(RunDirectoryError, match="the loss is not that of the run"):
            SubsetTrainer.resume(output, dataset=data(), loss=other, max_iterations=100)
    resumed = SubsetTrainer.resume(output, dataset=data(), loss=loss, max_iterations=100)
    whole = SubsetTrainer("linear", data(), loss=loss, max_iterations=100, **SETTINGS).fit()
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (model_loss(lambda model, batch: model(batch).sum(1)), "calls the model itself"),
        (lambda model, batch: model(batch).sum(1), "calls the model itself"),
        (mean, "losses per sample"),
        (nn.CrossEntropyLoss(reduction="sum"), "reduction='mean'"),
        (nn.CrossEntropyLoss(torch.ones(5)), "5 class weights"),
        (3, "neither a name nor a function"),
        ("hinge", "hinge"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused_before_any_work(loss: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        SubsetTrainer("linear", data(), loss=loss, **SETTINGS).fit()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.BCEWithLogitsLoss(), (X[:, :2] > 0.3).float()),
        (nn.PoissonNLLLoss(), (4 * X[:, :2].abs()).round()),
        (nn.HuberLoss(delta=2.0), 50 * X[:, :1] + 300),
    ],
    ids=["multi-label", "counts", "far from 0"],
)
def test_targets_reach_it_as_they_are(loss: nn.Module, targets: Tensor) -> None:
    """Standardised labels of 0 and 1 would leave the cross entropy without a minimum."""
    trainer = SubsetTrainer(
        "linear", dataset_from_arrays(X, targets, validation_fraction=0, normalize="standard"), loss=loss, **SETTINGS
    ).fit()
    outputs = trainer.predictor(X.double()).detach()
    expected = float(loss(outputs, targets.double()))
    assert trainer.result["metrics"]["train"]["loss"] == pytest.approx(expected, rel=1e-6)
    penalty = 0.5e-2 * sum(float(p.square().sum()) for p in trainer.model.parameters())
    assert trainer.result["solve"]["loss"] == pytest.approx(expected + penalty, rel=1e-6)
    assert trainer.result["solve"]["stop_reason"] == "gradient"
