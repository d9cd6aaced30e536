"""`ratio` computes Q = K·M/P by hand-checkable arithmetic, for bare numbers, data sets and anyone's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

BARE = ("ratio", "--samples", "6000", "--outputs", "10", "--parameters", "500")


def test_bare_numbers(cli: Any) -> None:
    document = cli(*BARE, "--subset-frac", "0.1", "--json").json
    verdict = document.pop("verdict")
    assert document == {
        "parameters": 500,
        "samples": 600,
        "outputs": 10,
        "ratio": 600 * 10 / 500,
        "samples_full": 6000,
        "ratio_full": 6000 * 10 / 500,
    }
    assert isinstance(verdict, str) and verdict


def test_without_a_subset_k_is_the_training_set(cli: Any) -> None:
    document = cli(*BARE, "--json").json
    assert document["samples"] == document["samples_full"] == 6000


def test_target_is_the_smallest_subset_that_reaches_it(cli: Any) -> None:
    target = cli(*BARE, "--target", "2.01", "--json").json["target"]
    assert target == {"ratio": 2.01, "samples": 101, "fraction": 101 / 6000}
    assert 101 * 10 / 500 >= 2.01 > 100 * 10 / 500


def test_augmented_copies_raise_k_and_lower_the_target(cli: Any) -> None:
    document = cli(*BARE, "--subset-size", "100", "--augment-copies", "2", "--target", "2.01", "--json").json
    assert (document["samples"], document["ratio"], document["target"]["samples"]) == (300, 6.0, 34)


def test_a_target_beyond_the_training_set_is_said_so(cli: Any) -> None:
    assert cli(*BARE, "--target", "1000", "--json").json["target"]["fraction"] > 1
    assert "more than the training set has" in cli(*BARE, "--target", "1000").out


def test_the_task_decides_which_law_the_verdict_tells(cli: Any) -> None:
    assert "least squares" in cli(*BARE, "--task", "regression").out
    assert "least squares" not in cli(*BARE, "--task", "classification").out


def test_text_has_a_table_over_fractions(cli: Any) -> None:
    outcome = cli(*BARE)
    rows = [line.split() for line in outcome.out.splitlines() if " % " in line and line.strip()[0].isdigit()]
    assert ["10", "%", "600", "600", "12"] in rows and ["100", "%", "6000", "6000", "120"] in rows


def test_a_data_set_and_model_agree_with_what_train_reports(cli: Any) -> None:
    chosen = ("--dataset", "digits", "--model", "mlp", "--model-arg", "widths=8", "--subset-frac", "0.3")
    ratio = cli("ratio", *chosen, "--json").json
    trained = cli("train", *chosen, "--max-iterations", "1", "--handoff", "none", "--json").json["overdetermination"]
    assert {key: ratio[key] for key in ("parameters", "samples", "outputs", "ratio", "ratio_full", "verdict")} == {
        key: trained[key] for key in ("parameters", "samples", "outputs", "ratio", "ratio_full", "verdict")
    }
    assert ratio["parameters"] == 64 * 8 + 8 + 8 * 10 + 10


def test_frozen_and_shared_parameters_of_a_users_model_on_a_users_file(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez("mine.npz", x_train=np.zeros((50, 3), np.float32), y_train=np.zeros((50, 2), np.float32))
    (tmp_path / "frozen_factory.py").write_text(
        "import torch\n"
        "def make(in_shape, n_outputs):\n"
        "    shared = torch.nn.Linear(3, 3)\n"
        "    frozen = torch.nn.Linear(3, 3).requires_grad_(False)\n"
        "    return torch.nn.Sequential(shared, shared, frozen, torch.nn.Linear(3, n_outputs))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    document = cli(
        "ratio",
        "--dataset",
        "npz",
        "--data-file",
        "mine.npz",
        "--validation-fraction",
        "0",
        "--model",
        "frozen_factory:make",
        "--json",
    ).json
    assert document["parameters"] == 12 + 8
    assert document["ratio_full"] == 50 * 2 / 20


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--samples", "100"], "--outputs and --parameters"),
        (["--samples", "0", "--outputs", "1", "--parameters", "1"], "--samples"),
        (["--target", "0"], "--target"),
        (["--target", "nan"], "target"),
        (["--subset-frac", "1.5"], "--subset-frac 1.5"),
        ([*BARE[1:], "--subset-size", "7000"], "--subset-size 7000"),
        (["--dataset", "mnits"], "did you mean 'mnist'?"),
        (["--task", "ranking"], "--task"),
    ],
)
def test_mistakes_are_one_line(cli: Any, flags: list[str], words: str) -> None:
    outcome = cli("ratio", *flags)
    assert outcome.code == 2 and words in outcome.line


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from subsetopt_cli.main import run

    directory = tmp_path_factory.mktemp("effective") / "run"
    small = ("--model", "linear", "--subset-frac", "0.1", "--l2", "0.1", "--handoff", "none", "--quiet")
    assert run(["train", "--output", str(directory), *small]) == 0
    return directory


def test_the_effective_ratio_of_a_run(cli: Any, finished: Path) -> None:
    document = cli("ratio", "--effective", finished, "--excess", "0.05", "--rows", "4", "--json").json
    assert document["directory"] == str(finished) and document["samples"] == 129
    assert document["effective_ratio"] == pytest.approx(129 / document["effective_parameters"]["value"])
    assert document["target"]["relative_excess"] == 0.05 and document["observed"]["optimism"] > 0
    outcome = cli("ratio", "--effective", finished, "--excess", "0.05", "--subset-frac", "0.5", "--rows", "4")
    text = " ".join(outcome.out.split())
    for words in ("Effective ratio K/p", "tr(H^-1 C)", "this subset", "asked for", "is enough", "Loss on the full set"):
        assert words in text, words


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--excess", "0.1"], "--excess 0.1: needs --effective RUN"),
        (["--effective", "RUN", "--model", "mlp"], "leave out --model"),
        (["--effective", "RUN", "--target", "2"], "leave out --target"),
        (["--effective", "missing"], "missing"),
        (["--effective", "RUN", "--excess", "-1"], "--excess -1: "),
    ],
)
def test_mistakes_with_effective_are_one_line(cli: Any, finished: Path, flags: list[str], words: str) -> None:
    outcome = cli("ratio", *[str(finished) if flag == "RUN" else flag for flag in flags])
    assert outcome.code == 2 and words in outcome.line
