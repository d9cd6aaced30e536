"""A diagonal H0: the product against dense algebra, and when it is in use."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from subsetopt.objective import FunctionObjective, Objective
from subsetopt.objective.tally import tallied
from subsetopt.seeding import make_generator
from subsetopt.solvers import diagonal_scaling, make_solver
from subsetopt.solvers.conjugation import conjugate
from subsetopt.solvers.curvature_pairs import CurvaturePairs
from subsetopt.solvers.diagonal_scaling import (
    DEAR_SAMPLES,
    FEWEST,
    LEAST,
    PAIRS,
    chosen,
    diagonal,
    gains,
    largest_quotient,
)
from subsetopt.solvers.inner_products import SPAN

P, M = 25, 14


@pytest.fixture(autouse=True)
def few_pairs_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let short rings have a diagonal, which makes small tests of it."""
    monkeypatch.setattr(diagonal_scaling, "LEAST_MEMORY", PAIRS + 1)


SPOKEN = {0.5: [1.0, 0.0], 1.0: [0.0, 1.0]}  # what the pairs say for each power of D


def dense_diagonal(S: Tensor, Y: Tensor) -> Tensor:
    """Return D, one entry after the other."""
    a, b = (
        [float(sum(v[i] ** 2 / (s @ y) for v, s, y in zip(V, S, Y, strict=True))) for i in range(P)] for V in (S, Y)
    )
    floors = [LEAST * sum(values) / P for values in (a, b)]
    return torch.tensor(
        [math.sqrt((p + floors[0]) / (q + floors[1])) for p, q in zip(a, b, strict=True)], dtype=torch.float64
    )


def dense_product(S: Tensor, Y: Tensor, g: Tensor, d: Tensor, newest: tuple[Tensor, Tensor]) -> Tensor:
    """Return H g by the textbook's recursion from gamma diag(d), oldest pair first; gamma is that of `newest`."""
    gamma = max(float(s @ y) / float(y @ (d * y)) for s, y in zip(*newest, strict=True))
    H = gamma * torch.diag(d)
    for s, y in zip(S, Y, strict=True):
        V = torch.eye(P, dtype=torch.float64) - torch.outer(y, s) / (s @ y)
        H = V.T @ H @ V + torch.outer(s, s) / (s @ y)
    return H @ g


