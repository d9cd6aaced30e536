"""How often a comparison finds a difference between a method and itself: `python -m subsetopt.bench.null_study BANK`.

Two names mean one method: `adam` takes all samples in a shuffled order, and so does `rs2@1/adam`, in another order of
the same distribution. A bank holds the figures of both for many seeds and every learning rate that a search may try.
Whole studies are then drawn from it: seeds for the comparison, seeds for the searches, the searches themselves, runs
with the rates found, and the tests. Which of the two names a seed's figures go to is drawn too: they are exchangeable,
so that the null hypothesis holds exactly. At a level of 5 %, 5 % of the studies may find a difference.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from subsetopt.compare.cells import CellMaker
from subsetopt.compare.config import StudyConfig, make_study
from subsetopt.compare.knobs import Index, best_index, is_inside, next_index, start_grid, values_at
from subsetopt.study.statistics import compare_all
from subsetopt.training.run import train
from subsetopt.training.splits import SplitName

NAMES = ("adam", "rs2@1/adam")
BUDGET = 1.0
COLUMNS = ("method", "seed", "index", "held_out_loss", "test_loss", "test_accuracy")


@dataclass(frozen=True)
class Figures:
    """What a run of the bank ended with."""

    held_out_loss: float
    test_loss: float
    test_accuracy: float


class Bank:
    """Runs by method, seed and grid index of the learning rate; those that `path` lacks are computed and added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.maker = CellMaker(make_study({"dataset": "digits", "methods": NAMES, "budget": BUDGET, "seeds": 1}))
        self._figures: dict[tuple[str, int, float], Figures] = {}
        if path.is_file():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    key = (row["method"], int(row["seed"]), float(row["index"]))
                    self._figures[key] = Figures(*(float(row[name]) for name in COLUMNS[3:]))

    @property
    def seeds(self) -> list[int]:
        """The seeds that have runs of both names."""
        return sorted(set.intersection(*({seed for name, seed, _ in self._figures if name == own} for own in NAMES)))

    def figures(self, name: str, seed: int, index: Index) -> Figures:
        """Return the figures of a run."""
        key = (name, seed, index[0])
        if key not in self._figures:
            self._figures[key] = self.compute(name, seed, index)
            self._append(key)
        return self._figures[key]

    def compute(self, name: str, seed: int, index: Index) -> Figures:
        """Train, and return the figures, to seven digits."""
        knobs = self.maker.knobs[name]
        values = {knob.name: value for knob, value in zip(knobs, values_at(knobs, index), strict=True)}
        config = self.maker.cell(name, BUDGET, seed, values, "tuning").config
        splits = (SplitName.VALIDATION, SplitName.TEST)
        metrics = train(config, keep=False, splits=splits, figure=False, may_idle=True).result["metrics"]
        found = (metrics["validation"]["loss"], metrics["test"]["loss"], metrics["test"]["accuracy"])
        return Figures(*(float(f"{value:.7g}") for value in found))

    def _append(self, key: tuple[str, int, float]) -> None:
        new = not self.path.is_file()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            found = self._figures[key]
            writer.writerow([*key, found.held_out_loss, found.test_loss, found.test_accuracy])


@dataclass(frozen=True)
class Procedure:
    """How the rate is found: a search for each seed of the comparison or one for all, on so many seeds and trials.

    A search that does not narrow ends when its best value lies inside the grid.
    """

    title: str
    own_searches: bool
    tuning_seeds: int = 1
    trials: int = StudyConfig().trials
    narrows: bool = True


PROCEDURES = (
    Procedure("one search for all seeds, on 1 seed, until inside (before)", own_searches=False, narrows=False),
    Procedure("one search for all seeds, on 3 seeds", own_searches=False, tuning_seeds=3),
    Procedure("a search for each seed, on 1 seed (now)", own_searches=True),
    Procedure("a search for each seed, on 2 seeds", own_searches=True, tuning_seeds=2),
)


