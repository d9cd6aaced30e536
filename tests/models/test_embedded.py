"""Embedded columns of words. Reference: the gather and the products by hand, one-hot inputs times the table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from subsetopt import SubsetTrainer
from subsetopt.data import load_dataset
from subsetopt.errors import UserError
from subsetopt.models import build_model
from subsetopt.models.embedded import embedding_width
from subsetopt.training.prediction.export import export_run


def table(path: Path, words: int = 30, rows: int = 400, gaps: bool = True) -> Path:
    """Targets follow the word: parity of its number."""
    draws = np.random.default_rng(4)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "town", "b", "y"])
        for row in range(rows):
            word = int(draws.integers(words))
            town = "" if gaps and row % 19 == 0 else ("once" + str(row) if row % 50 == 1 else f"town{word}")
            writer.writerow([f"{draws.normal():.3f}", town, f"{draws.normal():.3f}", "odd" if word % 2 else "even"])
    return path


def settings(path: Path, **more: Any) -> dict[str, Any]:
    return {"data_file": path, "target_column": "y", "embed_words": 20, "handoff": "none", "subset_frac": 0.8, **more}


def test_the_model_is_that_of_one_hot_words_times_the_table() -> None:
    model: Any = build_model("mlp", in_shape=(3,), n_outputs=2, embedded=((1, 5),), dtype=torch.float64)
    x = torch.tensor([[0.5, 0.0, 1.0], [-1.0, 4.0, 2.0]], dtype=torch.float64)
    table = model[0].tables[0].weight
    assert table.shape == (5, embedding_width(5)) and embedding_width(5) == 2
    hot = F.one_hot(x[:, 1].long(), 5).double() @ table
    torch.testing.assert_close(model(x), model[1](torch.cat([x[:, [0, 2]], hot], 1)))


def test_codes_are_those_of_the_words_of_training(tmp_path: Path) -> None:
    data = load_dataset("table", **{k: v for k, v in settings(table(tmp_path / "t.csv")).items() if k in KEYS})
    column = next(each for each in data.encoding.columns if each.name == "town")
    assert column.kind == "embedded" and all(word.startswith("town") for word in column.categories)
    assert data.encoding.features == ("a", "town", "b") and data.encoding.embedded == ((1, column.codes),)
    assert data.normalization.mean[1] == 0 and data.normalization.std[1] == 1
    with (tmp_path / "t.csv").open(newline="") as file:
        towns = [row["town"] for row in csv.DictReader(file)]
    for place, row in enumerate(data.train.rows.tolist()):
        known = column.categories.index(towns[row]) + 1 if towns[row] in column.categories else 0
        assert data.train.inputs[place, 1] == (known if towns[row] else column.codes - 1)


KEYS = ("data_file", "target_column", "embed_words")


def test_a_run_learns_the_words_predicts_new_ones_and_is_exported(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv")
    run = tmp_path / "run"
    fitted = SubsetTrainer("mlp", "table", output=run, l2=1e-4, max_iterations=150, **settings(path)).fit()
    assert fitted.result["metrics"]["validation"]["accuracy"] > 0.85
    column = next(each for each in fitted.result["dataset"]["encoding"]["columns"] if each["name"] == "town")
    codes = 1 + len(column["categories"]) + 1
    width = embedding_width(codes)
    assert fitted.result["model"]["parameters"] == codes * width + (2 + width) * 16 + 16 + 16 * 2 + 2
    frame = {"a": np.zeros(3), "town": np.array(["town3", "nowhere", ""], dtype=object), "b": np.zeros(3)}
    loaded = SubsetTrainer.load(run)
    first, *rest = loaded.predict(Frame(frame)).tolist()
    assert first == "odd" and {*rest} <= {"odd", "even"}
    assert export_run(run, "torch").difference <= 1e-6
    assert export_run(run, "torchscript").difference <= 1e-6


class Frame(dict[str, Any]):
    """The least that has named columns."""

    @property
    def columns(self) -> list[str]:
        return list(self)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self["a"]), len(self)

    def __len__(self) -> int:
        return len(self["a"])


@pytest.mark.parametrize("solver", ["newton-cg", "kfac-stream"])
def test_curvature_knows_the_vectors(solver: str, tmp_path: Path) -> None:
    limit = {"solver_epochs": 20} if solver == "kfac-stream" else {"max_iterations": 15}
    given = settings(table(tmp_path / "t.csv"), solver=solver, **limit)
    result = SubsetTrainer("mlp", "table", l2=1e-4, **given).fit().result
    assert result["metrics"]["train"]["accuracy"] > 0.8


def test_a_model_without_embeddings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"embed_words = 20: has no use with the data set digits"):
        SubsetTrainer("mlp", "digits", embed_words=20).fit()
    with pytest.raises(UserError, match=r"embed_words = 20: a model that is given as an object"):
        SubsetTrainer(torch.nn.Linear(3, 2), "table", **settings(table(tmp_path / "t.csv"))).fit()
