"""What must be said first: harm done by the hand-off, and models that a constant prediction equals or beats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subsetopt import SubsetTrainer, load_predictor
from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.errors import command_line
from subsetopt.report import summary
from subsetopt.training.checks.assessment import baseline
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config
from subsetopt.training.splits import SplitName

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 6))
PRICES = 3e5 + 1e5 * (np.sin(X[:, 0]) + 0.1 * X[:, 1])
QUICK: dict[str, Any] = {"subset_frac": 0.5, "max_iterations": 60}


def prices(**changes: Any) -> Dataset:
    return dataset_from_arrays(X[:300], PRICES[:300], X[300:], PRICES[300:], **changes)


def test_a_hand_off_that_does_harm_is_said_first_and_the_better_parameters_are_kept(tmp_path: Path) -> None:
    settings = {**QUICK, "handoff_epochs": 1.0, "handoff_lr": 2.0}
    trainer = SubsetTrainer("mlp", prices(), **settings, output=tmp_path / "run").fit()
    result = trainer.result
    before, after = (result[key]["validation"]["mse"] for key in ("metrics_before_handoff", "metrics"))
    assert after is None or after > 10 * before
    first = result["warnings"][0]
    assert (
        "the hand-off did harm" in first
        and "handoff_lr=0.2" in first
        and "worse than predicting the mean" in result["warnings"][1]
    )
    assert result["models"] == {"last": "model.safetensors", "best": "model-best.safetensors"}
    assert result["assessment"]["better"] == "subset minimum"
    mse = float(((trainer.best.predict(X[300:]) - PRICES[300:]) ** 2).mean())
    assert mse == pytest.approx(result["metrics_before_handoff"]["test"]["mse"], rel=1e-4)
    text = summary(result, trainer.directory)
    assert text.startswith("CHECK FIRST") and "model-best.safetensors has the better" in text
    assert text.index("did harm") < text.index("What happened") and text.count("did harm") == 1
    best = load_predictor(tmp_path / "run", model=trainer.model, which="best")
    np.testing.assert_array_equal(best.predict(X), trainer.best.predict(X))


def test_the_remedy_is_spelled_as_the_reader_types_it() -> None:
    with command_line(["train"]):
        result = SubsetTrainer("mlp", prices(), **QUICK, handoff_epochs=1.0, handoff_lr=2.0).fit().result
    assert "--handoff-lr 0.2" in result["warnings"][0] and "handoff_lr" not in result["warnings"][0]


def test_a_good_run_has_no_alarm_and_keeps_one_model() -> None:
    trainer = SubsetTrainer("mlp", prices(), **QUICK, handoff_epochs=1.0).fit()
    assert trainer.result["assessment"]["alarms"] == [] and trainer.result["models"]["best"] is None
    assert trainer.best is trainer.predictor and not summary(trainer.result, None).startswith("CHECK")
    assert trainer.result["metrics"]["test"]["r2"] > 0.9


@pytest.mark.parametrize("targets", [PRICES, (PRICES > 3e5).astype(np.int64)], ids=["mean", "largest class"])
def test_unscaled_columns_that_teach_nothing_name_the_normalisation(targets: np.ndarray) -> None:
    """Columns of 1e7 drive tanh units into saturation: a stationary point, at chance."""
    data = dataset_from_arrays(1e7 * X, targets, validation_fraction=0.3, normalize="none")
    alarms = SubsetTrainer("mlp", data, **QUICK, handoff="none").fit().result["assessment"]["alarms"]
    if alarms:  # by chance a saturated network may separate some of it
        assert "normalize='auto'" in alarms[-1]
    scaled = dataset_from_arrays(1e7 * X, targets, validation_fraction=0.3)
    assert SubsetTrainer("mlp", scaled, **QUICK, handoff="none").fit().result["assessment"]["alarms"] == []


def test_a_classifier_at_chance_is_said_to_be_no_better_than_the_largest_class() -> None:
    noise = RNG.integers(0, 2, 400)
    result = SubsetTrainer("mlp", dataset_from_arrays(X, noise), subset_frac=0.3, l2=0.0, handoff="none").fit().result
    assert "no better than always predicting the largest class" in result["assessment"]["alarms"][0]
    assert "subset_frac=" in result["assessment"]["alarms"][0]


def test_a_model_worse_than_the_mean_is_said() -> None:
    noise = RNG.normal(size=400)
    result = SubsetTrainer("mlp", dataset_from_arrays(X, noise), subset_frac=0.3, l2=0.0, handoff="none").fit().result
    assert "worse than predicting the mean" in result["assessment"]["alarms"][0]


def test_targets_that_do_not_vary_are_no_alarm_and_have_no_r2() -> None:
    result = SubsetTrainer("linear", dataset_from_arrays(X, np.full(400, 7.5)), **QUICK, handoff="none").fit().result
    assert result["assessment"]["alarms"] == []
    assert "r2" not in result["metrics"]["validation"] and result["metrics"]["validation"]["mse"] < 1e-6


def test_the_baseline_is_the_best_constant_of_the_training_data() -> None:
    labels = np.array([0, 1, 1, 2] * 100)
    data, _, _ = prepare(
        make_config({}), nn.Linear(6, 3), dataset_from_arrays(X, labels, X[:40], labels[:40][::-1].copy())
    )
    found = baseline(data, SplitName.TEST)
    shares = torch.bincount(data.dataset.train.targets).double() / len(data.dataset.train)
    expected = F.nll_loss(shares.log().expand(40, 3), torch.from_numpy(labels[:40]))
    assert found == pytest.approx({"accuracy": 0.5, "loss": float(expected)}, rel=1e-9)
    regression = prepare(make_config({}), nn.Linear(6, 1), prices()).data
    mean = float(PRICES[:300][regression.dataset.train.rows.numpy()].mean())
    wanted = float(((PRICES[300:] - mean) ** 2).mean())
    assert baseline(regression, SplitName.TEST) == pytest.approx(
        {"loss": wanted, "mse": wanted, "standardised_loss": wanted / regression.loss_unit}, rel=1e-9
    )
