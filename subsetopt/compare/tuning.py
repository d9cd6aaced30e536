"""Tuning: every method's knobs at every budget, by held-out loss, once for every seed of the comparison.

A search is a random variable: two equal methods whose rates come from one search each differ by more than their seeds
explain. So each seed of the comparison has a search of its own, on seeds that no other search and no comparison uses.
The differences over seeds are then independent draws of (search, run), and their t test counts the luck of both. The
runs leave the test split unread, and rounds may run in parallel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from subsetopt.compare.cells import Cell, CellMaker, CellOutcome, read_result
from subsetopt.compare.knobs import Index, best_index, is_inside, next_index, start_grid, values_at
from subsetopt.documents.comparison import TuningSearch, TuningTrial
from subsetopt.facts import Knob

RunCells = Callable[[str, Sequence[Cell]], dict[str, CellOutcome]]
SearchKey = tuple[str, float, int]
"""Method, budget, and the seed of the comparison that the search is for."""


@dataclass
class Search:
    """The search for one method at one budget; scores are mean held-out losses by grid index, inf for a failed run.

    `seed` is that of the comparison, `seeds` those on which the trials run, `trials` their number.
    """

    method: str
    budget: float
    seed: int
    knobs: tuple[Knob, ...]
    seeds: tuple[int, ...] = ()
    trials: int = 0
    scores: dict[Index, float] = field(default_factory=dict)
    epoch_equivalents: float = 0.0
    seconds: float = 0.0
    error: str = ""

    @property
    def values(self) -> dict[str, float]:
        """The best value of each knob by its name; empty where nothing was tuned."""
        return self.named(best_index(self.scores)) if self.scores else {}

    @property
    def inside(self) -> bool:
        """True when the best values have worse ones on either side."""
        return bool(self.scores) and is_inside(self.scores)

    def pending(self) -> list[Index]:
        """Return the grid indices to try next; empty at the end."""
        if not self.knobs:
            return []
        if not self.scores:
            return start_grid(len(self.knobs))
        index = next_index(self.scores, self.knobs, self.trials)
        return [] if index is None else [index]

    def entry(self) -> TuningSearch:
        """Return what `summary.json` holds of this search."""
        taken = values_at(self.knobs, best_index(self.scores)) if self.scores else ()
        return TuningSearch(
            budget=self.budget,
            seed=self.seed,
            tuning_seeds=list(self.seeds),
            setting=self.knobs[0].name if self.knobs else None,
            value=taken[0] if taken else None,
            decay_setting=self.knobs[1].name if len(self.knobs) > 1 else None,
            decay=taken[1] if len(taken) > 1 else None,
            trials=[_trial(values_at(self.knobs, index), score) for index, score in sorted(self.scores.items())],
            inside=self.inside,
            epoch_equivalents=self.epoch_equivalents,
            seconds=self.seconds,
        )

    def named(self, index: Index) -> dict[str, float]:
        """Return the value of each knob by its name at a grid index."""
        return dict(zip((knob.name for knob in self.knobs), values_at(self.knobs, index), strict=True))


def _trial(values: tuple[float, ...], score: float) -> TuningTrial:
    return TuningTrial(value=values[0], decay=values[1] if len(values) > 1 else None, score=score)


def tune(maker: CellMaker, root: Path, run: RunCells) -> dict[SearchKey, Search]:
    """Return the finished search of every method at every budget for every seed."""
    searches = {
        (name, budget, seed): _search(maker, name, budget, seed)
        for seed in maker.study.config.seeds
        for budget in maker.study.config.budget
        for name in maker.methods
    }
    number = 0
    while True:
        wanted = {
            (key, index): _trial_cells(maker, search, index)
            for key, search in searches.items()
            for index in search.pending()
        }
        if not wanted:
            return searches
        number += 1
        outcomes = run(f"tuning, round {number}", [cell for cells in wanted.values() for cell in cells])
        for (key, index), cells in wanted.items():
            _enter(searches[key], index, cells, outcomes, root)


def _search(maker: CellMaker, name: str, budget: float, seed: int) -> Search:
    study = maker.study.config
    if not study.tune:
        return Search(name, budget, seed, ())
    return Search(name, budget, seed, maker.knobs[name], study.seeds_to_tune_on(seed), study.trials)


def _trial_cells(maker: CellMaker, search: Search, index: Index) -> list[Cell]:
    values = search.named(index)
    return [maker.cell(search.method, search.budget, seed, values, "tuning") for seed in search.seeds]


def _enter(search: Search, index: Index, cells: Sequence[Cell], outcomes: dict[str, CellOutcome], root: Path) -> None:
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
