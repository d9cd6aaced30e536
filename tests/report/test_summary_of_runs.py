"""The summary of every kind of run: what applies to its method, whether it is good, and what to do next."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from subsetopt_cli.options import key_values

from subsetopt.compare.methods import parse_method
from subsetopt.documents.run import RunDocument
from subsetopt.errors import SettingError
from subsetopt.report import summary
from subsetopt.report.next_steps import next_steps
from subsetopt.report.rating import rating
from subsetopt.training.preparation import prepare
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config

SMALL: dict[str, Any] = {"dataset": "digits", "model": "linear", "subset_frac": 0.1, "l2": 0.1}


def run_of(path: Path, **settings: Any) -> tuple[str, dict[str, Any]]:
    """Run, and return the summary, each paragraph on one line, with the result."""
    outcome = train(make_config(SMALL, settings, {"output": path}), figure=False)
    text = summary(outcome.result, outcome.directory)
    assert max(len(line) for line in text.split("Files in")[0].splitlines()) <= 110
    return " ".join(text.split()), outcome.result


def commands(text: str) -> list[str]:
    """Return the commands of the "Next" part, without their operands."""
    return re.findall(r"subsetopt (\w+)", text.rpartition(" Next ")[2])


def test_a_subset_minimum_and_a_handoff(tmp_path: Path) -> None:
    text, result = run_of(tmp_path / "run", handoff_epochs=1)
    assert commands(text)[:3] == ["verify", "ratio", "compare"] and "--effective" in text
    assert " 1 epoch-equivalent in" in text and " 1 epoch-equivalents" not in text
    constant = 100 * result["assessment"]["baseline"]["validation"]["accuracy"]
    reached = 100 * result["metrics"]["validation"]["accuracy"]
    assert f"accuracy {reached:.2f} %, always predicting the largest class {constant:.2f} %" in text
    before = 100 * result["metrics_before_handoff"]["validation"]["accuracy"]
    found = re.search(r"The hand-off (did not improve|improved) it: ([\d.]+) % at the subset minimum", text)
    assert found and float(found[2]) == round(before, 2) and (found[1] == "improved") == (reached > before)
    assert "MNIST" not in text


@pytest.mark.parametrize(
    "settings",
    [{"solver": "kfac-stream", "solver_epochs": 1, "handoff": "none"}, {"solver": "none", "handoff_epochs": 1}],
)
def test_without_a_subset_nothing_is_said_of_one(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Before: Q, loss and accuracy of a subset that was drawn and never used."""
    text, result = run_of(tmp_path / "run", **settings)
    assert list(result["metrics"]) == ["train", "validation", "test"]
    assert "subset_frac=0.1 has no effect" in text  # the only place that names one
    said = text.partition(" Files in ")[0].partition(" Warnings ")[0]
    assert not re.search(r"\bsubset(?!opt)", said)
    assert "of all training data Q = N·M/P" in text and commands(text) == ["compare", "evaluate", "predict"]


@pytest.mark.parametrize(
    "settings",
    [{"solver": "kfac-stream", "handoff": "none"}, {"solver": "none"}, {"subset_frac": 1.0, "solver": "none"}],
)
def test_q_that_counts_is_that_of_what_is_trained_on(settings: dict[str, Any]) -> None:
    """Before: a warning of the Q of a subset that nobody drew; digits have Q = 2.7 with 4810 parameters."""
    wide = {"dataset": "digits", "model": "mlp", "model_args": {"widths": 64}}
    assert not [text for text in prepare(make_config(wide, settings)).run.warnings if text.startswith("Q = ")]
    assert [text for text in prepare(make_config(wide)).run.warnings if text.startswith("Q = 0.268")]
    with pytest.raises(SettingError, match=r"the training set has Q = K M / P = 2\.69") as caught:
        prepare(make_config(wide, settings, {"require_ratio": 3.0}))
    assert str(caught.value).endswith("; use a smaller model")
    with pytest.raises(SettingError, match="the subset has Q"):
        prepare(make_config(wide, {"require_ratio": 1.0}))


def test_growing_subsets_and_several(tmp_path: Path) -> None:
    text, _ = run_of(tmp_path / "grow", grow=3, start=0.03, handoff="none")
    assert "1. growing: lbfgs on" in text and commands(text)[:2] == ["verify", "ratio"]
    text, _ = run_of(tmp_path / "several", subsets=2, handoff="none")
    assert "Their average" in text and "verify" not in commands(text)


def test_a_solve_that_met_its_limit_goes_on(tmp_path: Path) -> None:
    text, _ = run_of(tmp_path / "limit", max_iterations=3, handoff="none")
    assert f"subsetopt resume {tmp_path / 'limit'} --max-iterations 6" in text and "verify" not in commands(text)
    text, _ = run_of(tmp_path / "budget", max_epochs=1, handoff="none")
    assert "--max-epochs 2 " in text.rpartition(" Next ")[2]
    text, _ = run_of(tmp_path / "before", max_iterations=3, handoff_epochs=1)
    assert f"train --config {tmp_path / 'before'}/config.toml --max-iterations 6 --output NEW" in text


