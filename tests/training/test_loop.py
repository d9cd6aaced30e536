"""When checkpoints are written. Reference: the times of a clock that the test moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from subsetopt.data import dataset_from_arrays
from subsetopt.training import loop, make_config, train
from subsetopt.training.run_directory import RunDirectory

DATA = dataset_from_arrays(torch.linspace(-1, 1, 320).reshape(80, 4).cos(), torch.arange(80) % 2)
SETTINGS: dict[str, Any] = {
    "model": "linear",
    "subset_size": 40,
    "max_iterations": 30,
    "solver": "ncg",
    "gtol": 1e-30,
    "handoff": "none",
}
STEP = 1.0
"""Seconds that an iteration takes."""


class Clock:
    """A clock that moves by STEP with every iteration, and by `write` with every checkpoint."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, write: float) -> None:
        self.now, self._write = 0.0, write
        self.saves: list[float] = []
        monkeypatch.setattr(loop, "time", self)
        save, append = RunDirectory.save_checkpoint, RunDirectory.append

        def saving(directory: RunDirectory, *what: Any) -> None:
            self.saves.append(self.now)
            save(directory, *what)
            self.now += self._write

        def appending(directory: RunDirectory, name: str, line: str) -> int:
            self.now += STEP if name.startswith("metrics") else 0.0
            return append(directory, name, line)

        monkeypatch.setattr(RunDirectory, "save_checkpoint", saving)
        monkeypatch.setattr(RunDirectory, "append", appending)

    def monotonic(self) -> float:
        return self.now

    def strftime(self, form: str) -> str:
        return form


@pytest.mark.parametrize(
    ("interval", "write", "expected"),
    [
        # The first after the first interval, the last at the end: 31 records, one for the start.
        (10.0, 0.0, [10, 20, 30, 31]),
        (100.0, 0.0, [31]),
        # After one of 0.4 seconds the next is due 0.4 * 49 = 19.6 seconds later.
        (5.0, 0.4, [5, 25.4, 31.8]),
        (5.0, 5.0, [5, 36]),
        # Asked for after every iteration.
        (0.0, 5.0, [*range(1, 6 * 31, 6)]),
    ],
)
def test_checkpoints_wait_for_the_interval_and_for_their_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: float, write: float, expected: list[float]
) -> None:
    clock = Clock(monkeypatch, write)
    settings = {**SETTINGS, "checkpoint_seconds": interval}
    train(make_config(settings, {"output": tmp_path / "run"}), figure=False, dataset=DATA)
    found = sorted(set(clock.saves))
    assert found[: len(expected)] == pytest.approx(expected)


def test_phases_in_between_are_saved_where_that_is_cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five stages of 3 iterations: each end where writing takes no time, the first and the last where it takes long."""
    settings = {**SETTINGS, "subset_size": None, "grow": 2.0, "grow_start": 0.12, "max_iterations": 2}
    counts = []
    for write in (0.0, 100.0):
        with monkeypatch.context() as patch:
            clock = Clock(patch, write)
            train(make_config(settings, {"output": tmp_path / f"{write}"}), figure=False, dataset=DATA)
            counts.append(len(clock.saves))
    assert counts[0] >= 4 and counts[1] == 2
