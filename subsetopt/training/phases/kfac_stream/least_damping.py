"""A lower bound on the damping by evidence: from the noise of gradients, measured in the metric of the steps.

With F's eigenvalues f and M = F + damping I, gradients of covariance F have the noise A0 = sum f/(f + damping) in M^-1,
and ones that a distance of mean square t per parameter makes have the signal t A1, A1 = sum f^2/(f + damping). Measured
signal S and noise N of one sample (see `noise.py`) say two things:

- N/A0 is 1 where F is the covariance of gradients. It is far above where the few samples of the factors have missed
  directions, as they do where a column is rarely different from zero: there steps are g/damping, mostly noise. So the
  damping goes up by N/A0 over `FORESEEN` until noise is as foreseen; what is missed makes a noise that falls with it.
- With t = S/A1 and N/A0 in place of 1, the step of least expected error from b samples has the damping
  (N/A0)/(b t): that of a ridge regression. Successive steps average their noise, so that a part of it is best.

Both are in units of F: neither the scale of the loss nor the number of parameters enters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from subsetopt.objective.kfac.damping import KfacSpectrum
from subsetopt.training.phases.kfac_stream.noise import LEAST_SHARE, MEMORY

OF_RIDGE = 0.06  # of the damping of a single step of least expected error
FORESEEN, PASSES = (
    8.0,
    3.0,
)  # times the noise that F foresees, in a stream of so many passes; longer ones go by `foreseen`
DOWN, UP = 0.25, 16.0  # one measurement changes the damping by no more
TRIALS, ENOUGH = 3, 1.3  # dampings of the first step; a change by less needs no other


def foreseen(passes: float, share: float) -> float:
    """Return how many times the noise that F foresees is admitted, in a stream of so many `passes` over the samples.

    Damping slows what is flat, for which a long stream has time, while noise is in its way to the end. Squared
    gradients with a `share` of signal may be as large as noise alone is foreseen to be.
    """
    return min(FORESEEN, max(FORESEEN * PASSES / passes, 1.0 / max(1.0 - share, 1.0 / FORESEEN)))


@dataclass
class LeastDamping:
    """Running means of A0 and A1 over `count` measurements, and the damping `level` at which noise is as foreseen.

    Where `known` is false, as for the streams of an earlier version, there is no bound.
    """

    noise_of_unit: float = 0.0
    signal_of_unit: float = 0.0
    level: float = 0.0
    count: int = 0
    known: bool = True

    def learn(
        self,
        spectrum: KfacSpectrum,
        damping: float,
        noise: float,
        spread: float,
        caution: float = 1.0,
        admitted: float = FORESEEN,
    ) -> None:
        """Take in one measurement: the `noise` of one sample at this damping, where it is finite.

        `spread` is the size of losses: the covariance of gradients is so many times F. The damping is the used one,
        which `caution` has raised by its inverse square. `admitted` is what `foreseen` returns.
        """
        noise_of_unit, signal_of_unit = spectrum.traces(damping)
        if not (math.isfinite(noise) and noise_of_unit > 0 and self.known):
            return
        self.count += 1
        weight = max(1.0 / self.count, 1.0 - MEMORY)
        self.noise_of_unit += weight * (noise_of_unit - self.noise_of_unit)
        self.signal_of_unit += weight * (signal_of_unit - self.signal_of_unit)
        excess = noise / (noise_of_unit * spread * admitted)
        # Above the largest eigenvalue it turns no direction: noise and what F foresees fall alike, and nothing ends it.
        self.level = min(damping * caution**2 * min(UP, max(DOWN, excess)), spectrum.largest)

    def bound(self, signal: float, noise: float, size: float) -> float:
        """Return the least damping for `size` independent samples, by running means of signal and noise.

        0 where nothing is known. Signal that cannot be told from none counts as `LEAST_SHARE` of the noise.
        """
        if not (self.known and self.count):
            return 0.0
        signal = max(signal, LEAST_SHARE * noise / size)
        if signal <= 0:
            return self.level
        ridge = (noise / self.noise_of_unit) / (size * signal / self.signal_of_unit)
        return max(self.level, OF_RIDGE * ridge)
