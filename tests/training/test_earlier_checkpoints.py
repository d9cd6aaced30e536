"""What format 3 has saved, written out by hand, reads as what is saved now; a run of format 4 goes on bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from subsetopt.saving import join
from subsetopt.solvers.protocol import StopReason
from subsetopt.training import make_config, train
from subsetopt.training.budget import Clock, PhaseBudget
from subsetopt.training.earlier_checkpoints import upgraded
from subsetopt.training.ledger import Ledger
from subsetopt.training.phases.kfac_stream.fresh_subsets import StreamCursor
from subsetopt.training.phases.kfac_stream.output_change import OutputChange
from subsetopt.training.phases.stopping import HeldOutTest
from subsetopt.training.resume import resume_run
from subsetopt.training.run_directory import MODEL, STATE, RunDirectory

BUDGET = {"began": 1.5, "affordable": 4.0, "end": "budget", "began_seconds": 2.0, "affordable_seconds": float("inf")}


@dataclass
class Streaming:
    """The fields of a streaming state that format 3 kept elsewhere."""

    w: torch.Tensor
    random: dict[str, torch.Tensor]
    budget: PhaseBudget
    place: StreamCursor
    change: OutputChange
    checks: dict[str, Any]
    iterations: int
    stopped: StopReason | None


def test_the_parts_of_a_streaming_phase_are_found() -> None:
    best, rows = torch.tensor([3.0]), torch.tensor([1, 2])
    tensors = {
        "w": torch.tensor([1.0]),
        "random/cpu": torch.tensor([7]),
        "change/rows": rows,
        "change/outputs": torch.ones(2, 1),
        "checks/best/best_w": best,
        "checks/buffers/bn.mean": torch.ones(1),
    }
    counters = {"best_loss": 0.25, "checks_without_gain": 2}
    numbers: dict[str, Any] = {
        "parts": {
            "random": {},
            "place": {"epoch": 1, "position": 2, "chunk": 3},
            "change": {"seen": 0.5, "foreseen": 0.25, "step": 0.0, "trials": 0},
            "checks": {"best": {}, "buffers": {}, "counters": counters, "interval": 1.0, "due": 9.0},
        },
        **BUDGET,
        "iterations": 12,
        "stopped": None,
    }
    ledger, clock = Ledger(1, {}), Clock()
    state = join(Streaming, *upgraded(tensors, numbers), ledger=ledger, clock=clock)
    assert state.budget == PhaseBudget(ledger, clock, 1.5, 4.0, StopReason.BUDGET, 2.0)
    assert state.place == StreamCursor(1, 2, 3) and torch.equal(state.change.rows, rows) and state.change.ratio == 2.0
    assert state.random["cpu"].tolist() == [7] and state.iterations == 12 and state.stopped is None
    test = HeldOutTest(lambda w: 0.0)
    test.load_state_dict(state.checks["test"])
    assert test.best_w is not None and torch.equal(test.best_w, best)
    assert (test.best_loss, test.checks_without_gain, state.checks["due"]) == (0.25, 2, 9.0)
    assert state.checks["buffers"]["bn.mean"].tolist() == [1.0]


def test_the_stopping_test_of_a_solver_is_found_alone_and_among_several_subsets() -> None:
    one, numbers = torch.ones(1), {"solver": {"iterations": 3}, "test": {}}
    names = ["solver.w", "test.best_w", "underway/1/test.best_w", "underway/1/solver.memory.steps"]
    tensors, same = upgraded(dict.fromkeys(names, one), numbers)
    assert list(tensors) == ["solver.w", "test/best_w", "underway/1/test/best_w", "underway/1/solver.memory.steps"]
    assert same == numbers


def as_format_4(directory: RunDirectory) -> None:
    """Write the checkpoint as format 4 was: inner products in nested lists."""
    checkpoint = directory.load_checkpoint()
    assert checkpoint is not None
    tensors, state = checkpoint
    for name in ("memory.gram", "memory.with_gradient"):
        bits = tensors.pop(f"phase/solver.{name}")
        state["phase_state"]["solver"][name] = bits.numpy().view(np.float64).tolist()
    directory.save_checkpoint(tensors, {**state, "format": 4})


def test_a_run_of_format_4_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the run that was never stopped."""
    settings = {"model": "linear", "max_iterations": 12, "gtol": 1e-30, "handoff": "none", "checkpoint_seconds": 0}
    train(make_config(settings, {"output": tmp_path / "whole"}), figure=False)
    save, count = RunDirectory.save_checkpoint, 0

    def dying(directory: RunDirectory, *what: Any) -> None:
        nonlocal count
        save(directory, *what)
        count += 1
        if count == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunDirectory, "save_checkpoint", dying)
        train(make_config(settings, {"output": tmp_path / "cut"}), figure=False)
    directory = RunDirectory.open(tmp_path / "cut")
    before = (directory.path / STATE).stat().st_size
    as_format_4(directory)
    assert (directory.path / STATE).stat().st_size > 20 * before
    resume_run(directory.path, figure=False)
    assert (tmp_path / "cut" / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()
