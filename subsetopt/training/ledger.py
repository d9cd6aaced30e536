"""The cost ledger: every model call of a run, and a method's own arithmetic, in epoch-equivalents by purpose.

One epoch-equivalent is one forward and backward pass over the N training samples. Calls are kept as exact integer
counts, and the cost is computed from them, so that a resumed run has the same cost to the last bit.

The price of a call is its floating-point operations over those of a gradient, as torch counts them. Counted are
contractions alone (`objective/flops.py`): products of matrices and vectors, convolutions, attention, decompositions.
Work entry by entry is counted for nobody, neither a model's activations nor an optimizer's update; seconds show it.
A method's own contractions are entered as "flops": curvature pairs, Krylov bases and factors noted where they are
computed (`objective/tally.py`), optimizer steps counted (`first_order/step_price.py`), selection counted, with formulas
for numpy's part (`samplers/omp.py`). Two purposes stand apart, shown but in no budget: evaluation, and augmentation,
which has no contractions and is priced at one operation for each number that it writes. Counting prices is not charged,
nor is the check that products of 16 samples are symmetric.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

from subsetopt.objective.prices import Prices
from subsetopt.objective.protocol import BudgetExhausted, CallKind, Purpose
from subsetopt.objective.tally import Tally, tallied

_ENTRIES = [(purpose, kind) for purpose in get_args(Purpose) for kind in get_args(CallKind)]

APART = ("evaluation", "augmentation")
"""Purposes that no budget covers and no cost contains."""

# A budget of 3 must admit three whole epochs although 3 * (N * (1/N)) may round above 3.
_SLACK = 1e-9


class Ledger:
    """Counts of calls and samples, priced per kind relative to one gradient (forward and backward) of one sample.

    `full_size` is N. `budget` (epoch-equivalents, None for no limit) covers every purpose but those `APART`;
    `charge` raises `BudgetExhausted` instead of admitting a call that would overrun it or the current `limit`, or would
    leave no room for the arithmetic that may follow it, by what has followed others in this phase.
    """

    def __init__(self, full_size: int, prices: Mapping[str, float], budget: float | None = None) -> None:
        self.full_size = full_size
        self.prices = prices if isinstance(prices, Prices) else Prices({"flops": 0.0, **prices})
        self.budget = math.inf if budget is None else budget
        self.limit = self.budget
        self._since, self._most, self._growth, self._possible = 0, 0, 0, 0
        self._noted: tuple[Tally, Purpose] | None = None
        self._calls: Counter[tuple[str, str]] = Counter()
        self._samples: Counter[tuple[str, str]] = Counter()

    def charge(self, kind: CallKind, samples: int, purpose: Purpose) -> None:
        """Enter one call over `samples` samples, before it is made."""
        self._enter_noted()
        self._learn_what_follows()
        after = self.price(kind, samples) + self.price("flops", self._most + self._growth + self._possible)
        if purpose not in APART and self.cost + after > self.limit * (1 + _SLACK):
            raise BudgetExhausted
        self._since = 0
        self._calls[purpose, kind] += 1
        self._samples[purpose, kind] += samples

    def enter(self, flops: int, purpose: Purpose) -> None:
        """Enter a step's own arithmetic when it is done and known; what comes leaves room for as much, and growth."""
        self._calls[purpose, "flops"] += 1
        self._samples[purpose, "flops"] += flops
        self._since += flops

    def _learn_what_follows(self) -> None:
        """Take in how much arithmetic there was since the last call, the most so far and by how much it grew."""
        if 0 < self._most < self._since:
            self._growth = self._since - self._most
        self._most = max(self._most, self._since)

    @contextmanager
    def arithmetic(self, purpose: Purpose = "arithmetic") -> Iterator[None]:
        """Enter what the enclosed step notes of its own arithmetic (`tally.py`), before each call and at the end."""
        with tallied() as tally:
            self._noted = tally, purpose
            try:
                yield
            finally:
                self._enter_noted()
                self._noted = None

    def _enter_noted(self) -> None:
        if self._noted is None:
            return
        tally, purpose = self._noted
        self._possible = tally.possible  # said anew by each step, before its calls
        if tally.flops:
            self.enter(tally.flops, purpose)
            tally.flops = 0

    def price(self, kind: str, samples: int) -> float:
        """Return the cost in epoch-equivalents of one call over `samples` samples."""
        return self.prices[kind] * samples / self.full_size

    def open_phase(self, epochs: float | None) -> None:
        """Limit what follows to `epochs` more epoch-equivalents, within the budget of the run."""
        self._since, self._most, self._growth, self._possible = 0, 0, 0, 0
        self.limit = self.budget if epochs is None else min(self.budget, self.cost + epochs)

    def reserve(self, epochs: float) -> None:
        """Keep `epochs` of the current limit for what finishes the phase."""
        self.limit -= epochs

    @property
    def cost(self) -> float:
        """Epoch-equivalents spent on everything but the purposes `APART`."""
        return sum(self.price(kind, n) for (purpose, kind), n in self._samples.items() if purpose not in APART)

    @property
    def evaluation_cost(self) -> float:
        """Epoch-equivalents spent on evaluation, shown apart."""
        return sum(self.price(kind, n) for (purpose, kind), n in self._samples.items() if purpose == "evaluation")

    def by_purpose(self) -> dict[str, dict[str, float]]:
        """Return calls, samples and epoch-equivalents of each purpose that occurred, and operations if it has any."""
        table: dict[str, dict[str, float]] = {}
        for (purpose, kind), samples in sorted(self._samples.items()):
            row = table.setdefault(purpose, {"epoch_equivalents": 0.0, "samples": 0, "calls": 0})
            row["epoch_equivalents"] += self.price(kind, samples)
            if kind == "flops":
                row["flops"] = samples
                continue
            row["samples"] += samples
            row["calls"] += self._calls[purpose, kind]
        return table

    def counts(self) -> list[int]:
        """Return calls and samples of every purpose and kind, in a fixed order; see `add`."""
        return [counter[entry] for counter in (self._calls, self._samples) for entry in _ENTRIES]

    def add(self, counts: Sequence[int]) -> None:
        """Enter calls that another ledger has admitted, as `counts` has them."""
        for entry, calls, samples in zip(_ENTRIES, counts, counts[len(_ENTRIES) :], strict=False):
            if calls:
                self._calls[entry] += calls
                self._samples[entry] += samples

    def save(self) -> dict[str, Any]:
        """Return the ledger as JSON-able numbers."""
        entries = [[purpose, kind, self._calls[purpose, kind], n] for (purpose, kind), n in self._samples.items()]
        limit = None if math.isinf(self.limit) else self.limit
        return {
            "prices": dict(self.prices),
            "limit": limit,
            "following": [self._since, self._most, self._growth],
            "entries": entries,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take back what `save` returned.

        A run that an earlier version began goes on as it began: there a method's own arithmetic had no price.
        """
        self.prices = self.prices.changed({"flops": 0.0, **saved["prices"]})
        self._since, self._most, self._growth = saved.get("following", (0, 0, 0))
        self.limit = math.inf if saved["limit"] is None else saved["limit"]
        self._calls = Counter({(purpose, kind): calls for purpose, kind, calls, _ in saved["entries"]})
        self._samples = Counter({(purpose, kind): samples for purpose, kind, _, samples in saved["entries"]})
