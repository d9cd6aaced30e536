"""A run that dies, or finds the disk full, at any single operation on a file goes on to the same bits."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from subsetopt import files
from subsetopt.data import dataset_from_arrays
from subsetopt.errors import RunDirectoryError
from subsetopt.training import make_config, train
from subsetopt.training.resume import resume_run
from subsetopt.training.run_directory import CHECKPOINT, CONFIG, METRICS, MODEL, RESULT, RunDirectory

SETTINGS: dict[str, Any] = {
    "model": "linear",
    "subset_size": 40,
    "max_iterations": 1,
    "handoff": "sgd",
    "handoff_epochs": 1,
    "handoff_batch_size": 64,
    "checkpoint_seconds": 0,
}
DATA = dataset_from_arrays(torch.linspace(-1, 1, 320).reshape(80, 4).cos(), torch.arange(80) % 2)
PARTS = 24


class Died(BaseException):
    """Stands for SIGKILL: nothing below catches it."""


class Disk:
    """Counts the operations by which runs change files, and makes one of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.at = 0, -1
        self.failure: Callable[[], BaseException] = Died
        real = {name: getattr(os, name) for name in ("fsync", "unlink")}
        replace, opened, append = Path.replace, Path.open, RunDirectory.append

        def fsync(descriptor: int) -> None:
            self.step()
            real["fsync"](descriptor)

        def rename(path: Path, target: Path) -> Path:
            self.step()
            return replace(path, target)

        def open_half(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
            file = opened(path, mode, *rest, **named)
            if mode == "wb" and self.step(fail=False):
                file.write(b"half")
                file.close()
                raise self.failure()
            return file

        def append_half(directory: RunDirectory, name: str, line: str) -> int:
            if self.step(fail=False):
                with opened(directory.path / name, "a") as file:
                    file.write(line[: len(line) // 2])
                if self.failure is Died:
                    raise Died
                raise RunDirectoryError("make room")
            return append(directory, name, line)

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if self.at < 0 or self.failure is not Died or self.count <= self.at:
                remove(path, missing_ok)  # a process that was killed removes nothing

        remove = Path.unlink
        monkeypatch.setattr(files.os, "fsync", fsync)
        monkeypatch.setattr(Path, "replace", rename)
        monkeypatch.setattr(Path, "open", open_half)
        monkeypatch.setattr(Path, "unlink", unlink)
        monkeypatch.setattr(RunDirectory, "append", append_half)

    def step(self, fail: bool = True) -> bool:
        self.count += 1
        hit = self.count == self.at + 1
        if hit and fail:
            raise self.failure()
        return hit


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Return the directory of an undisturbed run, and how many operations it takes."""
    path = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch)
        train(make_config(SETTINGS, {"output": path}), figure=False, dataset=DATA)
        return path, disk.count


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / METRICS).read_text().splitlines()]


@pytest.mark.parametrize("failure", [Died, full], ids=["killed", "full"])
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
def test_any_operation_may_be_the_last(
    whole: tuple[Path, int], tmp_path: Path, failure: Callable[[], BaseException], part: int
) -> None:
    undisturbed, operations = whole
    assert operations > PARTS, "each checkpoint and each record counts"
    for at in range(part, operations, PARTS - 1):
        run = tmp_path / str(at)
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch)
            disk.at, disk.failure = at, failure
            with pytest.raises(Died if failure is Died else RunDirectoryError):
                train(make_config(SETTINGS, {"output": run}), figure=False, dataset=DATA)
        if not (run / CONFIG).exists():
            assert not run.exists() or failure is Died, "a run that could not begin leaves nothing"
            continue
        resume_run(run, figure=False, dataset=DATA)
        assert (run / MODEL).read_bytes() == (undisturbed / MODEL).read_bytes(), at
        assert losses(run) == losses(undisturbed)
        assert not list(run.glob(".*tmp")), "what a crash left half-written is removed"


def test_a_write_that_fails_leaves_the_checkpoint_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    train(make_config(SETTINGS, {"output": run}), figure=False, dataset=DATA)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    disk = Disk(monkeypatch)
    for at in range(4):
        disk.count, disk.at, disk.failure = 0, at, full
        with pytest.raises(RunDirectoryError, match="No space left on device"):
            RunDirectory.open(run).save_checkpoint({}, {"settings": None})
        after = (run / CHECKPOINT).read_bytes()
        assert at == 3 or after == before[CHECKPOINT]
    assert {path.name for path in run.iterdir()} == set(before)


def test_a_disk_that_takes_only_so_many_bytes(tmp_path: Path) -> None:
    """The limit on the size of files stands for a disk that fills up in the middle of a write."""
    import resource
    import signal

    run = tmp_path / "run"
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(RunDirectoryError, match=r"cannot be written \(File too large\); make room, then"):
            train(make_config(SETTINGS, {"output": run}), figure=False, dataset=DATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not (run / CHECKPOINT).exists() and not list(run.glob(".*tmp"))
    assert resume_run(run, figure=False, dataset=DATA).result["status"] == "done"
    assert (run / RESULT).is_file()
