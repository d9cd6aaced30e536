"""scipy's minimisers behind our protocol, as references: one step is the whole solve.

All numbers reported are of our own evaluations; a solve counts as converged by our gradient test alone.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.objective.protocol import BudgetExhausted, Linearisation, Purpose, SmoothObjective
from subsetopt.objective.tally import note_flops
from subsetopt.saving import join, split
from subsetopt.solvers import SOLVERS
from subsetopt.solvers.iterate import Iterate, StopSettings, advance, evaluate, restart_fields, start_fields
from subsetopt.solvers.line_search import Trial
from subsetopt.solvers.protocol import StopReason

Vector = NDArray[np.float64]

# Options that switch off scipy's own tests: `after_iteration` applies ours.
METHODS: dict[str, dict[str, Any]] = {
    "L-BFGS-B": {"ftol": 0.0, "gtol": 0.0, "maxfun": 1_000_000, "maxls": 40},
    "BFGS": {"gtol": 0.0},
    "CG": {"gtol": 0.0},
    "Newton-CG": {"xtol": 0.0},
    "trust-ncg": {"gtol": 0.0},
    "trust-krylov": {"gtol": 0.0},
}
BFGS_B_PAIRS = 10  # scipy's default `maxcor`
USES_PRODUCTS = ("Newton-CG", "trust-ncg", "trust-krylov")
MAX_ITERATIONS = 100_000
ITERATION_DOTS, PRODUCT_DOTS = 3, 3  # inner products that scipy's CG, Newton and trust-region codes make themselves
MAX_REPEATS = 50  # iterations on one and the same point before scipy is taken to be stuck


@dataclass(frozen=True, kw_only=True)
class ScipySolver(StopSettings):
    """`scipy.optimize.minimize(method=...)`, in float64 on the host."""

    method: str

    @property
    def name(self) -> str:
        """The registered name."""
        return f"scipy:{self.method}"

    def init(self, objective: SmoothObjective, w: Tensor) -> Iterate:
        """Evaluate at a copy of w, shape (P,)."""
        return Iterate(**start_fields(objective, w))

    def step(self, objective: SmoothObjective, state: Iterate) -> Iterate:
        """Run scipy to its end and return the best point it evaluated; a spent budget ends it with `budget`."""
        if state.identity != objective.identity:
            state = Iterate(**restart_fields(objective, state))
        bridge = _Bridge(self, objective, state)
        reason = bridge.run()
        best = bridge.best
        after = advance(state, best, bridge.evaluations)
        return dataclasses.replace(
            after,
            iterations=state.iterations + bridge.iterations,
            products=state.products + bridge.products,
            failure=None if reason is None else reason.value,
        )

    def save(self, state: Iterate) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Split the state; see `state.split`."""
        return split(state)

    def restore(self, objective: SmoothObjective, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Iterate:
        """Rebuild the state for the objective that it was saved with."""
        return join(Iterate, tensors, numbers, identity=objective.identity)


def iteration_flops(method: str, size: int, iterations: int) -> int:
    """Return what scipy's own code multiplies in iteration `iterations` (from 1) on `size` numbers, by its source.

    BFGS forms (I - rho s y') H (I - rho y s') by two products of dense matrices, and a product with H. L-BFGS-B has two
    inner products with each of at most 10 pairs, and sums over them. The others have a few inner products.
    """
    if method == "BFGS":
        return 4 * size**3 + 2 * size**2
    if method == "L-BFGS-B":
        return 8 * size * min(iterations, BFGS_B_PAIRS)
    return ITERATION_DOTS * 2 * size


class _StopError(Exception):
    """Leaves scipy from within a function call."""


@dataclass
class _Bridge:
    """Gives scipy numpy functions of our objective, evaluates no point twice in a row, and remembers the best."""

    solver: ScipySolver
    objective: SmoothObjective
    state: Iterate
    iterations: int = 0
    products: int = 0
    repeats: int = 0
    best_before: Trial | None = None
    iteration_begins: bool = True
    linearised_at: bytes = b""
    linearisation: Linearisation | None = None
    evaluations: int = field(init=False)
    latest: Trial = field(init=False)
    best: Trial = field(init=False)
    latest_x: bytes = field(init=False)

    def __post_init__(self) -> None:
        state = self.state
        self.evaluations = state.evaluations
        self.latest = self.best = state.point(0.0)
        self.latest_x = self._to_host(state.w).tobytes()

    def run(self) -> StopReason | None:
        """Return why scipy ended where our own stopping tests would continue, None otherwise."""
        from scipy.optimize import minimize  # here: all solvers are imported when one is asked for

        limit = self.solver.max_iterations
        left = MAX_ITERATIONS if limit is None else limit - self.state.iterations
        options: Any = {**METHODS[self.solver.method], "maxiter": left}
        hessp = self.hessian_product if self.solver.method in USES_PRODUCTS else None
        try:
            with np.errstate(all="ignore"):
                minimize(  # type: ignore[call-overload]  # the stubs want literals for method and options
                    self.value_and_gradient,
                    self._to_host(self.state.w),
                    jac=True,
                    hessp=hessp,
                    method=self.solver.method,
                    callback=self.after_iteration,
                    options=options,
                )
        except _StopError:
            return None
        except BudgetExhausted:
            return StopReason.BUDGET
        return None if self.iterations >= left else StopReason.LINE_SEARCH

    def value_and_gradient(self, x: Vector) -> tuple[float, Vector]:
        """Evaluate; what is not finite is passed on as a loss of +inf with a zero gradient, which scipy rejects."""
        if x.tobytes() != self.latest_x:
            if self.evaluations >= self.state.evaluations + self.solver.evaluations_left(self.state):
                raise _StopError
            purpose: Purpose = "train" if self.iteration_begins else "line_search"
            self.latest = evaluate(self.objective, self._to_device(x), purpose)
            self.iteration_begins = False
            self.latest_x = x.tobytes()
            self.evaluations += 1
            if (self.latest.finite and self.latest.loss < self.best.loss) or self._passes(self.latest):
                self.best = self.latest
        if not self.latest.finite:
            return math.inf, np.zeros_like(x)
        return self.latest.loss, self._to_host(self.latest.gradient)

    def hessian_product(self, x: Vector, v: Vector) -> Vector:
        """Return H v, linearising once per x."""
        if self.linearisation is None or x.tobytes() != self.linearised_at:
            self.linearisation, self.linearised_at = self.objective.linearise(self._to_device(x)), x.tobytes()
        self.products += 1
        note_flops(PRODUCT_DOTS * 2 * v.size, host=True)
        return self._to_host(self.linearisation.hvp(self._to_device(v)))

    def after_iteration(self, x: Vector) -> None:
        """Stop scipy by our gradient test, or where it repeats itself."""
        self.iterations += 1
        note_flops(iteration_flops(self.solver.method, x.size, self.iterations), host=True)
        self.iteration_begins = True
        if self._passes(self.best):
            raise _StopError
        self.repeats = self.repeats + 1 if self.best is self.best_before else 0
        self.best_before = self.best
        if self.repeats >= MAX_REPEATS:
            raise StopIteration

    def _passes(self, trial: Trial) -> bool:
        small = trial.gradient_norm <= self.solver.gtol
        return trial.finite and (small or math.sqrt(trial.square_norm) <= self.solver.rtol * self.state.initial_l2)

    def _to_device(self, x: Vector) -> Tensor:
        return torch.from_numpy(x.copy()).to(self.objective.device, self.objective.dtype)

    @staticmethod
    def _to_host(tensor: Tensor) -> Vector:
        array: Vector = tensor.detach().double().cpu().numpy()
        return array.copy()


for _method in METHODS:
    SOLVERS.register(f"scipy:{_method}", f"scipy.optimize.minimize(method={_method!r}), as a reference")(
        functools.partial(ScipySolver, method=_method)
    )
