"""The main job end to end on the embedded digits, small: train, resume, evaluate, and what they print."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SMALL = ("--model-arg", "widths=8", "--max-iterations", "15", "--handoff-epochs", "6")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small run that several tests read."""
    from subsetopt_cli.main import run

    directory = tmp_path_factory.mktemp("finished") / "run"
    assert run(["train", "--quiet", "--output", str(directory), "--model", "mlp", *SMALL]) == 0
    return directory


def test_json_is_the_result_of_the_run_and_nothing_else_is_on_standard_output(cli: Any) -> None:
    outcome = cli("train", "--json", "--output", "a", *SMALL)
    assert outcome.code == 0, outcome.err
    document = outcome.json
    assert document.pop("directory") == "a"
    assert document == json.loads(Path("a/result.json").read_text())
    assert document["phases"][0]["samples"] == document["overdetermination"]["samples"]


def test_summary_and_figure_without_any_flag_but_the_size(cli: Any) -> None:
    outcome = cli("train", *SMALL)
    assert outcome.code == 0, outcome.err
    assert "Overdetermination ratio" in outcome.out and "Next" in outcome.out
    assert "1/2 lbfgs on" in outcome.err, "progress goes to standard error"
    (directory,) = Path("runs").iterdir()
    assert str(directory) in outcome.out
    assert (directory / "loss.png").stat().st_size > 5000


def test_quiet_prints_the_directory_only(cli: Any) -> None:
    outcome = cli("train", "--quiet", "--output", "b", "--handoff", "none", *SMALL)
    assert (outcome.code, outcome.out, outcome.err) == (0, "b\n", "")


def test_flags_override_the_file_and_the_file_overrides_defaults(cli: Any) -> None:
    Path("my.toml").write_text('subset_frac = 0.3\nl2 = 0.01\nhandoff = "none"\n')
    document = cli("train", "--config", "my.toml", "--subset-size", "200", "--json", "--output", "c", *SMALL).json
    assert document["overdetermination"]["drawn"] == 200
    assert document["handoff"] is None
    assert "l2 = 0.01" in Path("c/config.toml").read_text()


def test_a_file_may_list_its_own_phases(cli: Any) -> None:
    phases = """
        model = "mlp"
        [[phase]]
        method = "adam"
        epochs = 0.2
        [[phase]]
        method = "lbfgs"
        data = "full"
        max_iterations = 3
    """
    Path("phases.toml").write_text(textwrap.dedent(phases))
    document = cli("train", "--config", "phases.toml", "--json", "--output", "d").json
    assert [(phase["method"], phase["data"]) for phase in document["phases"]] == [("adam", "subset"), ("lbfgs", "full")]


def test_the_configuration_of_a_run_reproduces_it(cli: Any, finished: Path) -> None:
    again = cli("train", "--config", finished / "config.toml", "--json", "--output", "e").json
    first = json.loads((finished / "result.json").read_text())
    assert again["metrics"] == first["metrics"] and again["solve"]["loss"] == first["solve"]["loss"]


