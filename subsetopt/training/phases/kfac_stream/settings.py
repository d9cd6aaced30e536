"""The streaming-subset method in formulas: its settings, how they move with the share of cost spent, and its guard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from subsetopt.errors import SettingError
from subsetopt.objective.kfac.damping import KfacSpectrum
from subsetopt.settings import check_settings, setting

GROWTH, ERRORS = 1.2, 2.0  # a loss beyond so many times its running mean, by so many standard errors, is a jump
ABSURD = 20.0  # running means that no standard error excuses
MEAN_SHARE = 0.1  # of each new loss in the running mean
SMALLEST = 16  # samples of a subset
PATIENCE = 3  # jumps in a row, after which a finite loss is taken for the new level


@dataclass(frozen=True)
class StreamSettings:
    """Settings of `kfac-stream`; `share` below is the share of its cost that is spent, from 0 to 1.

    Subsets grow from `subset_min` to `subset_max` samples; of a small training set they are smaller, so that one pass
    over it has `pass_steps` of the largest. The step s is -rate * (1 - share) times the momentum of
    (F + damping I)^-1 g, shortened where it would change the outputs by more than `trust` (of the targets' variance
    for squared loss): s'Fs, corrected by what
    earlier steps have changed (see `output_change.py`). The damping is the one
    that leaves `directions` directions for each sample of the subset, sum_i (f_i / (f_i + damping))^2 over the
    eigenvalues of F: more could not be told from sampling noise. So it needs no scale, and falls as subsets grow.
    Factors are estimated on `factor_samples` samples (fewer where subsets are smaller), for `factor_share` of the whole
    cost, and keep `memory` of what was known before.
    """

    subset_min: int = setting(128, at_least=2)
    subset_max: int = setting(1000, at_least=2)
    rate: float = setting(0.12, above=0)
    momentum: float = setting(0.5, at_least=0, below=1)
    directions: float = setting(1.8, above=0)
    trust: float = setting(0.07, above=0)
    pass_steps: int = setting(32, at_least=1)
    factor_share: float = setting(0.15, above=0, below=1)
    factor_samples: int = setting(128, at_least=2)
    memory: float = setting(0.8, at_least=0, below=1)
    draw: Literal["curvature", "labels", "empirical"] = setting("curvature")

    def size(self, share: float) -> int:
        """Return the number of samples of a subset: geometric growth."""
        return round(self.subset_min * math.pow(self.subset_max / self.subset_min, share))

    def factor_cost(self, share: float, total: float) -> float:
        """Return what factors may have taken of the `total` cost by now: more at first, when F changes most."""
        return self.factor_share * total * math.sqrt(share)

    def step_rate(self, share: float) -> float:
        """Return the rate: linear decay to zero."""
        return self.rate * (1.0 - share)

    def step_damping(self, spectrum: KfacSpectrum, share: float) -> float:
        """Return the damping that leaves `directions` per sample."""
        return spectrum.damping(self.directions * self.size(share))


def stream_settings(given: Mapping[str, Any], samples: int) -> StreamSettings:
    """Return checked settings for `samples` training samples; raises `SettingError`. Subsets never exceed these."""
    settings = StreamSettings(**check_settings(StreamSettings, given, "kfac-stream"))
    if settings.subset_max < settings.subset_min:
        raise SettingError(
            "subset_max", settings.subset_max, f"is below subset_min = {settings.subset_min}", "raise it"
        )
    scale = min(1.0, samples / (settings.pass_steps * settings.subset_max))
    smallest, largest = (max(2, round(scale * size)) for size in (settings.subset_min, settings.subset_max))
    smallest = min(largest, max(smallest, SMALLEST))
    drawn = settings.factor_samples
    if "factor_samples" not in given:
        drawn = max(SMALLEST, round(drawn * math.sqrt(scale)))
    return replace(settings, subset_min=smallest, subset_max=largest, factor_samples=drawn)


@dataclass
class Guard:
    """Tells a jump of the loss from its sampling noise: its running mean over fresh subsets, and jumps in a row."""

    mean: float = math.nan
    jumps: int = 0

    def admits(self, loss: float, error: float) -> bool:
        """Return whether to go on from the point with this loss, of that standard error; takes it in where it does."""
        jumped = loss > GROWTH * self.mean + min(ERRORS * error, ABSURD * self.mean)
        if not math.isfinite(loss) or (jumped and self.jumps < PATIENCE):
            self.jumps += 1
            return False
        anew = jumped or math.isnan(self.mean)
        self.mean = loss if anew else self.mean + MEAN_SHARE * (loss - self.mean)
        self.jumps = 0
        return True
