"""The floating-point operations of an optimizer's steps: what the ledger is charged beside the gradient.

By the ledger's convention an update entry by entry (SGD, Adam) is free, for it is counted nowhere. Optimizers that
multiply or decompose matrices (Muon, Shampoo, SOAP) are counted while they do it, since many do so in some steps only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from subsetopt.objective.flops import count_contractions

StepWork = Literal["entrywise", "fixed", "varying"]
"""An optimizer's contractions: none at all, the same ones in each step, or nobody knows (all steps are counted)."""


class StepPrice:
    """Takes steps and says how many operations each was; "fixed" work is counted in the first one alone."""

    def __init__(self, work: StepWork) -> None:
        self._work = work
        self._known: int | None = 0 if work == "entrywise" else None

    def take(self, step: Callable[[], object]) -> int:
        """Call `step`, and return its operations (see `FORMULAS`)."""
        if self._known is not None:
            step()
            return self._known
        flops = count_contractions(step)
        if self._work == "fixed":
            self._known = flops
        return flops
