"""Every mistake that the command line can see: one line on standard error, exit code 2, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_X, _Y = np.zeros((40, 3), dtype=np.float32), np.arange(40) % 2


def _npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--subset-frac", "0"], "--subset-frac 0: "),
        (["--subset-frac", "1.5"], "--subset-frac 1.5: "),
        (["--subset-frac", "abc"], "--subset-frac abc: "),
        (["--subset-frac", "nan"], "--subset-frac nan: "),
        (["--subset-frac", "0.1", "--subset-size", "10"], "not both"),
        (["--subset-size", "0"], "--subset-size 0: "),
        (["--subset-size", "5"], "class"),
        (["--subset-size", "1000000"], "--subset-size 1000000: "),
        (["--dataset", "mnits"], "did you mean 'mnist'?"),
        (["--dataset", "mnist", "--data-dir", "empty"], "download"),
        (["--dataset", "npz"], "--data-file: "),
        (["--dataset", "npz", "--data-file", "missing.npz"], "missing.npz"),
        (["--model", "mpl"], "did you mean 'mlp'?"),
        (["--model", "no_such_package:factory"], "no_such_package"),
        (["--model", "json:no_such_factory"], "no_such_factory"),
        (["--model", "json:loads"], "json:loads"),
        (["--model-arg", "width"], "key=value"),
        (["--model-arg", "no_such_setting=3"], "no_such_setting"),
        (["--solver", "lbgfs"], "did you mean 'lbfgs'?"),
        (["--solver-arg", "no_such_setting=3"], "no_such_setting"),
        (["--handoff", "adamm"], "adam"),
        (["--warmup", "adamm"], "--warmup adamm: "),
        (["--stop-at", "never"], "--stop-at never: "),
        (["--stop-at", "validation", "--validation-fraction", "0"], "validation"),
        (["--dtype", "float16"], "--dtype float16: "),
        (["--device", "tpu"], "--device tpu: "),
        (["--l2", "-1"], "--l2 -1: "),
        (["--l2", "inf"], "--l2 inf: "),
        (["--gtol", "0"], "--gtol 0: "),
        (["--max-iterations", "0"], "--max-iterations 0: "),
        (["--max-epochs", "0"], "--max-epochs 0: "),
        (["--chunk-size", "none-at-all"], "--chunk-size none-at-all: "),
        (["--augment-copies", "-1"], "--augment-copies -1: "),
        (["--seed", "x"], "--seed x: "),
        (["--loss", "mse"], "--loss mse: "),
        (["--solver", "none", "--handoff", "none"], "nothing would be trained"),
        (["--config", "digit"], "did you mean 'digits'?"),
        (["--config", "missing.toml"], "no such file"),
        (["--config", "broken.toml"], "broken.toml"),
        (["--config", "typo.toml"], "did you mean 'subset_frac'?"),
        (["--config", "badphase.toml"], "phase"),
        (["--output", "exists"], "exists already"),
        (["--output", "file"], "is a file"),
        (["--output", "file/inside"], "file/inside"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistake_in_a_flag(cli: Any, flags: list[str], words: str) -> None:
    Path("empty").mkdir()
    Path("exists").mkdir()
    Path("file").touch()
    Path("broken.toml").write_text("l2 = = 3")
    Path("typo.toml").write_text("subset_fraq = 0.1")
    Path("badphase.toml").write_text('[[phase]]\nmethod = "lbfgs"\ngtol = -1.0')
    before = sorted(Path.cwd().rglob("*"))
    outcome = cli("train", *flags)
    assert outcome.code == 2, outcome.err
    assert outcome.line.startswith("Error: ") and words in outcome.line
    assert sorted(Path.cwd().rglob("*")) == before, "nothing half-written"


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x_train": _X}, "y_train"),
        ({"x_train": _X, "y_train": _Y[:-1]}, "39"),
        ({"x_train": np.where(_X == 0, np.nan, _X), "y_train": _Y}, "NaN"),
        ({"x_train": _X, "y_train": 0 * _Y}, "y_train"),
        ({"x_train": _X.astype(object), "y_train": _Y}, "x_train"),
    ],
    ids=["missing array", "other length", "NaN", "one class", "objects"],
)
def test_mistake_in_a_file_of_ones_own(cli: Any, arrays: dict[str, Any], words: str) -> None:
    _npz(Path("mine.npz"), **arrays)
    outcome = cli("train", "--dataset", "npz", "--data-file", "mine.npz", "--output", "run")
    assert outcome.code == 2, outcome.err
    assert words.lower() in outcome.line.lower()
    assert not Path("run").exists()


def test_a_file_that_is_no_npz(cli: Any) -> None:
    Path("mine.npz").write_text("no archive")
    outcome = cli("train", "--dataset", "npz", "--data-file", "mine.npz")
    assert outcome.code == 2 and "mine.npz" in outcome.line


def test_a_model_of_the_wrong_output_shape(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong_shape_factory.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    outcome = cli("train", "--model", "wrong_shape_factory:make", "--output", "run")
    assert outcome.code == 2 and "7" in outcome.line and "10" in outcome.line
    assert not Path("run").exists()


def test_a_gpu_that_is_not_there(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = cli("train", "--device", "cuda")
    assert outcome.code == 2 and "--device cuda: " in outcome.line and "--device cpu" in outcome.line


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_a_directory_that_is_no_run(cli: Any, command: str) -> None:
    Path("empty").mkdir()
    for name in ("empty", "missing"):
        outcome = cli(command, name)
        assert outcome.code == 2 and name in outcome.line


def test_a_full_disk_in_mid_run_is_one_line_with_the_path(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from subsetopt.training import run_directory

    fsync, calls = run_directory.os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 6:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(run_directory.os, "fsync", full)
    outcome = cli("train", "--output", "run", "--max-iterations", "3", "--handoff", "none")
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith("Error: output = 'run/")
    assert "No space left on device" in outcome.err and "Traceback" not in outcome.err
    assert not list(Path("run").glob(".*.tmp"))


def test_a_command_that_runs_alone_is_refused_under_torchrun(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli("compare").line == "Error: command = 'compare': it runs in one process; start it without torchrun"
    monkeypatch.setenv("RANK", "1")
    assert cli("compare").err == "", "rank 0 tells it"


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("compare",), "--tune rate,l2"),
        (("compare", "--methods", "sgd,adam"), "--tune rate,l2"),
        (("study", "representativeness"), "`subsetopt train`"),
        (("learn-curve",), "`subsetopt train`"),
        (("plan",), "`subsetopt train`"),
    ],
)
def test_several_l2_strengths_are_refused_by_their_flag_where_one_is_needed(
    cli: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], remedy: str
) -> None:
    output = () if arguments[0] == "plan" else ("--output", str(tmp_path / "out"))
    outcome = cli(*arguments, "--dataset", "digits", "--l2", "1e-2,1e-3", *output)
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert outcome.err.startswith("Error: --l2 0.01,0.001: are several strengths") and remedy in outcome.err
    assert not (tmp_path / "out").exists()
    assert "--l2 X " in cli(*arguments, "--help").out


@pytest.mark.parametrize(
    ("command", "flag", "value", "problem"),
    [
        ("train", "--l2", "1e-3,1e-3", "has a strength twice"),
        ("train", "--l2", "0.001,1e-2,1e-3", "has a strength twice"),
        ("study representativeness", "--fractions", "0.1,0.2,0.1", "has a share twice"),
        ("learn-curve", "--fractions", "0.1,0.2,0.10", "has a share twice"),
        ("compare", "--seeds", "1,1", "none twice"),
    ],
)
def test_what_a_list_has_twice_is_refused_in_all_of_them(
    cli: Callable[..., Any], tmp_path: Path, command: str, flag: str, value: str, problem: str
) -> None:
    outcome = cli(*command.split(), "--dataset", "digits", flag, value, "--output", tmp_path / "out")
    assert outcome.code == 2
    assert outcome.line.startswith(f"Error: {flag} ")
    assert problem in outcome.line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["compare-digits", "mine.toml"])
def test_the_file_of_a_comparison_is_no_run(cli: Any, name: str) -> None:
    Path("mine.toml").write_text('seeds = 2\nmodel = "linear"\n')
    result = cli("train", "--config", name, "--output", "r")
    assert result.code == 2 and f"--config {name}: is a study of several methods" in result.err
    assert len(result.err.splitlines()) == 1 and not Path("r").exists()


def test_a_flag_without_effect_beside_listed_phases_is_said(cli: Any) -> None:
    Path("p.toml").write_text('model = "linear"\n[[phase]]\nmethod = "sgd"\ndata = "full"\nepochs = 1\n')
    result = cli("train", "--config", "p.toml", "--handoff", "adam", "--output", "r")
    assert result.code == 0 and "--handoff: no effect beside [[phase]]" in result.err
    assert "no effect" not in cli("train", "--config", "p.toml", "--output", "s").err
