"""A run that changes hands: three ranks, then two, then one process; and what a lost rank leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subsetopt.training.resume import resume_run
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config

Launch = Callable[..., Any]

SETTINGS = {
    "dataset": "npz",
    "model": "mlp",
    "dtype": "float64",
    "max_iterations": 60,
    "gtol": 1e-12,
    "checkpoint_seconds": 0.0,
    "rank_timeout": 25.0,  # torchrun kills those left after 30 s, and gloo does not always see a dead rank at once
    "handoff_epochs": 2.0,
    "handoff": "p-sgd",
}
SHARED = {"subset_frac": 0.6, "solver_args": {"memory": 10, "shard_memory": True}}
DEALT_OUT = {"subset_frac": 0.1, "subsets": 5, "subsets_then": "resolve", "solver_args": {"memory": 10}}


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """Return 400 noisy points of three classes; a subset of 216, and 360 in all, are no multiples of all of 2 and 3."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(401, 10))
    y = np.argmax(x @ draw.normal(size=(10, 3)) + 0.5 * draw.normal(size=(401, 3)), axis=1)
    np.savez(tmp_path / "points.npz", x_train=x, y_train=y)
    return tmp_path / "points.npz"


def flags(settings: dict[str, Any]) -> list[str]:
    plain = {name: value for name, value in settings.items() if name != "solver_args"}
    solver = [f"--solver-arg={name}={value}" for name, value in settings["solver_args"].items()]
    return [*solver, *(f"--{name.replace('_', '-')}={value}" for name, value in plain.items())]


def recorded(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def wait_for(run: Path, lines: int, process: subprocess.Popen[str]) -> None:
    while recorded(run) < lines and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


def child_with_rank(parent: int, rank: int) -> int:
    """Return the process of a rank that torchrun has started."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status, environment = (entry / "status").read_text(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"PPid:\t{parent}\n" in status and f"RANK={rank}".encode() in environment.split(b"\0"):
            return int(entry.name)
    raise AssertionError("torchrun has no such child")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds torchrun's children in /proc")
@pytest.mark.parametrize("own", [SHARED, DEALT_OUT], ids=["shared", "dealt out"])
def test_a_run_survives_a_signal_and_a_death_and_changes_of_ranks(
    launch: Launch, tmp_path: Path, data_file: Path, own: dict[str, Any]
) -> None:
    run, settings = tmp_path / "run", SETTINGS | own
    arguments = ["-m", "subsetopt", "train", *flags(settings), f"--data-file={data_file}", f"--output={run}"]
    first, second, third = launch(3, *arguments)
    wait_for(run, 8, first.process)
    third.process.send_signal(signal.SIGTERM)
    ends = [rank.finish() for rank in (first, second, third)]
    assert [code for code, _, _ in ends] == [130] * 3, ends
    assert f"subsetopt resume {run}" in ends[0][2]
    assert [out + err for _, out, err in ends[1:]] == ["", ""], "rank 0 alone speaks"

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    agent = subprocess.Popen(
        [*torchrun, "-m", "subsetopt", "resume", str(run)], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(run, recorded(run) + 8, agent)
        os.kill(child_with_rank(agent.pid, 1), signal.SIGKILL)
        _, errors = agent.communicate(timeout=400)
    finally:
        agent.kill()
    assert agent.returncode == 1
    lines = [line for line in errors.splitlines() if line.startswith("Error:")]
    assert len(lines) == 1, errors
    (line,) = lines
    assert "rank 0 of 2: another rank has died or hung" in line and f"`subsetopt resume {run}`" in line
    assert not (run / "result.json").exists()

    resumed = resume_run(run, figure=False).result
    whole = train(make_config(settings, {"data_file": data_file}), keep=False).result
    assert resumed["solve"]["loss"] == pytest.approx(whole["solve"]["loss"], rel=1e-10)
    assert resumed["handoff"]["loss"] == pytest.approx(whole["handoff"]["loss"], rel=1e-8)
    assert resumed["cost"]["by_purpose"] == whole["cost"]["by_purpose"]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    iterations = [record["iteration"] for record in records if record["phase"] == 0]
    if own is SHARED:
        assert iterations == list(range(61)), "one line per iteration, whoever wrote it"
        return
    dealt, one_by_one = (result["phases"][0] for result in (resumed, whole))
    assert dealt["subsets"]["minima"] == one_by_one["subsets"]["minima"]
    assert iterations == sorted(iterations) and iterations[-1] == dealt["iterations"] == one_by_one["iterations"]
    assert len(iterations) < iterations[-1], "solves that went on side by side"