def test_regression_against_the_mean(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(200, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=x @ np.array([1.0, 2.0, 3.0], np.float32))
    own = {"dataset": "npz", "data_file": tmp_path / "data.npz", "l2": 1e-3, "subset_frac": 0.5}
    text, _ = run_of(tmp_path / "run", handoff="none", **own)
    assert "Result better than a constant prediction: validation mse" in text and "R²" in text
    assert f"--dataset npz --data-file {tmp_path / 'data.npz'}" in text


def test_a_harmful_handoff_names_the_better_parameters(tmp_path: Path) -> None:
    text, _ = run_of(tmp_path / "run", handoff_lr=1e3, handoff_epochs=2)
    assert text.startswith("CHECK FIRST") and "the subset minimum is better than the hand-off" in text.lower()
    assert "use model-best.safetensors" in text


@pytest.mark.parametrize(("accuracy", "words"), [(0.9, "Result better than"), (0.11, "more than chance"), (0.05, "no")])
def test_rating_by_the_binomial_error(result: dict[str, Any], accuracy: float, words: str) -> None:
    """143 rows, a tenth of them of the largest class: two standard errors are 2 sqrt(0.1 · 0.9 / 143) = 0.05."""
    result["assessment"] = {"split": "validation", "baseline": {"validation": {"loss": 2.3, "accuracy": 0.1}}}
    result["metrics"]["validation"] = {"loss": 1.0, "accuracy": accuracy}
    text = rating(RunDocument.read(result)) or ""
    assert words in text and ("no better" in text) == (accuracy < 0.15)


def test_a_run_of_python_objects_is_offered_no_command_that_cannot_load_them(
    result: dict[str, Any], run_directory: Path
) -> None:
    (run_directory / "config.toml").write_text('model = "(given as an object)"\ndataset = "digits"\n')
    assert commands(" ".join(summary(result, run_directory).split())) == ["report"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"handoff": "srs", "handoff_epochs": 0.1}, ["objective", "mini-batches, with L2"]),
        ({"warmup": "adamw", "warmup_epochs": 0.1}, ["mini-batches, without weight decay", "objective"]),
        ({"solver": "kfac-stream", "solver_epochs": 1.5, "handoff": "none"}, ["fresh batch before its step"]),
        ({"subsets": 2}, ["one subset after the other"]),
    ],
)
def test_every_phase_says_what_its_loss_is(tmp_path: Path, settings: dict[str, Any], expected: list[str]) -> None:
    base = {"handoff": "none", "max_iterations": 3}
    _, result = run_of(tmp_path / "run", **{**base, **settings})
    assert [phase["loss_of"] for phase in result["phases"]] == expected
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["loss_of"] for line in lines)) == expected


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"handoff": "srs", "handoff_epochs": 0.2}, "lbfgs@0.2+srs"),
        ({"handoff": "adam", "handoff_epochs": 0.2}, "lbfgs@0.2+adam"),
        (
            {"handoff": "rs2", "handoff_args": {"fraction": 0.3}, "handoff_optimizer": "adam", "handoff_epochs": 0.2},
            "lbfgs@0.2+rs2@0.3/adam",
        ),
        ({"handoff": "full", "handoff_epochs": 4}, "lbfgs@0.2+full"),
        ({"handoff": "none", "solver": "newton-cg"}, "newton-cg@0.2"),
        ({"handoff": "none", "solver": "kfac-stream", "solver_epochs": 1.5}, "kfac-stream"),
        ({"handoff": "none", "grow": 4.0, "grow_start": 0.05}, "lbfgs@0.05x4"),
        ({"solver": "none", "handoff": "full", "handoff_solver": "ncg", "handoff_epochs": 12}, "ncg"),
        ({"solver": "none", "handoff": "sgd", "handoff_epochs": 0.2}, "sgd"),
    ],
)
def test_the_comparison_that_is_suggested_is_of_the_run_itself(
    tmp_path: Path, settings: dict[str, Any], method: str
) -> None:
    """Reference: `compare` reads the name back to the settings of the run. Before: always lbfgs@0.1+sgd on an MLP."""
    given = {"max_iterations": 2, "subset_frac": 0.2, "model": "mlp", "model_args": {"widths": [7]}, **settings}
    run_of(tmp_path / "run", **given)
    result = RunDocument.read(json.loads((tmp_path / "run" / "result.json").read_text()))
    (command,) = [step for step, _ in next_steps(result, tmp_path / "run") if "compare" in step]
    words = shlex.split(command)
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--methods"] == f"{method},{'adam' if method == 'sgd' else 'sgd'}"
    assert options["--model"] == "mlp" and options["--dataset"] == "digits"
    stored = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert {key: stored.get(key) for key in parse_method(method).settings} == dict(parse_method(method).settings)
    assert key_values("--model-arg", [options["--model-arg"]]) == {"widths": [7]}


def test_the_budget_that_is_suggested_is_a_plain_number(tmp_path: Path) -> None:
    run_of(tmp_path / "run", max_iterations=2, subset_frac=0.2)
    result = RunDocument.read(json.loads((tmp_path / "run" / "result.json").read_text()))
    for cost, budget in ((0.3, "1"), (8.41, "8.4"), (451.9, "450"), (1_234_567.0, "1200000")):
        dear = result.model_copy(update={"cost": result.cost.model_copy(update={"epoch_equivalents": cost})})
        (command,) = [step for step, _ in next_steps(dear, tmp_path / "run") if "compare" in step]
        assert f"--budget {budget} " in command
