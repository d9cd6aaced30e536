"""Runs the parts of a study, one after another in this process or on joblib's workers, here or on a cluster.

Workers on other machines need the study's directory, the data and this package under the same paths.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from subsetopt.compare.cells import Cell, CellOutcome, run_cell, set_aside
from subsetopt.report.numbers import counted
from subsetopt.study.workers import LOOK, StudyInterrupted, Workers, each, interruptible
from subsetopt.training.run_directory import RunDirectory
from subsetopt.training.stop_request import requests_taken


class StudyProgress(Protocol):
    """Receives what happens in a study. All methods return quickly and must not raise."""

    def planned(self, title: str, cells: Sequence[Cell]) -> None:
        """These cells are next."""

    def finished(self, cell: Cell, outcome: CellOutcome) -> None:
        """One of them has ended."""

    def message(self, text: str) -> None:
        """Tell something worth reading."""


class SilentStudy:
    """Progress that shows nothing."""

    def planned(self, title: str, cells: Sequence[Cell]) -> None:
        """Show nothing."""

    def finished(self, cell: Cell, outcome: CellOutcome) -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """Show nothing."""


def not_reused(versions: Sequence[str]) -> str:
    """Return a message on stored cells of other versions, one of `versions` for each cell."""
    one = len(versions) == 1
    made = ", ".join(sorted(set(versions)))
    return (
        f"{counted(len(versions), 'cell')} of subsetopt {made} {'is' if one else 'are'} not reused by "
        f"{version('subsetopt')} but run again; the old {'one is' if one else 'ones are'} kept, with "
        f"{'its' if one else 'their'} version in {'its name' if one else 'their names'}"
    )


def run_cells(
    title: str, cells: Sequence[Cell], root: Path, workers: Workers, progress: StudyProgress
) -> dict[str, CellOutcome]:
    """Run `cells` and return their outcomes by id; raises `StudyInterrupted` when asked to stop."""
    cells = list({cell.id: cell for cell in cells}.values())
    progress.planned(title, cells)
    with interruptible():
        _wait_for_others(cells, root, progress)
    if others := [other for cell in cells if (other := set_aside(cell, root)) is not None]:
        progress.message(not_reused(others))
    outcomes: dict[str, CellOutcome] = {}
    asked = requests_taken()
    with interruptible():
        for cell, outcome in _outcomes(cells, root, workers):
            if outcome.status == "interrupted":
                raise StudyInterrupted
            outcomes[cell.id] = outcome
            progress.finished(cell, outcome)
            if requests_taken() > asked:  # too late for the cell, which was done or failed instead
                raise StudyInterrupted
    return outcomes


def _wait_for_others(cells: Sequence[Cell], root: Path, progress: StudyProgress) -> None:
    """Wait until no other process works on one of the cells.

    A worker whose study was killed saves its run after a step, which may take long; the study is then begun again.
    """
    for cell in cells:
        directory = RunDirectory(cell.directory(root))
        if directory.in_use:
            progress.message(f"{cell.id}: {directory.user} works there; waiting for it")
        while directory.in_use:
            time.sleep(LOOK)


def _outcomes(cells: Sequence[Cell], root: Path, workers: Workers) -> Iterable[tuple[Cell, CellOutcome]]:
    return each(partial(_run_cell, root if workers.here else root.absolute(), workers.threads), cells, workers)


def _run_cell(root: Path, threads: int | None, cell: Cell) -> CellOutcome:
    return run_cell(cell, root, threads)
