"""What another version of the package has saved is gone on with where it can be, and otherwise refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from subsetopt.errors import RunDirectoryError
from subsetopt.training import make_config, train
from subsetopt.training.earlier_checkpoints import EARLIER
from subsetopt.training.finishing import Interrupted
from subsetopt.training.position import FORMAT
from subsetopt.training.resume import resume_run
from subsetopt.training.run_directory import METRICS, RunDirectory
from subsetopt.training.stop_request import StopRequest

SETTINGS: dict[str, Any] = {"model": "linear", "max_iterations": 6, "handoff": "none", "checkpoint_seconds": 0}


def interrupted(path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """Return the directory of a run that was stopped after its first iteration, with metrics from beyond its end."""
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(StopRequest, "asked", True, raising=False)
        patch.setattr(StopRequest, "__init__", lambda self, progress, relayed: setattr(self, "_progress", progress))
        train(make_config(SETTINGS, {"output": path}), figure=False)
    directory = RunDirectory.open(path)
    with (path / METRICS).open("a") as file:
        file.write("later\n")
    return directory


def rewritten(directory: RunDirectory, **changes: Any) -> None:
    checkpoint = directory.load_checkpoint()
    assert checkpoint is not None
    directory.save_checkpoint(checkpoint[0], {**checkpoint[1], **changes})


def test_a_phase_of_another_format_is_refused_and_nothing_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = interrupted(tmp_path / "a", monkeypatch)
    rewritten(directory, format=EARLIER - 1)
    before = (directory.path / METRICS).read_bytes()
    with pytest.raises(RunDirectoryError, match=rf"not fit this version .*format {EARLIER - 1}, not {FORMAT}.*anew"):
        resume_run(directory.path, figure=False)
    assert (directory.path / METRICS).read_bytes() == before
    rewritten(directory, format=FORMAT)
    assert resume_run(directory.path, figure=False).result["status"] == "done"
    assert b"later" not in (directory.path / METRICS).read_bytes()


def test_a_phase_that_lacks_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = interrupted(tmp_path / "a", monkeypatch)
    rewritten(directory, phase_state={})
    with pytest.raises(RunDirectoryError, match=r"not fit this version .*KeyError"):
        resume_run(directory.path, figure=False)


def test_a_finished_run_of_another_format_still_gives_its_result(tmp_path: Path) -> None:
    found = train(make_config(SETTINGS, {"output": tmp_path / "a"}), figure=False).result
    rewritten(RunDirectory.open(tmp_path / "a"), format=EARLIER - 1)
    assert resume_run(tmp_path / "a", figure=False).result["metrics"] == found["metrics"]
