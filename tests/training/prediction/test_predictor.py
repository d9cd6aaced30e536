"""Raw inputs in, predictions in the units of the data out: from a trainer, from its run directory, from a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from subsetopt import DataError, SettingError, SubsetTrainer, UserError, load_predictor
from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.training.evaluation import evaluate_run
from subsetopt.training.prediction.predictions import Predictions, predict_file, read_inputs, write_predictions
from subsetopt.training.prediction.predictor import Predictor

RNG = np.random.default_rng(1)
X = 1e3 * (RNG.normal(size=(300, 4)) + np.array([5, 0, -2, 1]))
Y = np.stack([1e5 * np.sin(X[:, 0] / 1e3) + 3e5, 1e-3 * X[:, 1]], axis=1)
LABELS = (X[:, 0] + X[:, 1] > 5e3).astype(np.int64)
QUICK: dict[str, Any] = {"subset_frac": 0.5, "max_iterations": 40, "handoff": "none"}


def save(folder: Path, y: np.ndarray, name: str = "data.npz", **changes: np.ndarray) -> Path:
    arrays = {"x_train": X[:240], "y_train": y[:240], "x_test": X[240:], "y_test": y[240:], **changes}
    np.savez(folder / name, **arrays)
    return folder / name


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> tuple[SubsetTrainer, Path]:
    folder = tmp_path_factory.mktemp("regression")
    settings = {**QUICK, "dataset": "npz", "data_file": save(folder, Y), "output": folder / "run"}
    return SubsetTrainer("mlp", settings.pop("dataset"), **settings).fit(), folder


def test_regression_is_predicted_in_the_units_of_the_data(regression: tuple[SubsetTrainer, Path]) -> None:
    trainer, _ = regression
    predicted = trainer.predict(X[240:])
    assert isinstance(predicted, np.ndarray) and predicted.shape == (60, 2) and predicted.dtype == np.float64
    mse = float(((predicted - Y[240:]) ** 2).mean())
    metrics = trainer.result["metrics"]["test"]
    assert metrics["mse"] == metrics["loss"] == pytest.approx(mse, rel=1e-4)
    r2 = 1 - ((predicted - Y[240:]) ** 2).sum(0) / ((Y[240:] - Y[240:].mean(0)) ** 2).sum(0)
    assert metrics["r2"] == pytest.approx(float(r2.mean()), rel=1e-5) and r2.min() > 0.5, "every column counts"
    assert trainer.evaluate(X[240:], Y[240:])["mse"] == pytest.approx(mse, rel=1e-4)
    with pytest.raises(SettingError, match="no class probabilities"):
        trainer.predict_proba(X)


def test_the_directory_alone_gives_the_same_predictor(regression: tuple[SubsetTrainer, Path]) -> None:
    trainer, folder = regression
    loaded = load_predictor(folder / "run")
    np.testing.assert_array_equal(loaded.predict(X), trainer.predict(X))
    raw = torch.from_numpy(X)
    assert torch.equal(loaded(raw), trainer.predictor(raw)) and isinstance(loaded.predict(raw), torch.Tensor)
    statistics = json.loads((folder / "run" / "result.json").read_text())["normalization"]
    np.testing.assert_allclose(statistics["mean"], X[:240].mean(0), atol=100)


def test_inputs_that_do_not_fit_are_refused_in_one_line(regression: tuple[SubsetTrainer, Path]) -> None:
    trainer, folder = regression
    for wrong in (X[:, :3], X[0], np.full((2, 4), np.nan), np.array([["a"] * 4]), X[:0]):
        with pytest.raises(DataError) as caught:
            trainer.predict(wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="use last or best"):
        load_predictor(folder / "run", which="first")  # type: ignore[arg-type]  # the mistake


def labelled(names: tuple[str, ...] = ()) -> Dataset:
    data = dataset_from_arrays(X[:240], LABELS[:240], X[240:], LABELS[240:])
    return Dataset(**{**vars(data), "class_names": names})


@pytest.mark.parametrize(
    ("names", "wanted"),
    [((), LABELS), (("10", "100"), np.array([10, 100])[LABELS]), (("no", "yes"), np.array(["no", "yes"])[LABELS])],
)
def test_classes_come_back_under_their_names(names: tuple[str, ...], wanted: np.ndarray) -> None:
    trainer = SubsetTrainer("linear", labelled(names), **QUICK).fit()
    predicted, shares = trainer.predict(X), trainer.predict_proba(X)
    assert predicted.dtype.kind == wanted.dtype.kind and (predicted == wanted).mean() > 0.95
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    assert (shares.argmax(1) == LABELS).mean() > 0.95
    found = trainer.evaluate(X[240:], LABELS[240:])
    assert found == pytest.approx(trainer.result["metrics"]["test"], rel=1e-6)


def test_the_network_alone_takes_standardised_inputs(regression: tuple[SubsetTrainer, Path]) -> None:
    trainer, _ = regression
    by, to = trainer.result["normalization"], trainer.result["target_normalization"]
    z = trainer.model(torch.from_numpy((X - by["mean"]) / by["std"]).float()).detach().numpy()
    np.testing.assert_allclose(z * to["std"] + to["mean"], trainer.predict(X), rtol=1e-4)


def test_resume_keeps_the_settings_of_the_run(tmp_path: Path) -> None:
    """Before: the trainer came back with the defaults, and evaluated without the run's standardisation."""
    module, data = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), labelled()
    first = SubsetTrainer(module, data, **QUICK, l2=0.01, seed=3, output=tmp_path / "run").fit()
    again = SubsetTrainer.resume(tmp_path / "run", model=module, dataset=data)
    assert (again.config.l2, again.config.seed, again.config.subset_frac) == (0.01, 3, 0.5)
    assert again.evaluate(X, LABELS) == first.evaluate(X, LABELS) and again.evaluate(X, LABELS)["accuracy"] > 0.9
    with pytest.raises(UserError, match=r"SubsetTrainer\.load\(path, model=\.\.\.\)"):
        load_predictor(tmp_path / "run")
    np.testing.assert_array_equal(load_predictor(tmp_path / "run", model=module).predict(X), first.predict(X))


