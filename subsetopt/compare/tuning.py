"""Tuning: every method's knob at every budget, by held-out loss, in rounds that may run in parallel.

The seeds are others than those of the comparison, and the runs leave the test split unread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from subsetopt.compare.cells import Cell, CellMaker, CellOutcome, read_result
from subsetopt.compare.knobs import START, best_index, next_index
from subsetopt.documents.comparison import TuningSearch, TuningTrial
from subsetopt.facts import Knob

RunCells = Callable[[str, Sequence[Cell]], dict[str, CellOutcome]]


@dataclass
class Search:
    """The search for one method at one budget; scores are mean held-out losses by grid index, inf for a failed run."""

    method: str
    budget: float
    knob: Knob | None
    scores: dict[int, float] = field(default_factory=dict)
    epoch_equivalents: float = 0.0
    seconds: float = 0.0
    error: str = ""

    @property
    def value(self) -> float | None:
        """The best value; None where nothing was tuned."""
        return None if self.knob is None or not self.scores else self.knob.value(best_index(self.scores))

    @property
    def inside(self) -> bool:
        """True when the best value has a worse one on either side."""
        return bool(self.scores) and min(self.scores) < best_index(self.scores) < max(self.scores)

    def pending(self, limit: int) -> list[int]:
        """Return the grid indices to try next; empty at the end."""
        if self.knob is None:
            return []
        if not self.scores:
            return list(START)
        index = next_index(self.scores, self.knob, limit)
        return [] if index is None else [index]

    def entry(self) -> TuningSearch:
        """Return what `summary.json` holds of this search."""
        knob = self.knob
        scores = [] if knob is None else [(knob.value(index), score) for index, score in sorted(self.scores.items())]
        return TuningSearch(
            budget=self.budget,
            setting=None if knob is None else knob.name,
            value=self.value,
            trials=[TuningTrial(value=value, score=score) for value, score in scores],
            inside=self.inside,
            epoch_equivalents=self.epoch_equivalents,
            seconds=self.seconds,
        )


def tune(maker: CellMaker, root: Path, run: RunCells) -> dict[tuple[str, float], Search]:
    """Return the finished search of every method at every budget."""
    study = maker.study.config
    searches = {
        (name, budget): Search(name, budget, maker.knobs[name] if study.tune else None)
        for budget in study.budget
        for name in maker.methods
    }
    number = 0
    while True:
        wanted = {
            (search.method, search.budget, index): _trial_cells(maker, search, index)
            for search in searches.values()
            for index in search.pending(study.max_extensions)
        }
        if not wanted:
            return searches
        number += 1
        outcomes = run(f"tuning, round {number}", [cell for cells in wanted.values() for cell in cells])
        for (method, budget, index), cells in wanted.items():
            _enter(searches[method, budget], index, cells, outcomes, root)


def _trial_cells(maker: CellMaker, search: Search, index: int) -> list[Cell]:
    assert search.knob is not None
    value = search.knob.value(index)
    seeds = maker.study.config.tuning_seeds
    return [maker.cell(search.method, search.budget, seed, value, "tuning") for seed in seeds]


def _enter(search: Search, index: int, cells: Sequence[Cell], outcomes: dict[str, CellOutcome], root: Path) -> None:
    losses = []
    for cell in cells:
        result = read_result(cell, root) if outcomes[cell.id].status == "done" else None
        if result is None:
            search.error = outcomes[cell.id].error
        loss = None if result is None else result.held_out_loss
        losses.append(math.inf if loss is None else loss)
        if result is not None:
            search.epoch_equivalents += result.cost.epoch_equivalents
            search.seconds += result.cost.seconds
    search.scores[index] = sum(losses) / len(losses)
