"""Weighted rows in a run, against a run on repeated rows and against the objective itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from subsetopt import SubsetTrainer
from subsetopt.data import as_dataset, dataset_from_arrays
from subsetopt.data.digest import dataset_digest
from subsetopt.errors import DataError
from subsetopt.objective import CrossEntropy, Objective
from subsetopt.objective.weighting import prepared
from subsetopt.seeding import make_generator

N = 60
G = make_generator(0, "weighted runs")
X = torch.randn(N, 3, generator=G)
Y = (X[:, 0] + 0.5 * torch.randn(N, generator=G) > 0).long()
REPEATS = torch.randint(0, 4, (N,), generator=G)
ROWS = torch.arange(N).repeat_interleave(REPEATS)
PLAIN: dict[str, Any] = {"validation_fraction": 0, "normalize": "none"}
SETTINGS: dict[str, Any] = {"subset_frac": 1.0, "l2": 1e-2, "dtype": "float64", "gtol": 1e-8}


def fitted(dataset: Any, **changes: Any) -> SubsetTrainer:
    return SubsetTrainer("linear", dataset, **{**SETTINGS, **changes}).fit()


def test_the_minimum_and_its_metrics_are_those_of_repeated_rows() -> None:
    weighted = fitted(dataset_from_arrays(X, Y, X, Y, sample_weight=REPEATS, **PLAIN), handoff="none")
    repeated = fitted(dataset_from_arrays(X[ROWS], Y[ROWS], X, Y, **PLAIN), handoff="none")
    plain = fitted(dataset_from_arrays(X, Y, X, Y, **PLAIN), handoff="none")
    for name in ("loss", "accuracy"):
        values = [trainer.result["metrics"]["train"][name] for trainer in (weighted, repeated, plain)]
        assert values[0] == pytest.approx(values[1], rel=1e-6), name
        assert values[0] != pytest.approx(values[2], rel=1e-3), name
    for a, b in zip(weighted.model.parameters(), repeated.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"solver": "none", "handoff": "adam", "handoff_epochs": 40},
        {"solver": "none", "handoff": "p-sgd", "handoff_epochs": 40},
        {"solver": "kfac-stream", "solver_epochs": 20, "handoff": "none"},
        {"subset_frac": 0.5, "handoff": "full"},
        {"subset_frac": 0.5, "augment_copies": 0, "subsets": 2, "handoff": "none"},
    ],
)
def test_rows_of_weight_zero_teach_nothing(changes: dict[str, Any]) -> None:
    """Half of the rows have wrong labels and the weight 0: the model is right on the others all the same."""
    labels, kept = (X[:, 0] > 0).long(), torch.arange(N) % 2 == 0
    data = dataset_from_arrays(X, torch.where(kept, labels, 1 - labels), sample_weight=kept, **PLAIN)
    trainer = fitted(data, l2=1e-3, gtol=1e-5, **changes)
    right = (trainer.predictor(X).detach().argmax(1) == labels).double().mean()
    assert float(right) > 0.75  # 0.5 where all rows count


def test_a_mini_batch_of_everything_has_the_gradient_of_the_objective() -> None:
    model = torch.nn.Linear(3, 2).double()
    weights = REPEATS.double()
    objective = Objective(model, X, Y, sample_weight=weights)
    loss, targets = prepared(CrossEntropy(), Y, weights, torch.float64)
    mean = loss.per_sample(model(X.double()), targets).mean()
    torch.testing.assert_close(mean.detach(), objective.value(objective.initial()), rtol=1e-12, atol=0)


def test_weights_stay_with_their_rows_in_the_splits_and_in_the_digest() -> None:
    weights = torch.arange(N) + 1.0
    data = as_dataset((X, Y), sample_weight=weights, validation_fraction=0.25)
    for part in (data.train, data.validation):
        assert part is not None and part.weights is not None
        assert torch.equal(part.weights, weights.double()[part.rows])
    assert as_dataset(data) is data
    assert dataset_digest(data) != dataset_digest(as_dataset((X, Y), validation_fraction=0.25))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(N - 2), r"sample_weight: float32 of shape \(58,\).*\(60,\)"),
        (-torch.ones(N), "-1 in row 0"),
        (torch.full((N,), torch.nan), "nan in row 0"),
        (torch.zeros(N), "all 60 weights are 0"),
        ("balanced", "one number per sample"),
    ],
)
def test_wrong_weights_are_refused_before_any_work(weights: Tensor | str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        dataset_from_arrays(X, Y, sample_weight=weights)
    assert "\n" not in str(caught.value)
