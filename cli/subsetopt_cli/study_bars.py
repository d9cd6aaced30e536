"""Progress of a study on standard error: cells done and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

if TYPE_CHECKING:
    from subsetopt.compare.cells import Cell, CellOutcome

_LINE_SECONDS = 10.0


class StudyBars:
    """A bar on a terminal, elsewhere a line every ten seconds; cells weigh as much as their budget."""

    def __init__(self, *, terminal: bool | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._clock = clock
        self._bar: tqdm[Any] | None = None
        self._title = ""
        self._counts = (0, 0)
        self._todo = self._done = 0.0
        self._begin = self._shown = 0.0

    def planned(self, title: str, cells: Sequence[Cell]) -> None:
        """Open a bar for these cells."""
        self.close()
        self._title, self._counts = title, (0, len(cells))
        self._todo, self._done = sum(cell.budget for cell in cells), 0.0
        self._begin = self._shown = self._clock()
        if self._terminal:
            self._bar = tqdm(
                total=len(cells),
                desc=title,
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
                bar_format="{desc} |{bar:20}| {n_fmt}/{total_fmt} cells{postfix}",
            )
        else:
            self.message(f"{title}: {len(cells)} cells")

    def finished(self, cell: Cell, outcome: CellOutcome) -> None:
        """Count the cell, and report at once when it failed."""
        self._counts = (self._counts[0] + 1, self._counts[1])
        self._todo -= cell.budget
        self._done += 0.0 if outcome.reused else cell.budget
        if outcome.status == "failed":
            self.message(f"Warning: {cell.id} failed: {outcome.error}")
        if self._bar is not None:
            self._bar.set_postfix_str(self._left(), refresh=False)
            self._bar.update()
        elif self._clock() - self._shown >= _LINE_SECONDS:
            self._shown = self._clock()
            self.message(f"{self._title}: {self._counts[0]}/{self._counts[1]} cells, {self._left()}")

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.clear()
        click.echo(text, err=True)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _left(self) -> str:
        if not self._done:
            return "time left unknown"
        seconds = round(self._todo * (self._clock() - self._begin) / self._done)
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return f"{hours}:{minutes:02d}:{seconds % 60:02d} left"
