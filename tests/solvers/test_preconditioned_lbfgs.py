"""L-BFGS around a preconditioner against dense algebra; what a solve keeps, saves and refuses."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subsetopt import Objective
from subsetopt.errors import SettingError
from subsetopt.objective import CountingMeter
from subsetopt.objective.host import observe_reads
from subsetopt.solvers import make_solver, minimize
from subsetopt.solvers.curvature_pairs import GAMMA_PAIRS, CurvaturePairs
from subsetopt.solvers.preconditioned_pairs import PreconditionedPairs
from tests.solvers.networks import assert_exhaustion_changes_nothing, network, random
from tests.solvers.problems import PROBLEMS

P, MEMORY = 12, 8


def positive(name: str) -> Tensor:
    root = random(P, P, name=name)
    return root @ root.T / P + 0.1 * torch.eye(P, dtype=torch.float64)


def pairs_of(H: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
    return [(s, H @ s) for s in random(count, P, name="steps")]


def dense_product(pairs: list[tuple[Tensor, Tensor]], M: Tensor, g: Tensor) -> Tensor:
    """The BFGS inverse update (Nocedal & Wright, eq. 6.17) from gamma M^-1, oldest pair first, times g."""
    H = torch.linalg.inv(M)
    H = H * max(float((s @ y) / (y @ H @ y)) for s, y in pairs[-GAMMA_PAIRS:])
    for s, y in pairs:
        rho = 1 / (s @ y)
        V = torch.eye(P, dtype=torch.float64) - rho * torch.outer(y, s)
        H = V.T @ H @ V + rho * torch.outer(s, s)
    return H @ g


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("count", [1, 4, MEMORY, MEMORY + 1, 3 * MEMORY])
def test_product_equals_the_dense_recursion(count: int, dtype: torch.dtype) -> None:
    M, g = positive("M"), random(P, name="g")
    pairs, inverse = pairs_of(positive("H"), count), torch.linalg.inv(M).to(dtype)
    before = g - sum(y for _, y in pairs)
    ring = PreconditionedPairs.around(
        CurvaturePairs.empty(MEMORY, g.to(dtype)), lambda v: inverse @ v, before.to(dtype)
    )
    for s, y in pairs:
        before = before + y
        ring.insert(s.to(dtype), y.to(dtype), before.to(dtype))
    product, square = ring.apply(g.to(dtype), 0.0)
    expected = dense_product(pairs[-MEMORY:], M, g)
    tolerance = 1e-9 if dtype == torch.float64 else 3e-4
    torch.testing.assert_close(product.double(), expected, rtol=tolerance, atol=tolerance)
    assert square == pytest.approx(float(g @ expected), rel=1e-4)


@pytest.mark.parametrize("correction", [0.5, 2.0])
def test_a_corrected_pair_is_the_pair_with_that_multiple_of_y(correction: float) -> None:
    M, H, g, s = positive("M"), positive("H"), random(P, name="g"), random(P, name="s")
    inverse = torch.linalg.inv(M)
    ring = PreconditionedPairs.around(CurvaturePairs.empty(2, g), lambda v: inverse @ v, g - H @ s)
    assert ring.insert(s, H @ s, g, correction) == pytest.approx(float(s.norm()))
    product, _ = ring.apply(g, 0.0)
    torch.testing.assert_close(product, dense_product([(s, correction * H @ s)], M, g))


def test_a_pair_without_curvature_is_not_kept() -> None:
    M, g, s = positive("M"), random(P, name="g"), random(P, name="s")
    inverse = torch.linalg.inv(M)
    ring = PreconditionedPairs.around(CurvaturePairs.empty(2, g), lambda v: inverse @ v, g + s)
    ring.insert(s, -s, g)
    assert ring.order == []
    assert not ring.rows.any()
    torch.testing.assert_close(ring.scaled, inverse @ g)
    assert ring.square == pytest.approx(float(g @ inverse @ g))


def test_a_pair_whose_image_is_not_a_number_is_not_kept() -> None:
    g, s = random(P, name="g"), random(P, name="s")
    ring = PreconditionedPairs.around(CurvaturePairs.empty(2, g), torch.clone, g - s)
    ring.inverse = lambda v: v * float("nan")
    ring.insert(s, s, g)
    assert ring.order == []
    assert not ring.rows.any()


def test_another_gradient_is_met() -> None:
    M, H, g, other = positive("M"), positive("H"), random(P, name="g"), random(P, name="other")
    inverse, (s, y) = torch.linalg.inv(M), pairs_of(H, 1)[0]
    ring = PreconditionedPairs.around(CurvaturePairs.empty(2, g), lambda v: inverse @ v, g - y)
    ring.insert(s, y, g)
    ring.meet(other)
    product, _ = ring.apply(other, 0.0)
    torch.testing.assert_close(product, dense_product([(s, y)], M, other))


@pytest.mark.parametrize("kind", ["kfac", "diagonal"])
def test_the_first_step_goes_along_the_preconditioned_gradient(kind: str) -> None:
    objective = network()
    solver: Any = make_solver("lbfgs", preconditioner=kind)
    state = solver.ready(objective, solver.init(objective, objective.initial()))
    estimate, scale = state.factors.estimate, float(state.factors.tensors["scale"])
    line = solver.propose(state.memory, state)
    M = torch.stack([estimate.product(e) for e in torch.eye(objective.size, dtype=torch.float64)])
    M += (objective.l2 + scale) * torch.eye(objective.size, dtype=torch.float64)
    torch.testing.assert_close(line.direction, -torch.linalg.solve(M, state.gradient))
    assert line.slope == pytest.approx(float(line.direction @ state.gradient))
    assert line.first_step == pytest.approx(min(1.0, 0.2 * state.loss / -line.slope))


def test_good_factors_save_evaluations_and_are_estimated_once() -> None:
    """Softmax regression on badly scaled inputs, whose second moment is one of the factors."""
    x = random(200, 20, name="x") * torch.logspace(0, 1.5, 20, dtype=torch.float64)
    y = (x @ random(20, 3, name="teacher") + 90 * random(200, 3, name="noise")).argmax(1)
    with torch.random.fork_rng():
        objective = Objective(nn.Linear(20, 3).double(), x, y, l2=1e-3)
    plain = minimize(objective, method="lbfgs")
    objective.meter = meter = CountingMeter()
    better = minimize(objective, method="lbfgs", preconditioner="kfac", factor_share=1, damping=0.01)
    assert plain.converged
    assert better.converged
    assert better.loss == pytest.approx(plain.loss, rel=1e-8)
    # .35 to .51 over nine pairs of instruction sets of torch and BLAS: another machine's rounding moves both counts.
    assert better.counts["evaluations"] < 0.7 * plain.counts["evaluations"]
    assert meter.calls["gradient"] <= better.counts["evaluations"] + 2  # one estimate, one decomposition


def test_synchronisations_of_an_iteration_are_those_of_plain_lbfgs() -> None:
    objective = network()
    solver: Any = make_solver("lbfgs", preconditioner="kfac")
    state = solver.step(objective, solver.init(objective, objective.initial()))
    reads: list[None] = []
    with observe_reads(lambda: reads.append(None)):
        after = solver.step(objective, state)
    assert len(reads) == after.evaluations - state.evaluations + 1


def test_a_forgotten_memory_keeps_its_preconditioner() -> None:
    objective = network()
    solver: Any = make_solver("lbfgs", preconditioner="kfac")
    state = solver.init(objective, objective.initial())
    for _ in range(3):
        state = solver.step(objective, state)
    state.memory.rows.fill_(math.nan)
    after = solver.step(objective, state)
    assert after.loss < state.loss
    assert len(after.memory.order) == 1
    step, expected = after.w - state.w, -state.memory.inverse(state.gradient)
    torch.testing.assert_close(step / step.norm(), expected / expected.norm())


@pytest.mark.parametrize("kind", ["kfac", "diagonal"])
def test_restored_solve_goes_on_bit_for_bit(kind: str) -> None:
    solver: Any = make_solver("lbfgs", gtol=0.0, preconditioner=kind, memory=3)
    straight, resumed = network(), network()
    a, b = solver.init(straight, straight.initial()), solver.init(resumed, resumed.initial())
    for _ in range(8):
        tensors, numbers = solver.save(b)
        b = solver.restore(resumed, tensors, json.loads(json.dumps(numbers)))
        a, b = solver.step(straight, a), solver.step(resumed, b)
        assert torch.equal(a.w, b.w)
        assert a.loss == b.loss


def test_budget_exhausted_at_any_call_changes_nothing() -> None:
    assert_exhaustion_changes_nothing("lbfgs", 4, preconditioner="kfac")


def test_another_objective_has_factors_of_its_own_and_inherited_ones_come_with_their_pairs() -> None:
    first, second = network(samples=40), network(samples=30)
    solver: Any = make_solver("lbfgs", preconditioner="kfac")
    state = solver.step(first, solver.init(first, first.initial()))
    anew = solver.step(second, state)
    assert anew.factors is not state.factors
    assert len(anew.memory.order) == 1
    heir = solver.inherit(solver.init(second, state.w), solver.restore(first, *solver.save(state)))
    after = solver.step(second, heir)
    assert after.factors is heir.factors
    assert len(after.memory.order) == 2


@pytest.mark.parametrize("kind", ["kfac", "diagonal"])
def test_without_curvature_at_the_start_the_preconditioner_is_the_identity(kind: str) -> None:
    """Weights of 1e6 saturate the softmax, and there is no L2: F is zero, and the gradient is not."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(6, 3).double()
    with torch.no_grad():
        model.weight.mul_(1e6)
    objective = Objective(model, random(40, 6, name="x"), torch.arange(40) % 3, l2=0.0)
    plain = minimize(objective, method="lbfgs", max_evaluations=30)
    around = minimize(objective, method="lbfgs", preconditioner=kind, max_evaluations=30)
    newton = minimize(objective, method="newton-cg", preconditioner=kind, max_evaluations=30)
    start = float(objective.value(objective.initial()))
    assert around.loss < 0.1 * start
    assert around.loss < 10 * plain.loss
    assert newton.loss < 0.1 * start


def test_what_it_cannot_do_is_refused_before_any_call() -> None:
    objective = PROBLEMS["wood"].objective()
    with pytest.raises(SettingError, match="preconditioner = 'kfac': a plain function has no samples or layers"):
        minimize(objective, method="lbfgs", preconditioner="kfac")
    assert objective.evaluations == 0
    with pytest.raises(SettingError, match="shard_memory = true does not go with preconditioner = kfac; leave one"):
        make_solver("lbfgs", preconditioner="kfac", shard_memory=True)
