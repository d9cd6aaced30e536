"""`evaluate` of a run on a table keeps to the run's encoding and classes. Reference: its own predictions, by numpy."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subsetopt.data import load_dataset
from subsetopt.errors import UserError
from subsetopt.training.evaluation import evaluate_run
from subsetopt.training.prediction.predictions import predict_file
from subsetopt.training.trainer import SubsetTrainer

HEAD = ("area", "town", "price", "kind")
Row = dict[str, Any]


def _rows(count: int = 90) -> list[Row]:
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for _ in range(count):
        area, town = float(rng.normal(100, 20)), str(rng.choice(["Aachen", "Bonn", "Celle"]))
        price = 1000 + 3 * area + 50 * (town == "Bonn") - 90 * (town == "Celle") + rng.normal()
        rows.append({"area": area, "town": town, "price": price, "kind": "dear" if price > 1290 else "cheap"})
    return rows


def _write(path: Path, rows: list[Row], head: tuple[str, ...] = HEAD) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, head, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _train(folder: Path, target: str, drop: str) -> Path:
    data = _write(folder / "a.csv", _rows())
    settings = {"data_file": data, "target": target, "drop": drop, "output": folder / "run", "dtype": "float64"}
    SubsetTrainer("linear", "table", **settings, l2=1e-4, subset_frac=1.0, handoff="none").fit()
    return folder / "run"


def _changed(rows: list[Row], change: Callable[[int, Row], Row]) -> list[Row]:
    return [change(place, row) for place, row in enumerate(rows)]


def _training_rows(folder: Path, target: str, drop: str) -> list[int]:
    data = load_dataset("table", data_file=folder / "a.csv", target_column=target, drop=(drop,))
    return [int(row) for row in data.train.rows]


def _moved(place: int, row: Row) -> Row:
    """Another order of frequency of the words, one that training had not, and a shift that would be standardised."""
    town = "Dresden" if place % 5 == 0 else "Celle"
    return {**row, "area": row["area"] + 40, "town": town}


def test_other_words_and_reordered_columns_are_encoded_as_in_training(tmp_path: Path) -> None:
    run = _train(tmp_path, "price", "kind")
    before = evaluate_run(run, splits=("train",))["train"]["mse"]
    rows = _changed(_rows(), _moved)
    file = _write(tmp_path / "a.csv", rows, HEAD[::-1])
    notes: list[str] = []
    found = evaluate_run(run, splits=("train",), notes=notes)["train"]["mse"]
    kept = _training_rows(tmp_path, "price", "kind")
    errors = predict_file(run, file).predictions[kept] - [rows[place]["price"] for place in kept]
    assert found == pytest.approx(np.mean(errors**2), rel=1e-9)
    assert found > 100 * before
    assert any("not those of the run" in note for note in notes)


def test_classes_keep_their_numbers_where_words_changed_places(tmp_path: Path) -> None:
    run = _train(tmp_path, "kind", "price")
    rows = _changed(_rows(), lambda place, row: {**row, "kind": "dear" if place % 4 else "cheap"})
    file = _write(tmp_path / "a.csv", rows, ("kind", "town", "area", "price"))
    found = evaluate_run(run, splits=("train", "validation"))
    data = load_dataset("table", data_file=file, target_column="kind", drop=("price",))
    predicted, labels = predict_file(run, file).predictions, np.array([row["kind"] for row in rows])
    for name in ("train", "validation"):
        kept = [int(row) for row in getattr(data, name).rows]
        assert found[name]["accuracy"] == pytest.approx(np.mean(predicted[kept] == labels[kept]), rel=1e-9)
    assert 0.3 < found["train"]["accuracy"] < 0.9


def test_rows_of_one_class_are_evaluated_by_the_two_of_the_run(tmp_path: Path) -> None:
    run = _train(tmp_path, "kind", "price")
    file = _write(tmp_path / "a.csv", _changed(_rows(), lambda _, row: {**row, "kind": "dear"}))
    kept = _training_rows(tmp_path, "price", "kind")
    found = evaluate_run(run, splits=("train",))["train"]["accuracy"]
    assert found == pytest.approx(np.mean(predict_file(run, file).predictions[kept] == "dear"), rel=1e-9)


def test_a_new_label_and_a_missing_column_are_refused_in_one_line(tmp_path: Path) -> None:
    run = _train(tmp_path, "kind", "price")
    _write(tmp_path / "a.csv", _changed(_rows(), lambda place, row: {**row, "kind": "free"} if place == 7 else row))
    with pytest.raises(UserError, match="'free'") as caught:
        evaluate_run(run)
    assert "\n" not in str(caught.value)
    _write(tmp_path / "a.csv", _rows(), ("area", "price", "kind"))
    with pytest.raises(UserError, match=r"a\.csv: lacks 1 of the 2 columns of the training data: town") as caught:
        evaluate_run(run)
    assert "\n" not in str(caught.value)
    _write(tmp_path / "a.csv", _rows(), ("area", "town", "price"))
    with pytest.raises(UserError, match="no such column") as caught:
        evaluate_run(run)
    assert "\n" not in str(caught.value)
