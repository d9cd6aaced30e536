"""The scale of a run's loss, in whose units its gradient test is made: no factor of the loss moves the end of a solve.

S = min(max(|f(w0)|, max|g(w0)|), 100 max|g(w0)|) at the model's initial parameters w0, and a gradient counts as zero
when max|g| <= gtol * S. The loss alone is no scale of its gradient where the parameters have far to go: with raw
targets of 1e6, |f| is 1e12 and the first gradient 1e6, which would count as zero. `subsetopt.minimize` and
`subsetopt.optim` keep the absolute test of scipy and torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsetopt.objective import Objective, Residuals, SmoothObjective
from subsetopt.objective.weighting import without_weights
from subsetopt.solvers import SolveResult, make_solver
from subsetopt.solvers.minimize import run, summarise
from subsetopt.solvers.protocol import Solver, State
from subsetopt.training.run_model import RunModel
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData

LEAST_REDUCTION = 100.0  # S in first gradients at most: no solve ends before its gradient fell by 1 / (100 gtol)
SAMPLES = 128  # on which S is measured where no phase begins at w0


def loss_scale(start_loss: float, start_gradient: float, loss: float = 0.0) -> float:
    """Return S of loss and max|g| at the initial parameters, and of the loss where it is looked at.

    Where the initial gradient is exactly zero, the loss is all there is.
    """
    size = max(abs(start_loss), abs(loss), start_gradient)
    return min(size, LEAST_REDUCTION * start_gradient) if start_gradient > 0 else size


@dataclass
class LossScale:
    """S of a run, measured once; None until then. Phases that follow keep to it, also after a resume."""

    value: float | None = None

    def at_start(self, model: RunModel, data: TrainingData, split: SplitName, w: Tensor, state: State) -> float:
        """Return S; if it is not known yet, from the `state` of a solver that starts at w on `split` of the data.

        Where w is not w0 (after a warm-up, or with `init_from`), one gradient at w0 is computed on 128 samples and
        charged as calibration.
        """
        if self.value is None:
            found = loss_scale(state.loss, state.gradient_norm)
            if not torch.equal(w, model.initial):
                elsewhere = _measured(model, data, split)
                found = elsewhere if math.isfinite(elsewhere) else found
            self.value = found
        return self.value

    def recall(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Take S from the records of finished phases, where one of them has it."""
        known = [record["gradient_test"]["loss_scale"] for record in records if record.get("gradient_test")]
        self.value = known[-1] if known else None


def relative_to(solver: Solver, scale: float) -> Solver:
    """Return the solver with its gtol in units of `scale`; a solver without such a setting as it is."""
    if not (dataclasses.is_dataclass(solver) and hasattr(solver, "gtol")):
        return solver
    changed: Solver = dataclasses.replace(solver, gtol=solver.gtol * scale)
    return changed


def minimize_relative(
    objective: SmoothObjective,
    w: Tensor,
    method: str,
    *,
    callback: Callable[[State], Any] | None = None,
    **settings: Any,
) -> SolveResult:
    """Minimise from w, the model's initial parameters, as `minimize` does, with `gtol` in units of S."""
    solver = make_solver(method, **settings)
    state = solver.init(objective, w)
    solver = relative_to(solver, loss_scale(state.loss, state.gradient_norm))
    state, reason = run(solver, objective, state, callback)
    return summarise(state, reason, w.shape)


def _measured(model: RunModel, data: TrainingData, split: SplitName) -> float:
    """Return S on evenly spaced samples of `split`, on every rank the same."""
    inputs, targets, rows = data.stored(split)
    count = len(targets) if rows is None else len(rows)
    places = torch.linspace(0, count - 1, min(count, SAMPLES), device="cpu").round().long()
    places = places if rows is None else rows[places]
    if isinstance(plainly := model.loss if isinstance(model.loss, str) else without_weights(model.loss), Residuals):
        places = plainly.covering(targets, places)
    few = Objective(
        model.flat,
        inputs[places],
        targets[places],
        loss=model.loss,
        l2=model.l2,
        preprocess=data.preprocess,
        meter=model.ledger,
        check_deterministic=False,
    )
    w0 = model.initial
    loss, gradient = few.value_and_gradient(w0, "calibration")
    return loss_scale(float(loss), float(gradient.abs().max()))
