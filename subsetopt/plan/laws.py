"""Measured costs of strategies (`laws.toml`) as functions of the wanted excess and the size of the training set."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Literal, NamedTuple

from subsetopt.errors import SettingError

Number = float | None
TINY = 1e-8  # what no L2 at all counts as


class Range(NamedTuple):
    """A cost between `low` and `high`."""

    low: float
    high: float

    def times(self, factor: float) -> Range:
        """Return the range scaled."""
        return Range(self.low * factor, self.high * factor)

    @property
    def middle(self) -> float:
        """The geometric mean."""
        return math.sqrt(self.low * self.high)


@dataclass(frozen=True)
class Law:
    """One measurement at N `samples` and L2 strength `l2`.

    `low` and `high` are the cost at each of `levels` of relative excess, None where it was not reached or measured.

    `unit` is epoch-equivalents, or the share of those of L-BFGS on the full set; `calls` dependent model calls per
    epoch-equivalent, None where the kind of method says it.
    """

    strategy: str
    samples: int
    l2: float
    unit: Literal["units", "share"]
    levels: tuple[float, ...]
    low: tuple[Number, ...]
    high: tuple[Number, ...]
    source: str
    calls: float | None = None

    def __post_init__(self) -> None:
        if not len(self.levels) == len(self.low) == len(self.high):
            raise SettingError("law", self.strategy, "has not one cost per level", "mend laws.toml")

    def at(self, excess: float) -> Range | None:
        """Return the cost to a relative excess, log-log between levels; None where nothing was measured as deep.

        A coarser target than the coarsest level costs what that does.
        """
        low, high = (_between(self.levels, part, excess) for part in (self.low, self.high))
        return None if low is None or high is None else Range(low, high)


def read_laws(text: str) -> tuple[Law, ...]:
    """Read the table; "-" stands for what was not measured."""
    table = tomllib.loads(text)
    levels = tuple(float(level) for level in table["levels"])
    return tuple(
        Law(
            entry["strategy"],
            entry["samples"],
            entry["l2"],
            entry["unit"],
            levels,
            _numbers(entry["low"]),
            _numbers(entry["high"]),
            entry["source"],
            entry.get("calls"),
        )
        for entry in table["law"]
    )


@cache
def shipped_laws() -> tuple[Law, ...]:
    """Return the laws that come with the package."""
    return read_laws(_shipped_text())


@cache
def pilot_range(excess: float) -> tuple[Range, str]:
    """Return epoch-equivalents of L-BFGS on all data per evaluation on a pilot's subset, and where that was measured.

    Both to the same excess, each over its own minimum; below the finest level as there.
    """
    table = tomllib.loads(_shipped_text())
    levels, entry = tuple(table["levels"]), table["pilot"]
    ratio = Law("pilot", 1, 1.0, "share", levels, tuple(entry["low"]), tuple(entry["high"]), entry["source"])
    found = ratio.at(max(excess, levels[-1]))
    assert found is not None, "measured at every level"
    return found, entry["source"]


def cost_of(
    laws: Sequence[Law], strategy: str, excess: float, samples: int, l2: float
) -> tuple[Range | None, tuple[Law, ...]]:
    """Return the cost of `strategy` for N = `samples` at the L2 strength `l2`, and the laws that it rests on.

    Of each measured size the law with the nearest strength counts. Between two sizes the logarithms of the costs are
    interpolated in log N where both reach `excess`; None where the nearest size does not.
    """
    sizes = sorted({law.samples for law in laws if law.strategy == strategy})
    own = [_nearest([law for law in laws if (law.strategy, law.samples) == (strategy, size)], l2) for size in sizes]
    if not own:
        return None, ()
    nearest = min(own, key=lambda law: abs(math.log(samples / law.samples)))
    cost = nearest.at(excess)
    beyond = [law for law in own if (law.samples > samples) != (nearest.samples > samples)]
    if cost is None or not beyond or nearest.samples == samples:
        return cost, (nearest,)
    other = min(beyond, key=lambda law: abs(math.log(samples / law.samples)))
    further = other.at(excess)
    if further is None:
        return cost, (nearest,)
    share = math.log(samples / nearest.samples) / math.log(other.samples / nearest.samples)
    low, high = (math.exp((1 - share) * math.log(x) + share * math.log(y)) for x, y in zip(cost, further, strict=True))
    return Range(low, high), (nearest, other)


def _nearest(laws: Sequence[Law], l2: float) -> Law:
    return min(laws, key=lambda law: abs(math.log(max(l2, TINY) / law.l2)))


def _shipped_text() -> str:
    return files("subsetopt.plan").joinpath("laws.toml").read_text(encoding="utf-8")


def _between(levels: Sequence[float], costs: Sequence[Number], excess: float) -> float | None:
    known = [(level, cost) for level, cost in zip(levels, costs, strict=True) if cost is not None]
    known.sort(reverse=True)
    if not known or excess < known[-1][0] * (1 - 1e-9):
        return None
    if excess >= known[0][0]:
        return known[0][1]
    for (coarse, cheap), (fine, dear) in pairwise(known):
        if excess >= fine * (1 - 1e-9):
            share = math.log(excess / coarse) / math.log(fine / coarse)
            return math.exp((1 - share) * math.log(cheap) + share * math.log(dear))
    return None


def _numbers(values: Sequence[float | str]) -> tuple[Number, ...]:
    return tuple(None if isinstance(value, str) else float(value) for value in values)