def wrong_share(
    bank: Bank, procedure: Procedure, seeds: int, studies: int, generator: np.random.Generator
) -> dict[str, float]:
    """Return the share of studies that find a difference where there is none, by metric."""
    wrong = dict.fromkeys(("loss", "accuracy"), 0)
    for _ in range(studies):
        values = _study(bank, procedure, seeds, generator)
        for metric, of_a_name in values.items():
            (pair,) = compare_all(of_a_name, higher_is_better=metric == "accuracy")
            wrong[metric] += pair.verdict != "no difference"
    return {metric: count / studies for metric, count in wrong.items()}


def _study(
    bank: Bank, procedure: Procedure, seeds: int, generator: np.random.Generator
) -> dict[str, dict[str, dict[int, float]]]:
    """Return the values of one study by metric, name and seed."""
    searches = seeds if procedure.own_searches else 1
    drawn = generator.permutation(bank.seeds)[: seeds + searches * procedure.tuning_seeds]
    compared, tuned_on = drawn[:seeds].tolist(), drawn[seeds:].reshape(searches, -1).tolist()
    swapped = {seed: bool(generator.integers(2)) for seed in drawn.tolist()}
    values: dict[str, dict[str, dict[int, float]]] = {"loss": {}, "accuracy": {}}
    for own in (0, 1):
        names = {seed: NAMES[own ^ swap] for seed, swap in swapped.items()}
        rates = [_search(bank, names, group, procedure) for group in tuned_on]
        runs = {seed: bank.figures(names[seed], seed, rates[place % len(rates)]) for place, seed in enumerate(compared)}
        values["loss"][NAMES[own]] = {seed: run.test_loss for seed, run in runs.items()}
        values["accuracy"][NAMES[own]] = {seed: run.test_accuracy for seed, run in runs.items()}
    return values


def _search(bank: Bank, names: dict[int, str], seeds: Sequence[int], procedure: Procedure) -> Index:
    """Return the grid index that the search of a comparison takes, on the bank's runs."""
    knobs = bank.maker.knobs[NAMES[0]]
    scores: dict[Index, float] = {}
    pending: list[Index] = start_grid(1)
    while pending:
        for index in pending:
            losses = [bank.figures(names[seed], seed, index).held_out_loss for seed in seeds]
            scores[index] = sum(losses) / len(losses)
        following = next_index(scores, knobs, procedure.trials)
        ended = following is None or (is_inside(scores) and not procedure.narrows)
        pending = [] if following is None or ended else [following]
    return best_index(scores)


def table(bank: Bank, seeds: Sequence[int], studies: int) -> Iterator[str]:
    """Yield the lines of a Markdown table: the share of wrong differences by procedure and number of seeds."""
    yield "| How the rate is tuned | seeds | loss | accuracy |"
    yield "|---|--:|--:|--:|"
    for procedure in PROCEDURES:
        for count in seeds:
            found = wrong_share(bank, procedure, count, studies, np.random.default_rng(count))
            shares = " | ".join(f"{100 * share:.1f} %" for share in found.values())
            yield f"| {procedure.title} | {count} | {shares} |"


def main() -> None:
    """Fill the bank, and print the table."""
    parser = argparse.ArgumentParser(description="How often a comparison finds a difference between equal methods.")
    parser.add_argument("bank", type=Path, help="bank.csv; runs that it lacks are computed and added")
    parser.add_argument("studies", type=int, nargs="?", default=1000, help="studies to draw for each row")
    parser.add_argument("bank_seeds", type=int, nargs="?", default=152, help="seeds that the bank has at least")
    given = parser.parse_args()
    bank = Bank(given.bank)
    for seed in range(given.bank_seeds):
        for name in NAMES:
            _search(bank, {seed: name}, [seed], PROCEDURES[2])
    for line in table(bank, (3, 5, 10), given.studies):
        print(line, flush=True)


if __name__ == "__main__":
    main()
