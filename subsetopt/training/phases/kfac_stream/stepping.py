"""From a measured subset to a step: how many samples, which direction and momentum, and within which bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from subsetopt.objective.kfac.damping import KfacSpectrum
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.solvers.inner_products import dot
from subsetopt.training.budget import PhaseBudget
from subsetopt.training.phases.kfac_stream.fresh_subsets import Measured
from subsetopt.training.phases.kfac_stream.least_damping import ENOUGH, FORESEEN, TRIALS, LeastDamping, foreseen
from subsetopt.training.phases.kfac_stream.noise import GradientNoise
from subsetopt.training.phases.kfac_stream.settings import SMALLEST, StreamSettings
from subsetopt.training.phases.kfac_stream.state import StreamState

OF_LOSS = 0.2  # bound on a step's change of the outputs: a Newton step on F gains half of what it changes
NOISE_SHARE = 0.05  # of what is spent, for measurements of noise
FEWEST_NORMED = 64  # samples of a subset whose halves may be normalised by their own statistics


class Direction(NamedTuple):
    """d = M^-1 g, with <g1, M^-1 g2> and <g, d> of the halves, zeros where there are none."""

    vector: Tensor
    product: Tensor
    whole: Tensor


@dataclass(frozen=True)
class Stepping:
    """The rules by which a stream of `samples` samples with these `settings` and curvature steps.

    `spread` is the size of losses here, and `has_floor` whether none of them is below zero.
    """

    settings: StreamSettings
    kfac: Kfac
    samples: int
    batch_dependent: bool
    spread: float = 1.0
    has_floor: bool = False

    def size(self, noise: GradientNoise, budget: PhaseBudget, share: float) -> int:
        """Return the size of the next subset, where a `share` of the budget is spent."""
        if self.settings.subset_min != "auto":
            return self.settings.size(share)
        price = budget.ledger.price("gradient", 1)
        affordable = budget.total(share) / price
        return noise.next_size(share, affordable, self._apply_price(budget) / price, SMALLEST, self.samples)

    def last_size(self, noise: GradientNoise, share: float) -> int:
        """Return the size of the last subset, roughly."""
        return max(SMALLEST, round(noise.size)) if self.settings.subset_min == "auto" else self.settings.size(share)

    def halves_due(self, noise: GradientNoise, budget: PhaseBudget, size: int) -> bool:
        """Whether noise is to be measured: where something follows it, and its share of the cost allows it.

        Charged are the operations of one more product with M^-1.
        """
        if not self.settings.follows_noise or size < (FEWEST_NORMED if self.batch_dependent else 2):
            return False
        if noise.cost > NOISE_SHARE * (budget.ledger.cost - budget.began):
            return False
        noise.cost += self._apply_price(budget)
        return True

    def damping(self, spectrum: KfacSpectrum, size: int, state: StreamState) -> float:
        """Return the damping of the next step: by directions, by evidence, and raised after a jump of the loss."""
        noise = state.noise
        least = state.least.bound(noise.whole_signal, noise.noise, noise.independent(size))
        return max(self.settings.step_damping(spectrum, size), least) / state.caution**2

    def admitted(self, noise: GradientNoise, budget: PhaseBudget, size: int) -> float:
        """Return how many times the noise that F foresees is admitted."""
        return foreseen(self.passes(budget), noise.share(size)) if noise.population else FORESEEN

    def passes(self, budget: PhaseBudget) -> float:
        """Return how many gradients of all samples the phase may spend."""
        return budget.affordable / budget.ledger.price("gradient", self.samples)

    def trials(self, budget: PhaseBudget) -> int:
        """Return how many dampings the first step may try: one, more for what measurements may have of the cost."""
        price = 2 * self._apply_price(budget)
        allowed = NOISE_SHARE * budget.total(budget.share_spent)
        return TRIALS if TRIALS * price <= allowed else max(1, int(allowed / price))

    def first_damping(
        self, spectrum: KfacSpectrum, measured: Measured, damping: float, spread: float, state: StreamState
    ) -> float:
        """Return the damping of a first step, in place of that by directions: the evidence is in its own subset."""
        if measured.halves is None:
            return damping
        for _ in range(self.trials(state.budget)):
            noise, least = GradientNoise(population=state.noise.population), LeastDamping()
            noise.learn(*self._trial(measured, damping), measured.samples)
            least.learn(spectrum, damping, noise.noise, spread)
            wanted = least.bound(noise.whole_signal, noise.noise, noise.independent(measured.samples))
            if not wanted >= ENOUGH * damping:
                break
            damping = wanted
        return damping

    def _trial(self, measured: Measured, damping: float) -> tuple[float, float]:
        """Return the products that `direction` finds, but leave the measured gradients as they are."""
        assert measured.halves is not None, "asked for where there are halves alone"
        first, second = measured.halves
        vector = self.kfac.apply(second, damping)
        product = dot(first, vector)
        self.kfac.add_applied(vector.mul_(1.0 - measured.first), first, damping, measured.first)
        return float(product), float(dot(measured.gradient, vector))

    def direction(self, measured: Measured, damping: float) -> Direction:
        """Return M^-1 g, by way of the halves where these were measured: their storage is used up."""
        zero = measured.loss.new_zeros(())
        if measured.halves is None:
            return Direction(self.kfac.apply(measured.gradient, damping), zero, zero)
        first, second = measured.halves
        vector = self.kfac.apply_(second, damping)
        product = dot(first, vector)
        vector.mul_(1.0 - measured.first).add_(self.kfac.apply_(first, damping), alpha=measured.first)
        return Direction(vector, product, dot(measured.gradient, vector))

    def inertia(self, gradient: Tensor, vector: Tensor, damping: float, momentum: float, before: Inertia) -> Tensor:
        """Return v'Fv of the velocity v = d + momentum u, given u'Fu, without another product: F d = g - damping d.

        The storage of the gradient is used up.
        """
        image = gradient.sub_(vector, alpha=damping)
        of_direction = dot(image, vector)
        if momentum == 0 or before.curvature == 0:
            return of_direction
        return of_direction + 2 * momentum * dot(image, before.velocity) + momentum**2 * before.curvature

    def momentum(self, noise: GradientNoise, size: int) -> float:
        """Return the momentum of the next step."""
        given = self.settings.momentum
        return noise.momentum(size) if given == "auto" else given

    def trust(self, state: StreamState, size: int) -> float:
        """Return the bound on the change of the outputs in the next step, in units of the loss.

        Where no loss is below zero, there is not more to gain than the loss: a share of it bounds the change, too. So
        where a class is rare and the loss small from the start, steps are small.
        """
        given = self.settings.trust
        bound = self.spread * (state.noise.trust(size) if given == "auto" else given)
        mean = state.guard.mean  # below zero for targets that are none, as 2 for BCE
        if given == "auto" and self.has_floor and state.by_loss and mean > 0:
            return min(bound, OF_LOSS * mean)
        return bound

    def _apply_price(self, budget: PhaseBudget) -> float:
        return budget.ledger.price("flops", self.kfac.product_flops)


class Inertia(NamedTuple):
    """The velocity u of the last step, and u'Fu."""

    velocity: Tensor
    curvature: float