def test_what_a_users_factory_prints_does_not_spoil_the_json(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talkative_factory.py").write_text(
        "import torch\n"
        "def make(in_shape, n_outputs, width):\n"
        "    print('hello from the factory')\n"
        "    size = torch.Size(in_shape).numel()\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, width), torch.nn.Tanh(),\n"
        "                               torch.nn.Linear(width, n_outputs))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    outcome = cli(
        "train",
        "--model",
        "talkative_factory:make",
        "--model-arg",
        "width=4",
        "--max-iterations",
        "2",
        "--handoff",
        "none",
        "--json",
        "--output",
        "f",
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json["model"]["parameters"] == 64 * 4 + 4 + 4 * 10 + 10
    assert "hello from the factory" in outcome.err


def test_require_ratio_refuses_before_anything_is_written(cli: Any) -> None:
    outcome = cli("train", "--require-ratio", "1000", "--output", "g")
    assert outcome.code == 2
    assert outcome.line.startswith("Error: --require-ratio 1000: ")
    assert not Path("g").exists()


def test_a_ratio_below_one_is_a_warning(cli: Any) -> None:
    outcome = cli(
        "train",
        "--model",
        "mlp",
        "--model-arg",
        "widths=64",
        "--subset-size",
        "50",
        "--max-iterations",
        "2",
        "--handoff",
        "none",
        "--output",
        "h",
    )
    assert outcome.code == 0
    assert "Warning: " in outcome.err and "Warnings" in outcome.out


@pytest.mark.parametrize("stop_after", [1, 18])
def test_an_interrupted_run_says_how_to_resume_and_resumes_to_the_same_result(
    cli: Any, finished: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    import os
    import signal

    from subsetopt_cli.bars import Bars

    update, calls = Bars.update, []

    def update_and_interrupt(self: Bars, record: Any) -> None:
        update(self, record)
        calls.append(record)
        if len(calls) == stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Bars, "update", update_and_interrupt)
    stopped = cli("train", "--output", "i", "--model", "mlp", *SMALL)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1] == "Interrupted; resume with: subsetopt resume i"
    assert stopped.out == "" and not Path("i/result.json").exists()
    resumed = cli("resume", "i", "--json")
    assert resumed.code == 0, resumed.err
    first = json.loads((finished / "result.json").read_text())
    assert resumed.json["metrics"] == first["metrics"]
    assert Path("i/model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_evaluate_repeats_the_metrics_of_the_run(cli: Any, finished: Path) -> None:
    metrics = json.loads((finished / "result.json").read_text())["metrics"]
    document = cli("evaluate", finished, "--json").json
    shown = {split: values for split, values in metrics.items() if split != "subset"}
    assert document == {"directory": str(finished), "metrics": shown, "notes": []}
    table = cli("evaluate", finished, "--split", "test").out.splitlines()
    assert table[0].split() == ["data", "loss", "accuracy"]
    assert table[1].split() == [
        "test",
        f"{metrics['test']['loss']:.4g}",
        f"{100 * metrics['test']['accuracy']:.2f}",
        "%",
    ]


@pytest.mark.parametrize("preset", ["digits"])
def test_preset_by_name(cli: Any, preset: str) -> None:
    document = cli("train", "--config", preset, "--max-iterations", "2", "--handoff", "none", "--json").json
    assert document["dataset"]["name"] == "digits"


def test_the_classes_of_ones_own_file_and_the_task_are_the_users(cli: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    labels = np.array(["cat", "dog"])[(x[:, 0] > 0).astype(int)]
    np.savez("words.npz", x_train=x, y_train=labels)
    own = ("train", "--dataset", "npz", "--data-file", "words.npz", "--max-iterations", "2", "--handoff", "none")
    result = cli(*own, "--json").json
    assert result["dataset"]["class_names"] == ["cat", "dog"] and result["overdetermination"]["outputs"] == 2
    assert any("class labels cat, dog are numbered 0 to 1" in text for text in result["warnings"])
    np.savez("words.npz", x_train=x, y_train=np.arange(200))
    for command in ("train", "plan", "ratio", "compare"):
        outcome = cli(command, *own[1:5])
        assert outcome.code == 2 and "for quantities use --task regression" in outcome.line
    assert cli(*own, "--task", "regression", "--json").json["dataset"]["task"] == "regression"
    Path("own.toml").write_text('dataset = "npz"\ndata_file = "words.npz"\ntask = "regression"\nmax_iterations = 2')
    assert cli("train", "--config", "own.toml", "--handoff", "none", "--json").json["dataset"]["n_outputs"] == 1
    outcome = cli("train", "--dataset", "digits", "--image-size", "16")
    assert outcome.code == 2 and "--image-size 16,16: has no use with the data set digits" in outcome.line