def test_evaluate_says_that_data_have_changed_and_standardises_as_the_run_did(tmp_path: Path) -> None:
    path = save(tmp_path, Y)
    SubsetTrainer("mlp", "npz", data_file=path, output=tmp_path / "run", **QUICK).fit()
    notes: list[str] = []
    same = evaluate_run(tmp_path / "run", notes=notes)
    assert notes == [] and same["test"]["r2"] > 0.5
    save(tmp_path, Y, y_test=Y[240:] + 1e6)
    shifted = evaluate_run(tmp_path / "run", splits=["test"], notes=notes)
    assert len(notes) == 1 and "the test data are not those of the run" in notes[0] and shifted["test"]["r2"] < 0
    notes.clear()
    assert evaluate_run(tmp_path / "run", splits=["validation"], notes=notes) and notes == []
    save(tmp_path, Y, x_train=1000 * X[:240])
    there = evaluate_run(tmp_path / "run", splits=["test"], notes=notes)
    assert notes == [] and there["test"] == same["test"], "the test data are the same, and so is their standardisation"


@pytest.mark.parametrize("name", ["x", "x_test", "anything"])
def test_a_file_of_inputs_is_found_by_its_name_or_alone(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "new.npz", **{name: X})
    np.testing.assert_array_equal(read_inputs(tmp_path / "new.npz"), X)
    np.save(tmp_path / "new.npy", X)
    np.testing.assert_array_equal(read_inputs(tmp_path / "new.npy"), X)


def test_files_that_hold_no_inputs_are_refused_in_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=X, b=X)
    np.savez(tmp_path / "none.npz")
    np.savez(tmp_path / "object.npz", x=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "two.npz").read_bytes()[:200])
    for file in ("two.npz", "none.npz", "object.npz", "text.npz", "cut.npy", "missing.npz", "."):
        with pytest.raises(DataError) as caught:
            read_inputs(tmp_path / file)
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_predictions_are_written_as_csv_and_npz(regression: tuple[SubsetTrainer, Path], tmp_path: Path) -> None:
    trainer, folder = regression
    np.save(tmp_path / "new.npy", X[:5])
    found = predict_file(folder / "run", tmp_path / "new.npy")
    write_predictions(tmp_path / "out.csv", found)
    rows = list(csv.reader((tmp_path / "out.csv").open()))
    assert rows[0] == ["row", "prediction_0", "prediction_1"]
    np.testing.assert_array_equal(np.array(rows[1:], float)[:, 1:], trainer.predict(X[:5]))
    named = Predictions(np.array(["no, no", "yes"]), np.array([[0.9, 0.1], [0.2, 0.8]]), ("no, no", "yes"))
    write_predictions(tmp_path / "classes.csv", named)
    assert list(csv.reader((tmp_path / "classes.csv").open()))[:2] == [
        ["row", "prediction", "p_no, no", "p_yes"],
        ["0", "no, no", "0.9", "0.1"],
    ]
    write_predictions(tmp_path / "classes.npz", named)
    with np.load(tmp_path / "classes.npz") as content:
        assert content["predictions"].tolist() == ["no, no", "yes"] and content["probabilities"].shape == (2, 2)
    for wrong in ("out.csv", "out.json", "nowhere/out.csv"):
        with pytest.raises(SettingError):
            write_predictions(tmp_path / wrong, named)


def test_a_predictor_of_tokens_refuses_floats() -> None:
    net = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    predictor = Predictor(net, task="classification", in_shape=(2,), embedded=True)
    assert predictor.predict(np.zeros((3, 2), np.int16)).shape == (3,)
    with pytest.raises(DataError, match="int64"):
        predictor.predict(np.zeros((3, 2)))
