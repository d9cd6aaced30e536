"""`subsetopt predict` on new data, mistakes in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

RNG = np.random.default_rng(0)
X = 1e4 * (RNG.normal(size=(200, 3)) + 2)
Y = 1e5 * np.tanh(X[:, 0] / 1e4 - 2) + 5e5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from subsetopt import SubsetTrainer

    folder = tmp_path_factory.mktemp("predict")
    np.savez(folder / "data.npz", x_train=X, y_train=Y)
    np.savez(folder / "new.npz", x=X[:20])
    quick = {"subset_frac": 0.5, "max_iterations": 30, "handoff": "none"}
    SubsetTrainer("mlp", "npz", data_file=folder / "data.npz", output=folder / "runs" / "first", **quick).fit()
    return folder


def test_predictions_in_the_units_of_the_data(cli: Any, folder: Path, tmp_path: Path) -> None:
    run, new, out = folder / "runs" / "first", folder / "new.npz", tmp_path / "out.csv"
    document = cli("predict", run, "--data-file", new, "--json").json
    assert document["rows"] == 20 and document["probabilities"] is None
    assert 1 - np.square(document["predictions"] - Y[:20]).mean() / Y[:20].var() > 0.9
    written = cli("predict", run, "--data-file", new, "--output", out)
    assert written.code == 0 and str(out) in written.out and len(out.read_text().splitlines()) == 21
    assert "20 in all" in cli("predict", run, "--data-file", new).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data-file", "missing.npz"], ["missing.npz", "no such file", "--data-file"]),
        (["--data-file", "narrow.npy"], ["narrow.npy", "(2,)", "(3,)"]),
        (["--data-file", "data.npz"], ["data.npz", "x_train", "name the inputs x"]),
        (["--data-file", "new.npz", "--output", "new.npz"], ["--output new.npz", "exists already"]),
        (["--data-file", "new.npz", "--output", "out.txt"], ["--output out.txt", ".csv"]),
    ],
)
def test_mistakes_are_one_line(
    cli: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(folder)
    np.save("narrow.npy", X[:, :2])
    outcome = cli("predict", "runs/first", *arguments)
    assert outcome.code == 2 and all(word in outcome.line for word in words), outcome.line
    assert "no" in cli("predict", "runs/none", "--data-file", "new.npz").line


def test_a_table_is_trained_shown_and_predicted_by_two_commands(cli: Any, tmp_path: Path) -> None:
    rows = [f"{place % 7},{'red' if place % 3 else ''},{'yes' if place % 7 > 3 else 'no'}" for place in range(60)]
    data, new, out = tmp_path / "a.csv", tmp_path / "new.csv", tmp_path / "p.csv"
    data.write_text("\n".join(["size,colour,answer", *rows]))
    new.write_text("colour,size\nblue,6\nred,0\n")
    given = ["--dataset", "table", "--data-file", data, "--target", "answer", "--subset-frac", "1", "--handoff", "none"]
    trained = cli("train", *given, "--output", tmp_path / "run")
    assert trained.code == 0
    assert "--data-file NEW.csv" in trained.out
    assert trained.err.index("colour  one-hot: 1 word; ") < trained.err.index("1/1 lbfgs")
    found = cli("predict", tmp_path / "run", "--data-file", new, "--output", out)
    assert found.code == 0
    assert "column 'colour': not in training: blue (1 row)" in found.err
    assert [line.split(",")[1] for line in out.read_text().splitlines()] == ["prediction", "yes", "no"]
    wrong = cli("train", *given[:5], "answr", "--output", tmp_path / "none")
    assert wrong.code == 2
    assert "--target answr: " in wrong.line and "did you mean 'answer'?" in wrong.line
    assert not (tmp_path / "none").exists()
