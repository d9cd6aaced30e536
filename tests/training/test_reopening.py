"""A run whose solver was stopped by a limit goes on under a larger one: as if it had had that from the start."""

from __future__ import annotations

import gc
import weakref
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from subsetopt.errors import UserError
from subsetopt.saving import without_copies
from subsetopt.training import resume
from subsetopt.training.loop import Loop
from subsetopt.training.position import Position, pack
from subsetopt.training.resume import resume_run
from subsetopt.training.run import train
from subsetopt.training.run_directory import RunDirectory
from subsetopt.training.settings.run import LIMITS, RunConfig, make_config
from subsetopt.training.trainer import SubsetTrainer

SMALL: dict[str, Any] = {"dataset": "digits", "model": "linear", "subset_frac": 0.1, "handoff": "none"}


def run(path: Path, **settings: Any) -> dict[str, Any]:
    return train(make_config(SMALL, settings, {"output": path}), figure=False).result


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ({"max_iterations": 5}, {"max_iterations": 12}),
        ({"max_epochs": 0.75}, {"max_epochs": 2.0}),
        ({"solver_epochs": 0.75}, {"solver_epochs": 2.0}),
        ({"max_iterations": 5, "solver": "newton-cg"}, {"max_iterations": 8}),
    ],
)
def test_it_ends_as_the_run_with_the_larger_limit_does(
    tmp_path: Path, small: dict[str, Any], large: dict[str, Any]
) -> None:
    whole = run(tmp_path / "whole", **{**small, **large})["solve"]
    part = run(tmp_path / "run", **small)["solve"]
    more = resume_run(tmp_path / "run", limits=large, figure=False).result["solve"]
    assert part["iterations"] < more["iterations"] == whole["iterations"]
    assert more["loss"] == whole["loss"] and more["gradient_norm"] == whole["gradient_norm"]
    assert more["stop_reason"] == whole["stop_reason"]
    again = resume_run(tmp_path / "run", figure=False).result["solve"]  # the limit is now the run's own
    assert again["loss"] == whole["loss"]


def test_what_the_budget_left_out_is_run_after_it(tmp_path: Path) -> None:
    first = run(tmp_path / "run", max_epochs=1.0, handoff="sgd", handoff_epochs=1)
    assert first["handoff"]["iterations"] <= 1
    result = resume_run(tmp_path / "run", limits={"max_epochs": 40.0}, figure=False).result
    assert result["solve"]["converged"] and result["handoff"]["iterations"] > 0 and len(result["phases"]) == 2


@pytest.mark.parametrize(
    ("settings", "limits", "words"),
    [
        ({"max_iterations": 5}, {"max_iterations": 5}, "no room"),
        ({"max_iterations": 5}, {"max_iterations": 2}, "room"),
        (
            {"max_iterations": 2, "handoff": "sgd", "handoff_epochs": 0.1},
            {"max_iterations": 9},
            "cosine learning-rate schedule ended",
        ),
        ({"subsets": 2, "max_iterations": 2}, {"max_iterations": 9}, "each of its 2 solves ended"),
        ({"solver": "kfac-stream", "solver_epochs": 1.0}, {"solver_epochs": 2.0}, "batch sizes, damping and rate"),
        ({"l2": 1.0}, {"max_iterations": 900}, "no solver"),
    ],
)
def test_one_line_where_there_is_nothing_to_go_on_with(
    tmp_path: Path, settings: dict[str, Any], limits: dict[str, Any], words: str
) -> None:
    run(tmp_path / "run", **settings)
    before = (tmp_path / "run" / "config.toml").read_bytes(), (tmp_path / "run" / "result.json").read_bytes()
    with pytest.raises(UserError, match=words) as caught:
        resume_run(tmp_path / "run", limits=limits, figure=False)
    assert "\n" not in str(caught.value)
    after = (tmp_path / "run" / "config.toml").read_bytes(), (tmp_path / "run" / "result.json").read_bytes()
    assert before == after and resume_run(tmp_path / "run", figure=False).result["status"] == "done"


def test_the_trainer_takes_the_limits_of_the_command_line(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", max_iterations=12)["solve"]
    run(tmp_path / "run", max_iterations=5)
    more = SubsetTrainer.resume(tmp_path / "run", max_iterations=12)
    assert more.result["solve"]["loss"] == whole["loss"] and more.config.max_iterations == 12
    assert {name for name in signature(SubsetTrainer.resume).parameters if name in RunConfig.model_fields} - {
        "model",
        "dataset",
        "loss",
    } == set(LIMITS)
    with pytest.raises(UserError, match="max_epochs"):
        SubsetTrainer.resume(tmp_path / "run", max_epochs=-1.0)


def of_vectors(tensor: Tensor) -> bool:
    """Tell whether it has vectors of the model's 650 parameters; inner products lie in NumPy's memory."""
    return tensor.is_floating_point() and tensor.shape[-1:] == (650,)


@pytest.mark.parametrize(
    "settings",
    [{}, {"solver": "ncg"}, {"solver": "newton-cg"}, {"warmup": "adam", "warmup_epochs": 1}],
    ids=str,
)
def test_a_checkpoint_that_was_read_is_held_once(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state that goes on lies where the file was read to: nothing of it is copied, nothing else is kept."""
    run(tmp_path / "run", max_iterations=3, **settings)
    read: dict[str, tuple[int, Any]] = {}
    load, finish = RunDirectory.load_checkpoint, resume.finish
    seen: list[str] = []

    def loading(directory: RunDirectory) -> Any:
        tensors, state = load(directory) or ({}, {})
        read.update({name: (tensor.data_ptr(), weakref.ref(tensor)) for name, tensor in tensors.items()})
        return tensors, state

    def finishing(loop: Loop, position: Position, prepared: Any, phases: Any, *rest: Any) -> Any:
        with without_copies():
            tensors, _ = pack(position, prepared, phases)
        for name, tensor in tensors.items():
            before = name.replace("phase/", "held/")
            if of_vectors(tensor):
                assert tensor.data_ptr() == read[before][0], name
                seen.append(before)
        held = {tensor.data_ptr() for tensor in tensors.values()}
        gc.collect()
        alive = [name for name, (place, tensor) in read.items() if tensor() is not None and place not in held]
        assert not [name for name in alive if of_vectors(read[name][1]())]
        return finish(loop, position, prepared, phases, *rest)

    monkeypatch.setattr(RunDirectory, "load_checkpoint", loading)
    monkeypatch.setattr(resume, "finish", finishing)
    resume.resume_run(tmp_path / "run", limits={"max_iterations": 5}, figure=False)
    assert len(seen) >= 3
