"""What a method says of itself beside its code: the setting that comparisons tune, and how `plan` prices it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

RATE_FACTOR = math.sqrt(10.0)


@dataclass(frozen=True)
class Knob:
    """A setting and its grid: `centre * factor**i` (log), or odds of `centre / (1 - centre) * 3**i` (logit).

    `name` is `lr`, `solve_share`, `draw_share`, `noise_theta` (of all growing stages), or a setting of the solver.
    """

    name: str
    centre: float
    scale: Literal["log", "logit"] = "log"
    whole: bool = False
    factor: float = RATE_FACTOR

    def value(self, index: float) -> float:
        """Return the value at grid index `index`; 0 is the default."""
        if self.scale == "logit":
            odds = self.centre / (1 - self.centre) * 3.0**index
            return float(f"{odds / (1 + odds):.4g}")
        value = self.centre * self.factor**index
        return max(1, round(value)) if self.whole else float(f"{value:.4g}")


@dataclass(frozen=True)
class PlannedStrategy:
    """A way to train: the law that prices it, its flags of `subsetopt train`, and those of `limits` that cap its cost.

    `fewest` samples are the least with which it does what its law was measured on. `stream_units` is the part of its
    epoch-equivalents that the mini-batches of `stream` take before the full batches. Every limit gets the whole cost:
    one for the run, and one wherever a phase's own default would end it sooner.
    """

    name: str
    kind: Literal["full batch", "mini-batch", "stream"]
    flags: str
    limits: tuple[str, ...]
    stream_units: float = 0.0
    stream: str = ""
    fewest: int = 0
