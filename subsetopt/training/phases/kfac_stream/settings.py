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
CONSTANTS = {"subset_min": 128, "subset_max": 1000, "trust": 0.07, "momentum": 0.5}
"""What "auto" stood for before it followed the noise: streams of an earlier version go on with these."""
EARLIER_RATE = 0.12
"""The default of earlier versions, with which their streams go on."""
PATIENCE = 3  # jumps in a row, after which a finite loss is taken for the new level


@dataclass(frozen=True)
class StreamSettings:
    """Settings of `kfac-stream`; `share` below is the share of its cost that is spent, from 0 to 1.

    The step s is -rate * (1 - share) times the momentum of (F + damping I)^-1 g, shortened where it would change the
    outputs by more than `trust` (of the targets' variance for squared loss): s'Fs, corrected by what earlier steps have
    changed (see `output_change.py`). The damping is the one that leaves `directions` directions for each sample of the
    subset, sum_i (f_i / (f_i + damping))^2 over the eigenvalues of F: more could not be told from sampling noise. So it
    needs no scale, and falls as subsets grow. Measured noise bounds it from below (see `least_damping.py`).

    "auto" sizes of subsets, `trust` and `momentum` follow the measured noise of the gradient (see `noise.py`). With
    `subset_min` or `subset_max` given, subsets grow from the one to the other; of a small training set they are
    smaller, so that one pass over it has `pass_steps` of the largest. Factors are estimated on `factor_samples` samples
    (fewer where subsets are smaller), for `factor_share` of the whole cost, and keep `memory` of what was known before.
    """

    subset_min: int | Literal["auto"] = setting("auto", at_least=2)
    subset_max: int | Literal["auto"] = setting("auto", at_least=2)
    rate: float = setting(0.18, above=0)
    momentum: float | Literal["auto"] = setting("auto", at_least=0, below=1)
    directions: float = setting(1.8, above=0)
    trust: float | Literal["auto"] = setting("auto", above=0)
    pass_steps: int = setting(32, at_least=1)
    factor_share: float = setting(0.15, above=0, below=1)
    factor_samples: int = setting(128, at_least=2)
    memory: float = setting(0.8, at_least=0, below=1)
    draw: Literal["curvature", "labels", "empirical"] = setting("curvature")

    @property
    def follows_noise(self) -> bool:
        """Whether anything is "auto"."""
        return "auto" in (self.subset_min, self.trust, self.momentum)

    def size(self, share: float) -> int:
        """Return the number of samples of a subset whose growth is given: geometric."""
        assert self.subset_min != "auto" and self.subset_max != "auto", "sizes are both given, or neither"
        return round(self.subset_min * math.pow(self.subset_max / self.subset_min, share))

    def factor_cost(self, share: float, total: float) -> float:
        """Return what factors may have taken of the `total` cost by now: more at first, when F changes most."""
        return self.factor_share * total * math.sqrt(share)

    def step_rate(self, share: float) -> float:
        """Return the rate: linear decay to zero."""
        return self.rate * (1.0 - share)

    def step_damping(self, spectrum: KfacSpectrum, size: int) -> float:
        """Return the damping that leaves `directions` for each of `size` samples."""
        return spectrum.damping(self.directions * size)


def stream_settings(given: Mapping[str, Any], samples: int, *, constant: bool = False) -> StreamSettings:
    """Return checked settings for `samples` training samples; raises `SettingError`. Subsets never exceed these.

    With `constant`, what is "auto" has its `CONSTANTS`.
    """
    settings = StreamSettings(**check_settings(StreamSettings, given, "kfac-stream"))
    sizes = {name: getattr(settings, name) for name in ("subset_min", "subset_max")}
    known = sizes if any(size != "auto" for size in sizes.values()) else {}
    if constant:
        known = {name: getattr(settings, name) for name in CONSTANTS}
    known = {name: CONSTANTS[name] if value == "auto" else value for name, value in known.items()}
    low, high = known.get("subset_min", 0), known.get("subset_max", CONSTANTS["subset_max"])
    if high < low:
        name = "subset_max" if settings.subset_max != "auto" else "subset_min"
        other = "subset_min" if name == "subset_max" else "subset_max"
        word, remedy = ("below", "raise it") if name == "subset_max" else ("above", f"lower it, or raise {other}")
        raise SettingError(name, getattr(settings, name), f"is {word} {other} = {known[other]}", remedy)
    scale = min(1.0, samples / (settings.pass_steps * high))
    if "subset_min" in known:
        smallest, largest = (max(2, round(scale * size)) for size in (low, high))
        known |= {"subset_min": min(largest, max(smallest, SMALLEST)), "subset_max": largest}
    drawn = settings.factor_samples
    if "factor_samples" not in given:
        drawn = max(SMALLEST, round(drawn * math.sqrt(scale)))
    return replace(settings, factor_samples=drawn, **known)


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
