"""A run on a table predicts tables and frames by its own encoding. Reference: scikit-learn, and the run's metrics."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from subsetopt.data.tables.files import read_table, table_pieces
from subsetopt.errors import UserError
from subsetopt.training.prediction.predictions import predict_file, write_predictions
from subsetopt.training.settings.run import make_config
from subsetopt.training.trainer import SubsetTrainer


def _write(path: Path, rows: list[dict[str, Any]], head: list[str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, head, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _rows(count: int = 120) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        area, town = float(rng.normal(100, 20)), str(rng.choice(["Aachen", "Bonn"]))
        price = 1000 + 3 * area + 50 * (town == "Bonn") + rng.normal()
        rows.append({"area": area, "town": town, "price": price, "kind": "dear" if price > 1325 else "cheap"})
    return rows


def _train(folder: Path, target: str, drop: str) -> SubsetTrainer:
    data = _write(folder / "a.csv", _rows(), ["area", "town", "price", "kind"])
    settings = {"data_file": data, "target": target, "drop": drop, "output": folder / "run", "dtype": "float64"}
    return SubsetTrainer("linear", "table", **settings, l2=1e-9, subset_frac=1.0, handoff="none").fit()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    _train(folder, "price", "kind")
    return folder / "run"


def test_a_linear_model_predicts_what_least_squares_does_for_columns_in_another_order(run: Path) -> None:
    rows = _rows()
    trainer = SubsetTrainer.load(run)
    kept = [rows[place] for place in _training_rows(run)]

    def design(of: list[dict[str, Any]]) -> np.ndarray:
        return np.array([[row["area"], row["town"] == "Bonn"] for row in of])

    reference = LinearRegression().fit(design(kept), [row["price"] for row in kept])
    new = _write(run.parent / "new.csv", rows[::-1], ["town", "area"])
    found = predict_file(run, new)
    np.testing.assert_allclose(found.predictions, reference.predict(design(rows[::-1])), rtol=1e-4)
    np.testing.assert_array_equal(trainer.predict(read_table(new)), found.predictions)


def _training_rows(run: Path) -> list[int]:
    from subsetopt.data import load_dataset

    data = load_dataset("table", data_file=run.parent / "a.csv", target_column="price", drop=("kind",))
    return [int(row) for row in data.train.rows]


def test_classes_and_probabilities_are_written_by_name_in_the_order_of_the_rows(tmp_path: Path) -> None:
    trainer = _train(tmp_path, "kind", "price")
    rows = _rows()
    found = predict_file(tmp_path / "run", _write(tmp_path / "new.csv", rows, ["kind", "town", "area"]))
    agreed = np.mean(found.predictions == np.array([row["kind"] for row in rows]))
    assert agreed > 0.9
    assert found.notes == ()
    write_predictions(tmp_path / "p.csv", found)
    with (tmp_path / "p.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == ["row", "prediction", "p_cheap", "p_dear"]
    assert [row["prediction"] for row in written] == found.predictions.tolist()
    loaded = SubsetTrainer.load(tmp_path / "run")
    assert loaded.result == trainer.result
    np.testing.assert_array_equal(loaded.predict_proba(read_table(tmp_path / "new.csv")), found.probabilities)


def test_the_encoding_is_shown_before_training(run: Path, tmp_path: Path) -> None:
    from subsetopt.training.progress import Silent
    from subsetopt.training.run import train

    class Heard(Silent):
        told: list[str]

        def __init__(self) -> None:
            self.told = []

        def message(self, text: str) -> None:
            self.told.append(text)

        def phase_started(self, *_: Any) -> None:
            self.told.append("training")

    heard = Heard()
    settings = {"dataset": "table", "data_file": run.parent / "a.csv", "target": "price", "drop": "kind"}
    train(make_config({**settings, "max_iterations": 2, "handoff": "none"}), progress=heard, keep=False)
    assert heard.told[1] == "training"
    assert "town  one-hot: 2 words" in heard.told[0]


def test_files_of_another_kind_are_refused_by_name(run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3)))
    with pytest.raises(UserError, match="trained on a table"):
        predict_file(run, tmp_path / "x.npy")
    with pytest.raises(UserError, match=r"new.csv: lacks 1 of the 2 columns of the training data: town"):
        predict_file(run, _write(tmp_path / "new.csv", _rows(), ["area"]))
    with pytest.raises(UserError, match="has no config"):
        SubsetTrainer.load(tmp_path)


def test_a_file_in_pieces_is_predicted_and_noted_as_one(run: Path, tmp_path: Path, monkeypatch: Any) -> None:
    rows = [{**row, "town": "Dresden" if place % 40 == 3 else row["town"]} for place, row in enumerate(_rows())]
    new = _write(tmp_path / "new.csv", rows, ["town", "area", "price"])
    whole = predict_file(run, new)
    monkeypatch.setattr("subsetopt.data.tables.delimited._PIECE", 16)
    assert [table.rows for table in table_pieces(new)] == [16] * 7 + [8]
    pieces = predict_file(run, new)
    np.testing.assert_allclose(pieces.predictions, whole.predictions, rtol=1e-12)
    assert pieces.notes == whole.notes and "(3 rows)" in pieces.notes[0]
    (tmp_path / "new.csv").write_text(new.read_text() + "Bonn,many,1\n")
    with pytest.raises(UserError, match=r"'many' in line 122"):
        predict_file(run, new)
