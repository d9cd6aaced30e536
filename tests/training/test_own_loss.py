"""A loss given to `SubsetTrainer` as an object, against the objective with that loss, and when the run is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt import Objective, Residuals, SubsetTrainer, minimize
from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.errors import RunDirectoryError, UserError
from subsetopt.seeding import make_generator, seeded_globals

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
        (Residuals(lambda model, points: model(points), X), "has its own points"),
        (nn.BCEWithLogitsLoss(), r"these targets are classes.*targets\.float"),
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


TOKENS = torch.randint(0, 6, (N, 5), generator=G)
NEXT = torch.where(torch.rand(N, 5, generator=G) < 0.4, -100, (TOKENS + 1) % 6)
NEXT[0] = -100  # a sample of which nothing counts
SEVERAL = X[:, :2] > 0.3


def tagger() -> nn.Module:
    """Return a model of (n, T) tokens with logits (n, T, 6)."""
    with seeded_globals(0, "own loss"):
        return nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"solver": "newton-cg", "solver_args": {"curvature": "ggn"}},
        {"solver": "kfac-stream", "solver_epochs": 6},
        {"solver": "none", "handoff": "adam", "handoff_epochs": 6},
    ],
)
def test_labels_of_positions_are_normalised_once(changes: dict[str, Any]) -> None:
    loss = nn.CrossEntropyLoss(ignore_index=-100, label_smoothing=0.05)
    settings = {**SETTINGS, "max_iterations": 8, "validation_fraction": 0.0, **changes}
    trainer = SubsetTrainer(tagger(), (TOKENS, NEXT), loss=loss, **settings).fit()
    outputs = trainer.predict(TOKENS)
    found = trainer.result["metrics"]["train"]
    assert outputs.shape == (N, 5, 6)
    assert found["loss"] == pytest.approx(float(loss(outputs.transpose(1, 2), NEXT)), rel=1e-9)
    right = outputs.argmax(2)[NEXT != -100] == NEXT[NEXT != -100]
    assert found["accuracy"] == pytest.approx(float(right.double().mean()))
    assert trainer.evaluate(TOKENS, NEXT) == pytest.approx(found)
    assert trainer.result["overdetermination"]["outputs"] == 30
    assert found["loss"] < float(loss(tagger()(TOKENS).transpose(1, 2), NEXT))


@pytest.mark.parametrize("targets", [SEVERAL, SEVERAL.long(), SEVERAL.to(torch.uint8), SEVERAL.double()])
def test_several_labels_may_be_of_any_type(targets: Tensor) -> None:
    settings = {**SETTINGS, "validation_fraction": 0.0, "normalize": "none"}
    trainer = SubsetTrainer(nn.Linear(3, 2).double(), (X, targets), loss=nn.BCEWithLogitsLoss(), **settings).fit()
    expected = F.binary_cross_entropy_with_logits(trainer.model(X.double()).detach(), SEVERAL.double())
    assert trainer.result["metrics"]["train"] == pytest.approx({"loss": float(expected)})


def test_several_labels_without_a_loss_of_their_own_are_refused() -> None:
    with pytest.raises(UserError, match=r"whole numbers of shape \(n, 5\).*nn\.CrossEntropyLoss"):
        SubsetTrainer(tagger(), (TOKENS, NEXT), **SETTINGS).fit()


def gaussian(outputs: Tensor, targets: Tensor) -> Tensor:
    mean, logarithm = outputs[:, :1], outputs[:, 1:]
    return (logarithm + (mean - targets).square() * (-logarithm).exp()).mean(1)


@pytest.mark.parametrize(
    ("loss", "width", "targets", "figures"),
    [
        (gaussian, 2, X[:, :1] + 1, {"loss"}),
        (nn.PoissonNLLLoss(), 1, (4 * X[:, :1].abs()).round(), {"loss"}),
        (nn.BCEWithLogitsLoss(), 2, SEVERAL, {"loss"}),
        (nn.HuberLoss(), 1, X[:, :1] + 1, {"loss", "mse", "r2"}),
        (lambda z, y: F.cross_entropy(z, y, reduction="none"), 2, Y, {"loss", "accuracy"}),
    ],
)
def test_figures_beside_a_loss_are_those_that_mean_something_for_it(
    loss: Any, width: int, targets: Tensor, figures: set[str]
) -> None:
    trainer = SubsetTrainer(nn.Linear(3, width), (X, targets), loss=loss, **{**SETTINGS, "max_iterations": 5}).fit()
    assert set(trainer.result["metrics"]["train"]) == figures
    for constant in trainer.result["assessment"]["baseline"].values():
        assert "loss" not in constant, "that of the best constant under this loss is not known"
    assert set(trainer.evaluate(X, targets)) == figures


def test_a_loaded_run_is_evaluated_with_its_loss_alone(tmp_path: Path) -> None:
    settings = {**SETTINGS, "output": str(tmp_path / "run"), "max_iterations": 3}
    trainer = SubsetTrainer(nn.Linear(3, 2), (X, X[:, :1]), loss=gaussian, **settings).fit()
    loaded = SubsetTrainer.load(tmp_path / "run", model=nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"a loss of its own.*gaussian.*give loss"):
        loaded.evaluate(X, X[:, :1])
    assert loaded.evaluate(X, X[:, :1], loss=gaussian) == trainer.evaluate(X, X[:, :1])


def labelled(labels: Any, ignore_index: int, **settings: Any) -> SubsetTrainer:
    model = nn.Linear(3, len(set(labels.tolist())))
    loss = nn.CrossEntropyLoss(ignore_index=ignore_index)
    return SubsetTrainer(model, (X, labels), loss=loss, **{**SETTINGS, "max_iterations": 5, **settings}).fit()


@pytest.mark.parametrize(
    ("labels", "ignore_index", "problem"),
    [
        (torch.where(X[:, 1] > 0, Y, -100), -100, "training labels are -100.*leave these rows out"),
        (torch.tensor([1, 2])[Y], 2, "training labels are 2.*leave these rows out"),
        (torch.tensor([10, 20])[Y], 1, "no label is 1, and class number 1 is 20"),
    ],
)
def test_a_class_to_be_ignored_that_a_run_numbers_anew_is_refused(labels: Tensor, ignore_index: int, problem: str):
    with pytest.raises(UserError, match=rf"CrossEntropyLoss\(ignore_index={ignore_index}\).*{problem}"):
        labelled(labels, ignore_index)


def test_a_class_that_keeps_its_number_is_ignored() -> None:
    found = labelled(Y, 1, max_iterations=200).result["metrics"]["train"]
    assert found["accuracy"] == 1.0  # of the other class alone
    assert labelled(torch.tensor([10, 20])[Y], -100).result["metrics"]["train"]["loss"] < 0.69


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MultiMarginLoss()])
def test_a_sampler_that_needs_class_probabilities_is_refused_before_the_solve(loss: Any, tmp_path: Path) -> None:
    settings = {**SETTINGS, "handoff": "gradient-matching", "output": str(tmp_path / "run")}
    with pytest.raises(UserError, match=r"handoff = 'gradient-matching'.*loss='cross_entropy'"):
        SubsetTrainer(nn.Linear(3, 2), (X, Y), loss=loss, **settings).fit()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loss", [nn.MultiMarginLoss(p=2), nn.MultiLabelMarginLoss()])
def test_a_stream_takes_losses_without_a_second_derivative(loss: nn.Module) -> None:
    """Ended in a traceback: the change of the outputs is measured by the loss's Hessian in them."""
    labels = Y if isinstance(loss, nn.MultiMarginLoss) else torch.stack([Y, torch.full_like(Y, -1)], 1)
    settings: dict[str, Any] = {"solver": "kfac-stream", "solver_epochs": 6, "handoff": "none"}
    model = nn.Linear(3, 2)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    before = float(loss(model(X), labels).detach())
    trainer = SubsetTrainer(model, (X, labels), loss=loss, **settings).fit()
    assert trainer.result["metrics"]["train"]["loss"] < before  # .5; .43 after 6 epochs


def test_outputs_without_the_axis_of_the_targets_are_told_to_have_it() -> None:
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    with pytest.raises(UserError, match=r"unsqueeze the outputs, so that the model returns \(16, 1\)"):
        SubsetTrainer(model, (X, Y.float()), loss=nn.BCEWithLogitsLoss(), **SETTINGS).fit()
