"""How much of a subset's gradient is signal: measured between halves of subsets, in the metric of the steps.

With g1 and g2 the gradients of two halves of b samples, independent and of the same mean g, and M = F + damping I,
<g1, M^-1 g2> has the mean S = g'M^-1 g; what is left of |(g1 + g2)/2|^2 in M^-1 has the mean of the noise, tr(M^-1 C)/b
for per-sample gradients of covariance C. One measurement scatters by more than S, so that running means are used.

The *critical size* tr(M^-1 C)/S is that of the subset with as much noise as signal (McCandlish, Kaplan, Amodei et al.
2018, arXiv 1812.06162, in the Euclidean metric). Fewer samples make steps that are mostly noise, more of them hardly
better steps. All is a ratio, so that neither the scale of the loss nor the number of samples enters.

Of a set of N samples that are drawn without replacement, halves are not independent: <g1, M^-1 g2> has the mean
S - tr(M^-1 C)/N, and the noise of b samples is tr(M^-1 C) (1/b - 1/N), none of all of them (Cochran 1977, section 2.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MEMORY = 0.9  # of the running means
BEHIND = 1.4  # measurements, beyond which a mean is of another time
ENOUGH = 3  # measurements; fewer are not followed
LEAST_SHARE = 0.02  # of signal: less cannot be told from none
UNMEASURED = 1 / 3  # the share of signal until it has been measured

OF_CRITICAL = 1.0  # of the critical size: the size of a subset
STEPS = 48  # that a stream shall have, if its arithmetic allows: bounds subsets
OF_ROOT = 0.25  # of the root of the samples that it may see: so many steps, where these are more
LEAST_STEPS = 24  # where a step's own arithmetic costs as much as so large a subset
SMALLEST_PART, PASS_STEPS = 8, 64  # of the largest subset, and of a pass: no subset needs to be smaller than both
GROWTH = 1.15  # from one subset to the next, up or down
TRUST = 0.2  # bound on a step's change of the outputs, for a gradient without noise
MOMENTUM, PER_SHARE = 0.5, 1.25  # the most, and momentum for each unit of the share of signal


@dataclass
class GradientNoise:
    """Running means of the squared gradient `signal` and of the `noise` of one sample, both in M^-1.

    `measured` counts measurements, `cost` is what they took beside the gradients, in epoch-equivalents, and `size` the
    size of the last subset, 0 before the first; `of_critical` is the size that is wanted, in critical ones. A stream
    takes `of_root` times the root of the samples that it may see for the least number of its steps.
    `population` is the number of all samples in a long stream, which ends at their minimum; 0, for infinitely many, in
    one of few passes, whose samples stand for those they were drawn from, and in streams of earlier versions.
    Squared gradients fall by orders of magnitude in a long stream, while measurements are rare: what lasts is the share
    of signal in them. So there means are `rescaled` to the noise of a far smaller measurement before it is taken in.
    """

    signal: float = 0.0
    noise: float = 0.0
    measured: int = 0
    cost: float = 0.0
    size: float = 0.0
    of_critical: float = OF_CRITICAL
    population: int = 0
    rescaled: bool = True
    of_root: float = OF_ROOT

    @property
    def whole_signal(self) -> float:
        """The squared gradient of all samples in M^-1."""
        return self.signal + max(self.noise, 0.0) / self.population if self.population else self.signal

    def independent(self, size: float) -> float:
        """Return how many independent samples have as little noise as `size` of the set; infinity for all of it."""
        if not self.population:
            return size
        return 1.0 / (1.0 / size - 1.0 / self.population) if size < self.population else math.inf

    @property
    def enough(self) -> bool:
        """Whether there are measurements enough to be followed."""
        return self.measured >= ENOUGH

    def learn(self, product: float, whole: float, size: int) -> None:
        """Take in <g1, M^-1 g2> of the halves, and |g|^2 of the whole subset of `size` samples, where both are finite.

        An odd sample more in one half is neglected.
        """
        if not (math.isfinite(product) and math.isfinite(whole)):
            return
        self.measured += 1
        noise = (whole - product) * size
        if self.rescaled and 0 < BEHIND * noise < self.noise:
            scale = BEHIND * noise / self.noise
            self.signal, self.noise = scale * self.signal, scale * self.noise
        weight = max(1.0 / self.measured, 1.0 - MEMORY)
        self.signal += weight * (product - self.signal)
        self.noise += weight * (noise - self.noise)

    def share(self, size: float) -> float:
        """Return the share of signal in the squared gradient of `size` samples, from `LEAST_SHARE` to 1."""
        signal, noise = max(self.whole_signal, 0.0), max(self.noise, 0.0) / self.independent(size)
        if not self.enough or signal + noise <= 0:
            return UNMEASURED
        return max(LEAST_SHARE, signal / (signal + noise))

    def critical(self, size: float) -> float:
        """Return the number of samples whose noise equals the signal, as seen from subsets of `size`."""
        if self.population and self.enough and self.noise > 0:
            return 1.0 / (max(self.whole_signal, 0.0) / self.noise + 1.0 / self.population)
        share = self.share(size)
        return size * (1.0 - share) / share

    def next_size(self, spent: float, samples: float, arithmetic: float, fewest: int, most: int) -> int:
        """Return the size of the next subset, `fewest` to `most`, where a share is `spent` of what pays `samples`.

        `arithmetic` is what a step costs beside its subset, in samples: progress b/(b + critical) for b + arithmetic
        samples is best at b = sqrt(arithmetic * critical), which bounds subsets from below. A larger budget is larger
        subsets and, as one step may change only so much, more steps.
        """
        largest = min(samples / STEPS, math.sqrt(samples) / self.of_root if self.of_root else math.inf)
        largest = max(largest, min(arithmetic, samples / LEAST_STEPS))
        largest = float(min(most, max(fewest, largest)))
        planned = largest / SMALLEST_PART ** ((1.0 - spent) / 2.0)
        self.size = min(self.size or planned, largest)
        wanted = planned
        if self.enough:
            critical = self.critical(self.size)
            wanted = max(self.of_critical * critical, math.sqrt(arithmetic * critical))
        wanted = min(largest, max(wanted, min(largest / SMALLEST_PART, most / PASS_STEPS)))
        self.size = min(self.size * GROWTH, max(self.size / GROWTH, wanted))
        return min(most, max(fewest, round(self.size)))

    def trust(self, size: float) -> float:
        """Return the bound on a step's change of the outputs: of a noisy gradient, less is worth stepping along."""
        return TRUST * self.share(size)

    def momentum(self, size: float) -> float:
        """Return the momentum: steps that are mostly noise are better not repeated."""
        return min(MOMENTUM, PER_SHARE * self.share(size))
