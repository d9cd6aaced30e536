"""A collected study: rows of results.csv by method and budget, and what pages compute from them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from subsetopt.study.statistics import PairedTest, compare_all

STUDIES = Path(__file__).parent / "studies"
Values = dict[str, dict[int, float]]
"""Method -> seed -> number."""


@dataclass(frozen=True)
class Study:
    """What `collect.py` kept of a comparison; `rows` is empty while it is under way."""

    name: str
    about: Mapping[str, Any]
    rows: tuple[Mapping[str, str], ...]
    sampling: tuple[Mapping[str, str], ...]

    @property
    def budgets(self) -> list[float]:
        """Budgets in rising order."""
        return sorted({float(row["budget"]) for row in self.rows})

    @property
    def methods(self) -> list[str]:
        """Methods in the order of the study."""
        return list(dict.fromkeys(row["method"] for row in self.rows))

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return len({row["seed"] for row in self.rows})

    def values(self, column: str, budget: float | None = None, methods: Sequence[str] = ()) -> Values:
        """Return a column by method and seed, at one budget (default: the largest)."""
        at = self.budgets[-1] if budget is None else budget
        found: Values = {name: {} for name in methods or self.methods}
        for row in self.rows:
            if row["method"] in found and float(row["budget"]) == at and row[column]:
                found[row["method"]][int(row["seed"])] = float(row[column])
        return found

    def tests(self, column: str, baseline: str, budget: float | None, methods: Sequence[str]) -> dict[str, PairedTest]:
        """Return paired tests of `methods` with `baseline`, one family; by method."""
        names = list(dict.fromkeys([*methods, baseline]))
        tests = compare_all(self.values(column, budget, names), column == "test_accuracy", baseline=baseline)
        return {test.a: test for test in tests}


@cache
def read_study(name: str, root: Path = STUDIES) -> Study:
    """Return the collected study `name`; one that has not been collected has no rows and an empty `about`."""
    folder = root / name
    about = json.loads((folder / "about.json").read_text(encoding="utf-8")) if (folder / "about.json").is_file() else {}
    return Study(name, about, read_csv(folder / "results.csv"), read_csv(folder / "sampling.csv"))


def read_csv(path: Path) -> tuple[Mapping[str, str], ...]:
    """Return the rows of a CSV file with a header; none where there is no file."""
    if not path.is_file():
        return ()
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def mean(values: Mapping[int, float]) -> float:
    """Return the mean over seeds."""
    return sum(values.values()) / len(values)
