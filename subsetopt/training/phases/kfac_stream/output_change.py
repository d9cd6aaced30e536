"""How much a step really changes what the model says, beside what K-FAC foresees: measured on a few samples.

With H the Hessian of the loss in the outputs z, a step s changes them by mean_i dz_i' H_i dz_i, which for small s is
s'Gs of the Gauss-Newton matrix. K-FAC's s'Fs leaves out what layers do together, and is some five to fifty times
smaller. The ratio of the two is the same for many steps in a row, so that it turns the bound on s'Fs into one on the
change itself. Where it is not the same, as where few samples have a class, a step can change outputs thousands of times
as much as foreseen. So the first steps are tried: the change is measured before they are taken, and they are shortened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from subsetopt.objective.losses import Loss

FEWEST, FEWEST_NORMED, MOST = 4, 8, 32  # samples; with BatchNorm, which takes statistics of them, some more
OF_A_SUBSET = 8  # one sample in so many of a subset: a forward pass on them costs a twenty-fourth of its gradient
MEMORY = 0.9  # of the running sums
UNMEASURED = 16.0  # the ratio until it has been measured
TRIALS = 8  # steps that are tried
SHORTEST = 1 / 64  # of its length, for a step that has been tried


@dataclass
class OutputChange:
    """Running sums of changes `seen` and `foreseen`; the outputs `(m, M)` at the last parameters, empty if unknown.

    `rows` are the samples; `step` is the s'Fs of the step taken since, 0 if its change is known. So many `trials` are
    still to be made; in streams of earlier versions, none.
    """

    rows: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long, device="cpu"))
    outputs: Tensor = field(default_factory=lambda: torch.zeros(0, device="cpu"))
    seen: float = 0.0
    foreseen: float = 0.0
    step: float = 0.0
    trials: int = TRIALS

    @property
    def ratio(self) -> float:
        """How many times larger changes are than foreseen."""
        return self.seen / self.foreseen if self.foreseen > 0 and self.seen > 0 else UNMEASURED

    def watch(self, rows: Tensor, size: int, batch_dependent: bool) -> None:
        """Take the first of `rows` for the samples, few beside subsets of `size`."""
        fewest = FEWEST_NORMED if batch_dependent else FEWEST
        self.rows = rows[: min(MOST, max(fewest, size // OF_A_SUBSET))]
        self.forget()

    def forget(self) -> None:
        """The parameters have changed by something else than a step."""
        self.outputs, self.step = self.outputs[:0], 0.0

    def measure(self, outputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
        """Return the change to these outputs from those known, a 0-d tensor, zero if there are none; keep the new."""
        change = self.to(outputs, targets, loss)
        self.outputs = outputs
        return change

    def to(self, outputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
        """Return the change to these outputs from those known, a 0-d tensor, zero if there are none."""
        if not len(self.outputs):
            return outputs.new_zeros(())
        change = outputs - self.outputs
        return (change * _curved(change, self.outputs, targets, loss)).sum() / len(outputs)

    def length(self, rate: float, bound: float, curvature: float) -> float:
        """Return how far to step along v with this v'Fv: `rate`, if it changes the outputs by no more than `bound`."""
        foreseen = self.ratio * curvature
        length = min(rate, math.sqrt(bound / foreseen)) if foreseen > 0 else rate
        self.step = length**2 * curvature
        return length

    def tried(self, length: float, change: float, bound: float) -> float:
        """Return the length of a step that would have changed the outputs by `change`; take that in.

        Changes are taken for quadratic in the length.
        """
        self.trials -= 1
        self.learn(change)
        self.step = 0.0
        if not math.isfinite(change):
            return SHORTEST * length
        return length * max(SHORTEST, math.sqrt(bound / change)) if change > bound else length

    def learn(self, change: float) -> None:
        """Take in what the last step has changed, where one was taken and the change is finite."""
        if self.step > 0 and change < float("inf"):
            self.seen = MEMORY * self.seen + (1 - MEMORY) * change
            self.foreseen = MEMORY * self.foreseen + (1 - MEMORY) * self.step


def _curved(change: Tensor, outputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Return H change; where torch has no second derivative of the loss, by how much its slope differs between both."""
    try:
        return loss.output_hessian(outputs, targets)(change)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return _slope(outputs + change, targets, loss) - _slope(outputs, targets, loss)


def _slope(outputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    z = outputs.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(loss.total(z, targets, z.dtype), z)
    return slope
