"""Two processes never write one run directory: the second is told so in one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import filelock
import pytest

from subsetopt.errors import RunDirectoryError
from subsetopt.files import holder_of
from subsetopt.training import make_config, train
from subsetopt.training.evaluation import evaluate_run
from subsetopt.training.prediction.predictor import load_predictor
from subsetopt.training.resume import resume_run
from subsetopt.training.run_directory import CONFIG, LOCK, RESULT, RunDirectory

# Linux lists who holds a lock; a file system whose locks it lists under another device names nobody.
WORKER = rf"(process {os.getpid()}|another process)"
SMALL = {"model": "linear", "max_iterations": 3, "handoff": "none"}


def test_a_run_in_use_is_not_resumed(tmp_path: Path) -> None:
    train(make_config(SMALL, {"output": tmp_path / "a"}), figure=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with (
        RunDirectory.open(tmp_path / "a").sole_user(),
        pytest.raises(RunDirectoryError, match=rf"run = .*: {WORKER} works there; wait for it"),
    ):
        resume_run(tmp_path / "a", figure=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    assert resume_run(tmp_path / "a", figure=False).result["status"] == "done"


def test_a_run_keeps_its_directory_while_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is evaluated at the end; at that time nobody else gets in."""
    from subsetopt.training import finishing as module

    refused = []

    def evaluate(*arguments: object) -> dict[str, object]:
        with pytest.raises(RunDirectoryError), RunDirectory.open(tmp_path / "a").sole_user():
            pass
        refused.append(True)
        return original(*arguments)  # type: ignore[arg-type]  # passed on as given

    original = module.assemble_result
    monkeypatch.setattr(module, "assemble_result", evaluate)
    train(make_config(SMALL, {"output": tmp_path / "a"}), figure=False)
    assert refused and (tmp_path / "a" / CONFIG).is_file()
    with RunDirectory.open(tmp_path / "a").sole_user():
        pass


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not list locks")
def test_the_holder_of_a_lock_is_that_of_the_system_or_nobody(tmp_path: Path) -> None:
    lock = filelock.FileLock(tmp_path / LOCK)
    assert holder_of(tmp_path / LOCK) is None
    with lock:
        assert holder_of(tmp_path / LOCK) in (os.getpid(), None)
        (tmp_path / "other").write_bytes(b"")
        assert holder_of(tmp_path / "other") is None
    assert holder_of(tmp_path / LOCK) is None


def test_use_of_a_directory_is_seen_and_left_as_it_is(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert not directory.in_use and not list(tmp_path.iterdir())
    with directory.sole_user():
        assert directory.in_use and directory.in_use
    assert not directory.in_use


def test_a_run_without_a_result_is_finished_or_waited_for(tmp_path: Path) -> None:
    train(make_config(SMALL, {"output": tmp_path / "a"}), figure=False)
    for content in (None, "", "{}", '{"seed": 0}'):
        (tmp_path / "a" / RESULT).unlink()
        if content is not None:
            (tmp_path / "a" / RESULT).write_text(content)
        for use in (evaluate_run, load_predictor):
            with pytest.raises(RunDirectoryError, match=r"result.json.*; finish it: SubsetTrainer\.resume\("):
                use(tmp_path / "a")
        with (
            RunDirectory.open(tmp_path / "a").sole_user(),
            pytest.raises(RunDirectoryError, match=r"wait for (process|another)"),
        ):
            evaluate_run(tmp_path / "a")
        resume_run(tmp_path / "a", figure=False)
        assert evaluate_run(tmp_path / "a")


def test_a_link_to_itself_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    train(make_config(SMALL, {"output": tmp_path / "a"}), figure=False)
    (tmp_path / "a" / RESULT).unlink()
    (tmp_path / "a" / RESULT).symlink_to(tmp_path / "a" / RESULT)
    with pytest.raises(RunDirectoryError, match=r"result\.json is no regular file; remove it"):
        resume_run(tmp_path / "a", figure=False)