def scaled_quadratic(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Return 2 M steps, their changes of the gradient of a quadratic with a badly scaled diagonal, and a gradient."""
    draw = make_generator(0, "diagonal")
    basis = torch.randn(P, P, generator=draw, dtype=torch.float64)
    scales = torch.logspace(-1, 1, P, dtype=torch.float64)
    A = scales[:, None] * (torch.eye(P, dtype=torch.float64) + basis @ basis.T / P) * scales
    S = torch.randn(2 * M, P, generator=draw, dtype=torch.float64)
    return S.to(dtype), (S @ A).to(dtype), torch.randn(P, generator=draw, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("power", SPOKEN)
@pytest.mark.parametrize("count", [2, M, M + 5])  # fewer than make D; all slots; a ring that has turned
def test_product_is_that_of_the_dense_recursion_from_a_diagonal(count: int, power: float, dtype: torch.dtype) -> None:
    S, Y, g = scaled_quadratic(dtype)
    S, Y, ring = S[:count], Y[:count], CurvaturePairs.empty(M, g)
    for k, (s, y) in enumerate(zip(S, Y, strict=True)):
        ring.insert(s, y, g - Y[k + 1 :].sum(0))
    ring.told = [SPOKEN[power]] * FEWEST
    product, square = ring.apply(g, float(g @ g), -2.0)
    S, Y, wide = S[-M:].double(), Y[-M:].double(), g.double()
    expected = dense_product(S, Y, wide, dense_diagonal(S[-PAIRS:], Y[-PAIRS:]) ** power, (S[-PAIRS:], Y[-PAIRS:]))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    assert product.dtype == dtype
    assert float((product.double() + 2 * expected).norm() / expected.norm()) < 2 * tolerance
    assert square == pytest.approx(float(wide @ expected), rel=tolerance)
    assert ring.with_product is not None
    assert ring.with_product[-1] == pytest.approx(float(Y[-1] @ expected), rel=10 * tolerance)


@pytest.mark.parametrize("contradicting", [0, 5])  # pairs that another quadratic has made: all, or not all, conjugate
def test_conjugate_pairs_are_updates_of_a_diagonal_too(contradicting: int) -> None:
    S, Y, g = (part[:M] if part.dim() == 2 else part for part in scaled_quadratic())
    Y[:contradicting] = S[:contradicting] * torch.linspace(20, 1, P, dtype=torch.float64)
    ring = CurvaturePairs.of(list(zip(S, Y, strict=True)), M, g)
    ring.meet(g)
    ring.told = [SPOKEN[1.0]] * FEWEST
    product, _ = ring.apply(g, float(g @ g))
    T = torch.from_numpy(conjugate((S @ Y.T).numpy(), 0.1).T)
    assert len(T) == M - contradicting
    d, newest = dense_diagonal(S[-PAIRS:], Y[-PAIRS:]), (S[-PAIRS:], Y[-PAIRS:])
    combined = (torch.cat([V[: M - len(T)], T @ V[M - len(T) :]]) for V in (S, Y))
    expected = dense_product(*combined, g, d, newest)
    assert float((product - expected).norm() / expected.norm()) < 1e-8
    np.testing.assert_allclose(ring.with_product, (Y @ product).numpy(), rtol=1e-8, atol=1e-8)


def test_gain_is_what_the_angle_gains_and_all_of_it_where_d_is_the_inverse_hessian() -> None:
    S, _, y = scaled_quadratic()
    s, d = S[0].numpy(), np.logspace(-2, 1, P)
    changed = y.numpy() * np.sign(s * y.numpy())
    cosine = (s @ changed) ** 2 / (s @ s) / (changed @ changed)
    for power, gain in zip((0.5, 1.0), gains(s, changed, d), strict=True):
        scaled = (s @ changed) ** 2 / (s @ (s / d**power)) / (changed @ (changed * d**power))
        assert gain == pytest.approx(math.log(scaled) - math.log(cosine))
    y_of_d = s / d
    assert gains(s, y_of_d, d)[1] == pytest.approx(-math.log((s @ y_of_d) ** 2 / (s @ s) / (y_of_d @ y_of_d)))
    assert gains(s, changed, None) == [0.0, 0.0]
    assert gains(1e-170 * s, changed, d) == [0.0, 0.0]


def test_d_is_asked_of_each_pair_before_it_is_made_of_it() -> None:
    S, Y, g = scaled_quadratic()
    ring = CurvaturePairs.empty(M, g)
    for k, (s, y) in enumerate(zip(S, Y, strict=True)):
        ring.insert(s, y, g - Y[k + 1 :].sum(0))
        assert len(ring.told) == min(k, PAIRS)
        if k:
            before = slice(max(0, k - PAIRS), k)
            expected = gains(s.numpy(), y.numpy(), dense_diagonal(S[before], Y[before]).numpy())
            np.testing.assert_allclose(ring.told[-1], expected, rtol=1e-9)


def test_few_pairs_or_a_small_gain_choose_no_diagonal() -> None:
    assert chosen([[1.0, 1.0]] * (FEWEST - 1)) is None
    assert chosen([[0.05, 0.09]] * 20) is None
    assert chosen([[0.2, 0.3]] * FEWEST) == 1.0
    assert chosen([[0.3, 0.2]] * FEWEST) == 0.5
    assert chosen([[9.0, 9.0]] * 5 + [[-1.0, -1.0]] * PAIRS) is None  # the newest decide


def test_pairs_out_of_range_make_no_diagonal() -> None:
    S, Y, _ = (part.numpy() for part in scaled_quadratic())
    with np.errstate(all="ignore"):
        rows = np.stack([1e-200 * S[0], 1e200 * Y[0], S[1], Y[1]])
        assert diagonal(rows, [0], np.array([S[0] @ Y[0]])) is None
        assert diagonal(rows, [1], np.array([S[1] @ Y[1]])) is not None
        assert diagonal(rows, [1], np.zeros(1)) is None


def test_rows_longer_than_a_cache_have_the_same_diagonal() -> None:
    width, rows = 2 * SPAN + 3, np.random.default_rng(0).normal(size=(6, 2 * SPAN + 3)).astype(np.float32)
    slots, curvature = [1, 2, 0], np.array([1.0, 2.0, 3.0])
    a, b = ((rows[[2 + k, 4 + k, k]].astype(np.float64) ** 2 / curvature[:, None]).sum(0) for k in (0, 1))
    expected = np.sqrt((a + LEAST * a.mean()) / (b + LEAST * b.mean()))
    d = diagonal(rows, slots, curvature)
    assert d is not None and d.shape == (width,)
    np.testing.assert_allclose(d / d[0], expected / expected[0], rtol=1e-12)
    weighted = [float(rows[k].astype(np.float64) ** 2 @ d) for k in (3, 5, 1)]
    assert largest_quotient(rows, slots, curvature, d) == pytest.approx(max(curvature / weighted), rel=1e-12)


def valley(rotated: bool = False, units: float = 1.0, dtype: torch.dtype = torch.float64) -> FunctionObjective:
    """Return a function of 60 variables of which each has its own curvature, 1 to 1e4, which falls, or of rotated ones.

    The rotated one is a quadratic.
    """
    size, draw = 60, make_generator(5, "valley")
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
    h = torch.logspace(0, 4, size, dtype=torch.float64)[torch.randperm(size, generator=draw)].to(dtype)

    def loss(x: Tensor) -> Tensor:
        if rotated:
            return (h * (basis @ x - 1) ** 2).sum()
        part = h * (x - 1) ** 2
        return units * (torch.sqrt(1 + part) - 1 + 1e-3 * part).sum()

    return FunctionObjective(loss, torch.zeros(size, dtype=dtype))


def solved(objective: FunctionObjective, gtol: float = 1e-6) -> tuple[Any, int]:
    """Return the last state of a solve, and how many of its steps had a diagonal H0."""
    solver = make_solver("lbfgs", gtol=gtol)
    state, scaled = solver.init(objective, objective.initial()), 0
    while solver.terminate(state) is None and state.iterations < 1000:
        scaled += state.memory.scales and chosen(state.memory.told) is not None
        state = solver.step(objective, state)
    assert solver.terminate(state) == "gradient"
    return state, scaled


def test_a_badly_scaled_problem_takes_half_the_evaluations_and_a_rotated_one_the_same_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (axes, scaled), (rotated, few) = solved(valley()), solved(valley(rotated=True))
    monkeypatch.setattr(CurvaturePairs, "may_scale", False)
    (plain, none), (same, _) = solved(valley()), solved(valley(rotated=True))
    assert none == few == 0
    assert torch.equal(rotated.w, same.w) and rotated.evaluations == same.evaluations
    assert scaled > 0.8 * axes.iterations
    assert axes.evaluations <= 0.55 * plain.evaluations


def steps(count: int, objective: FunctionObjective, **settings: Any) -> Any:
    solver = make_solver("lbfgs", gtol=0.0, **settings)
    state = solver.init(objective, objective.initial())
    for _ in range(count):
        state = solver.step(objective, state)
    return state


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_solve_that_is_saved_after_each_step_goes_on_bit_for_bit(dtype: torch.dtype) -> None:
    objective, solver = valley(dtype=dtype), make_solver("lbfgs", gtol=0.0, memory=12)
    straight = resumed = solver.init(objective, objective.initial())
    resumed = solver.init(objective, objective.initial())
    scaled = 0
    for _ in range(30):
        straight, resumed = solver.step(objective, straight), solver.step(objective, resumed)
        tensors, numbers = solver.save(resumed)
        resumed = solver.restore(objective, tensors, json.loads(json.dumps(numbers)))
        assert torch.equal(straight.w, resumed.w) and straight.memory.told == resumed.memory.told
        scaled += chosen(resumed.memory.told) is not None
    assert scaled > 15


def test_a_checkpoint_of_a_version_without_it_begins_with_nothing_said() -> None:
    objective, solver = valley(), make_solver("lbfgs", gtol=0.0)
    state = steps(10, objective)
    tensors, numbers = solver.save(state)
    assert chosen(numbers.pop("memory.told")) is not None
    restored = solver.restore(objective, tensors, numbers)
    assert restored.memory.told == [] and len(restored.memory.order) == len(state.memory.order)
    for _ in range(5):
        restored = solver.step(objective, restored)
    assert chosen(restored.memory.told) is not None


def test_a_loss_in_other_units_has_the_same_path_to_the_bit() -> None:
    """The first step is a share of the loss over the gradient: the same in all units."""
    one, other = steps(30, valley()), steps(30, valley(units=2.0**-33))
    assert chosen(one.memory.told) is not None
    assert torch.equal(one.w, other.w)


def test_products_that_follow_from_a_scaled_direction_are_those_of_the_vectors() -> None:
    memory = steps(30, valley(), memory=12).memory
    assert memory.measured == 12 and chosen(memory.told) is not None
    s, rows = 2 * np.array(memory.order), memory.rows.numpy()
    table = rows[s] @ rows[s + 1].T
    size = np.sqrt(np.outer((rows[s] ** 2).sum(1), (rows[s + 1] ** 2).sum(1)))
    assert np.abs((memory.gram[s][:, s + 1] - table) / size).max() < 1e-9


def test_rings_of_few_pairs_have_no_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert steps(15, valley(), memory=49).memory.told == []
    assert len(steps(15, valley(), memory=50).memory.told) == PAIRS


def scaled_regression(samples: int) -> Objective:
    """Least squares on columns of sizes from 0.1 to 10, in float64."""
    x = torch.randn(samples, 40, generator=make_generator(0, "x"), dtype=torch.float64)
    x *= torch.logspace(-1, 1, 40, dtype=torch.float64)
    torch.manual_seed(0)
    return Objective(nn.Linear(40, 1).double(), x, x.tanh().sum(1, keepdim=True), loss="mse")


def test_a_loss_of_many_samples_has_a_diagonal_with_ten_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of it costs more than the diagonal does: the least samples, and pairs, with which that is so."""
    monkeypatch.undo()
    many, few = DEAR_SAMPLES, DEAR_SAMPLES - 1
    for samples, memory, scales in ((many, 10, True), (few, 10, False), (many, 9, False), (few, 50, True)):
        objective, solver = scaled_regression(samples), make_solver("lbfgs", gtol=0.0, memory=memory)
        state = solver.init(objective, objective.initial())
        for _ in range(4):
            state = solver.step(objective, state)
        assert state.memory.scales == scales == solver.forget(state).scales == (len(state.memory.told) > 0)
        assert solver.penalised(state, 1e-3).memory.scales == scales
        other = scaled_regression(1001 if samples < 1000 else 998)
        assert solver.ready(other, state).memory.scales == ((samples < 1000 and memory >= 10) or memory >= 50)


def test_it_saves_evaluations_of_a_badly_scaled_regression_with_ten_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    counts = []
    for dear_samples in (500, 501):
        monkeypatch.setattr(diagonal_scaling, "DEAR_SAMPLES", dear_samples)
        objective, solver = scaled_regression(500), make_solver("lbfgs", gtol=1e-6, memory=10)
        state = solver.init(objective, objective.initial())
        while solver.terminate(state) is None:
            state = solver.step(objective, state)
        assert solver.terminate(state) == "gradient"
        counts.append(state.evaluations)
    assert counts[0] <= 0.5 * counts[1]


def test_a_solve_with_ten_pairs_goes_on_with_the_diagonal_and_one_of_a_former_version_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    objective, solver = scaled_regression(DEAR_SAMPLES), make_solver("lbfgs", gtol=0.0, memory=10)
    state = solver.init(objective, objective.initial())
    for _ in range(12):
        state = solver.step(objective, state)
    tensors, numbers = solver.save(state)
    resumed = solver.restore(objective, tensors, json.loads(json.dumps(numbers)))
    assert torch.equal(solver.step(objective, resumed).w, solver.step(objective, state).w)
    assert numbers.pop("memory.dear")
    former = solver.step(objective, solver.restore(objective, tensors, numbers))
    assert not former.memory.scales


def test_the_arithmetic_of_a_diagonal_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 20 pairs of 60 variables: D, what is said of it, gamma, and a third pass over the y."""
    state, solver, costs = steps(25, valley(), memory=20), make_solver("lbfgs", gtol=0.0, memory=20), []
    for scales in (True, False):
        monkeypatch.setattr(CurvaturePairs, "may_scale", scales)
        with tallied() as tally:
            solver.propose(state.memory, state)
        costs.append(tally.flops)
    rows = 2 * len(state.memory.order) + 2
    by_diagonal, gamma, passes = 8 * (PAIRS + 1), 3 * PAIRS, 3 * rows + 6
    assert costs[0] - costs[1] == 60 * (by_diagonal + gamma + passes - 2 * rows)


def test_pairs_of_a_rotated_quadratic_keep_what_makes_them_conjugate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those speak for a diagonal by some tenths; that one quadratic explains them all speaks against it."""
    draw = torch.Generator().manual_seed(200)
    basis, _ = torch.linalg.qr(torch.randn(200, 200, generator=draw, dtype=torch.float64))
    matrix = basis * torch.logspace(0, 4, 200, dtype=torch.float64) @ basis.T
    b = torch.randn(200, generator=draw, dtype=torch.float64)
    ends = []
    for scales in (True, False):
        monkeypatch.setattr(CurvaturePairs, "may_scale", scales)
        objective = FunctionObjective(lambda w: 0.5 * w @ matrix @ w - b @ w, torch.zeros(200, dtype=torch.float64))
        solver = make_solver("lbfgs", gtol=1e-6)
        state = solver.init(objective, objective.initial())
        while solver.terminate(state) is None:
            state = solver.step(objective, state)
        ends.append(state.w)
    assert torch.equal(*ends)
