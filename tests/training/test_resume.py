"""A run killed at any moment resumes to the bit-identical parameters of an uninterrupted run."""

import json
import signal
import time
from pathlib import Path

import pytest

COMMON = ["--dataset", "digits", "--subset-frac", "0.2", "--quiet", "--checkpoint-seconds", "0"]
RUNS = {
    "warmup-lbfgs-sgd": [
        "--warmup",
        "adam",
        "--solver",
        "lbfgs",
        "--max-iterations",
        "25",
        "--handoff",
        "sgd",
        "--handoff-epochs",
        "2",
    ],
    "ncg-full": ["--solver", "ncg", "--max-iterations", "20", "--handoff", "full", "--handoff-epochs", "8"],
    "newton-adam": ["--solver", "newton-cg", "--max-iterations", "6", "--handoff", "adam", "--handoff-epochs", "2"],
    "kfac-stream": ["--solver", "kfac-stream", "--handoff", "full", "--handoff-epochs", "3"],
    "held-out": ["--stop-at", "validation", "--max-iterations", "60", "--handoff", "none"],
    "dropout-batchnorm": [
        "--model",
        "mlp",
        "--model-arg",
        "dropout=0.2",
        "--model-arg",
        "batch_norm=true",
        "--max-iterations",
        "8",
        "--handoff",
        "sgd",
        "--handoff-epochs",
        "2",
    ],
}


def finish(process):
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def lines_of(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def stop_when(process, run, lines, number):
    """Send signal `number` once the run has recorded `lines` iterations."""
    while process.poll() is None and lines_of(run) < lines:
        time.sleep(0.002)
    process.send_signal(number)
    return finish(process)


@pytest.mark.parametrize("name", RUNS)
def test_killed_runs_end_bit_identical(name, tmp_path, start_command):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    code, errors = finish(start_command("train", *COMMON, *RUNS[name], "--output", whole))
    assert code == 0, errors
    total = lines_of(whole)

    stop_when(start_command("train", *COMMON, *RUNS[name], "--output", cut), cut, total // 4, signal.SIGKILL)
    stop_when(start_command("resume", cut, "--quiet"), cut, 3 * total // 4, signal.SIGKILL)
    code, errors = finish(start_command("resume", cut, "--quiet"))
    assert code == 0, errors

    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    results = [json.loads((run / "result.json").read_text()) for run in (whole, cut)]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["cost"]["by_purpose"] == results[1]["cost"]["by_purpose"]
    losses = [[json.loads(line)["loss"] for line in (run / "metrics.jsonl").open()] for run in (whole, cut)]
    assert losses[0] == losses[1]


def test_a_signal_saves_says_how_to_resume_and_exits_130(tmp_path, start_command):
    run = tmp_path / "run"
    arguments = ["--max-iterations", "5000", "--gtol", "1e-12", "--handoff", "none", "--output", run]
    code, errors = stop_when(start_command("train", *COMMON, *arguments), run, 5, signal.SIGINT)
    assert code == 130
    assert f"subsetopt resume {run}" in errors
    assert "Traceback" not in errors
    assert not (run / "result.json").exists()
    saved = json.loads((run / "state.json").read_text())
    assert saved["phase_state"]["solver"]


def test_resuming_a_finished_run_changes_nothing(tmp_path, start_command):
    run = tmp_path / "run"
    code, errors = finish(
        start_command("train", *COMMON, "--max-iterations", "3", "--handoff", "none", "--output", run)
    )
    assert code == 0, errors
    before = (run / "model.safetensors").read_bytes()
    code, errors = finish(start_command("resume", run, "--quiet"))
    assert code == 0, errors
    assert (run / "model.safetensors").read_bytes() == before
