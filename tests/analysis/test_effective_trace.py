"""Effective parameters against dense Hessians, per-sample gradients, and solving again without a sample."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, vmap

from subsetopt.analysis.dense_gauss_newton import OutputRows, affordable, factorised, trace_by_factor
from subsetopt.analysis.effective_trace import NotPositiveDefinite, effective_trace, inverse_form
from subsetopt.analysis.excess import predicted_excess, predicted_optimism, samples_for_excess
from subsetopt.analysis.leave_one_out import leave_one_out_parameters
from subsetopt.analysis.sample_gradients import SampleGradients
from subsetopt.analysis.spectrum import TraceEstimate
from subsetopt.errors import SettingError
from subsetopt.objective import Objective
from subsetopt.seeding import make_generator, seeded_globals
from subsetopt.solvers import minimize

L2 = 0.02


def problem(rows: int = 120) -> tuple[Objective, Tensor]:
    """A small tanh network on noisy classes, at the minimum of its regularised loss, in several chunks."""
    generator = make_generator(0, "effective-test")
    x = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    y = (x[:, :3] + 0.7 * torch.randn(rows, 3, generator=generator, dtype=torch.float64)).argmax(1)
    with seeded_globals(0, "init"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    objective = Objective(model, x, y, l2=L2, chunk_size=60)
    return objective, minimize(objective, objective.initial(), "newton-cg", gtol=1e-9).x


@pytest.fixture(scope="module")
def solved() -> tuple[Objective, Tensor]:
    return problem()


def dense(objective: Objective, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return H (P, P), the samples' gradients (K, P) and the targets, by torch.func on the whole data."""
    x, y = (torch.cat(part) for part in zip(*(objective.chunk(i) for i in range(len(objective.edges))), strict=True))
    module, flat = objective.flat.module(w), objective.flat

    def one(p: Tensor, row: Tensor, target: Tensor) -> Tensor:
        parameters = dict(zip(flat.names, flat.views(p), strict=True))
        return F.cross_entropy(functional_call(module, parameters, (row[None],)), target[None])

    def total(p: Tensor) -> Tensor:
        return vmap(one, (None, 0, 0))(p, x, y).mean() + L2 / 2 * p @ p

    return hessian(total)(w), vmap(grad(one), (None, 0, 0))(w, x, y), y


def trace_within(H: Tensor, gradients: Tensor, groups: Tensor) -> float:
    centred, kinds = gradients.clone(), groups.unique()
    for kind in kinds:
        centred[groups == kind] -= gradients[groups == kind].mean(0)
    return float(torch.linalg.solve(H, centred.T @ centred).trace()) / (len(groups) - len(kinds))


def test_a_weighted_sum_of_gradients_over_chunks_is_charged_as_one(solved: tuple[Objective, Tensor]) -> None:
    objective, w = solved
    _, gradients, y = dense(objective, w)
    weights = torch.linspace(-1, 2, len(y), dtype=torch.float64)
    sums = SampleGradients(objective, w)
    assert torch.allclose(sums.combine(weights), weights @ gradients, rtol=1e-10, atol=1e-12)
    assert torch.equal(sums.targets, y)
    with pytest.raises(SettingError, match="weights"):
        sums.combine(weights[1:])


@pytest.mark.parametrize("stratified", [False, True])
def test_the_interval_of_the_trace_covers_the_dense_trace(solved: tuple[Objective, Tensor], stratified: bool) -> None:
    objective, w = solved
    H, gradients, y = dense(objective, w)
    groups = y if stratified else torch.zeros_like(y)
    exact = trace_within(H, gradients, groups)
    sums = SampleGradients(objective, w)
    found = [effective_trace(lambda v: H @ v, sums, groups, probes=6, seed=seed) for seed in range(60)]
    by_products = effective_trace(objective.linearise(w).hvp, sums, groups, probes=6)
    assert by_products.value == pytest.approx(found[0].value, rel=1e-6)
    covered = sum(abs(estimate.value - exact) <= estimate.error for estimate in found)
    assert covered >= 51, "95 % of 60 are 57"
    assert sum(estimate.value for estimate in found) / 60 == pytest.approx(exact, rel=0.04)
    assert sum(estimate.error for estimate in found) / 60 < 0.5 * exact


@pytest.mark.parametrize("stratified", [False, True])
def test_the_gauss_newton_factor_as_a_control_narrows_the_interval(
    solved: tuple[Objective, Tensor], stratified: bool
) -> None:
    objective, w = solved
    H, gradients, y = dense(objective, w)
    groups = y if stratified else torch.zeros_like(y)
    factor = factorised(objective, w)
    control = trace_by_factor(objective, w, factor, groups)
    assert control == pytest.approx(trace_within(factor @ factor.T, gradients, groups), rel=1e-6)
    exact, sums = trace_within(H, gradients, groups), SampleGradients(objective, w)

    def found(seed: int, control: float | None) -> TraceEstimate:
        return effective_trace(lambda v: H @ v, sums, groups, factor=factor, control=control, probes=6, seed=seed)

    controlled = [found(seed, control) for seed in range(60)]
    assert sum(abs(estimate.value - exact) <= estimate.error for estimate in controlled) >= 51, "95 % of 60 are 57"
    assert sum(estimate.value for estimate in controlled) / 60 == pytest.approx(exact, rel=0.02)
    plain = [found(seed, None) for seed in range(60)]
    assert sum(e.error for e in controlled) < 0.8 * sum(e.error for e in plain)


def test_an_indefinite_matrix_is_noticed_and_a_zero_vector_is_nothing() -> None:
    diagonal = torch.tensor([3.0, 2.0, -0.1, 1.0], dtype=torch.float64)
    with pytest.raises(NotPositiveDefinite):
        inverse_form(lambda v: diagonal * v, torch.ones(4, dtype=torch.float64), 10)
    assert inverse_form(lambda v: diagonal * v, torch.zeros(4, dtype=torch.float64), 10) == (0.0, 0.0)
    positive = diagonal.abs()
    value, change = inverse_form(lambda v: positive * v, torch.ones(4, dtype=torch.float64), 10)
    assert value == pytest.approx(float((1 / positive).sum()), rel=1e-10) and change == 0.0


def test_leaving_out_rows_of_a_linear_least_squares_problem_is_solving_again() -> None:
    generator = make_generator(1, "effective-test")
    x = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(5, 2, generator=generator, dtype=torch.float64)
    y = y + 0.5 * torch.randn(30, 2, generator=generator, dtype=torch.float64)
    objective = Objective(nn.Linear(5, 2, bias=False).double(), x, y, loss="mse", l2=0.1, chunk_size=7)

    def solve(keep: Tensor) -> Tensor:  # the mean over both outputs makes the loss |residual|^2 / 2
        return torch.linalg.solve(
            x[keep].T @ x[keep] / 30 + 0.1 * torch.eye(5, dtype=torch.float64), x[keep].T @ y[keep] / 30
        )

    whole = solve(torch.ones(30, dtype=torch.bool))
    rise = 0.0
    for row in range(30):
        keep = torch.arange(30) != row
        rise += float(((x[row] @ solve(keep) - y[row]).square() - (x[row] @ whole - y[row]).square()).mean())
    w = whole.T.reshape(-1).contiguous()
    assert float(objective.value_and_gradient(w)[1].abs().max()) < 1e-12
    product, factor = objective.linearise(w).ggnvp, factorised(objective, w)
    found = leave_one_out_parameters(objective, w, product, factor=factor, rows=30)
    assert found.value == pytest.approx(rise, rel=1e-9) and found.error == 0.0


def newton_steps(objective: Objective, w: Tensor) -> float:
    """The same number for softmax from dense Jacobians: K times the mean rise after a full Newton step per sample."""
    x, y = (torch.cat(part) for part in zip(*(objective.chunk(i) for i in range(len(objective.edges))), strict=True))
    module, flat, count = objective.flat.module(w), objective.flat, len(y)

    def outputs(p: Tensor, row: Tensor) -> Tensor:
        return functional_call(module, dict(zip(flat.names, flat.views(p), strict=True)), (row[None],))[0]

    J = vmap(torch.func.jacrev(outputs), (None, 0))(w, x)
    z = vmap(outputs, (None, 0))(w, x)
    p = z.softmax(1)
    A = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    B = torch.einsum("kmp,kmn,knq->pq", J, A, J) / count + L2 * torch.eye(len(w), dtype=torch.float64)
    e = p - F.one_hot(y, 3)
    moved = z.clone()
    for i in range(count):
        step = torch.linalg.solve(B - J[i].T @ A[i] @ J[i] / count, J[i].T @ e[i] / count)
        moved[i] += J[i] @ step
    return float(F.cross_entropy(moved, y, reduction="sum") - F.cross_entropy(z, y, reduction="sum"))


@pytest.mark.parametrize(("block", "equations"), [(768, 2048), (10, 40)])
def test_the_factor_is_that_of_the_matrix_that_products_make(
    solved: tuple[Objective, Tensor], block: int, equations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subsetopt.analysis.dense_gauss_newton.BLOCK", block)
    monkeypatch.setattr("subsetopt.analysis.dense_gauss_newton.EQUATIONS", equations)
    objective, w = solved
    product = objective.linearise(w).ggnvp
    dense = torch.stack([product(unit) for unit in torch.eye(len(w), dtype=w.dtype)])
    factor = factorised(objective, w)
    assert torch.allclose(factor @ factor.T, dense, atol=1e-12 * float(dense.abs().max())) and affordable(objective)


def test_the_roots_of_softmax_hessians_leave_out_what_they_do_not_know(solved: tuple[Objective, Tensor]) -> None:
    objective, w = solved
    rows = OutputRows(objective, w, *objective.chunk(0))
    roots, p = rows.hessian_roots(), rows.z.softmax(1)
    assert roots.shape == (60, 3, 2)
    assert torch.allclose(roots @ roots.mT, torch.diag_embed(p) - p[:, :, None] * p[:, None, :], atol=1e-14)


def test_the_trace_needs_few_products_where_lanczos_is_preconditioned(solved: tuple[Objective, Tensor]) -> None:
    objective, w = solved
    gradients, one = SampleGradients(objective, w), torch.zeros(objective.n_samples, dtype=torch.int64)
    calls = {True: 0, False: 0}
    values = {}
    for preconditioned in calls:

        def tell(kind: bool = preconditioned) -> None:
            calls[kind] += 1

        factor = factorised(objective, w) if preconditioned else None
        product = objective.linearise(w).hvp
        values[preconditioned] = effective_trace(product, gradients, one, factor=factor, probes=2, tell=tell).value
    assert values[True] == pytest.approx(values[False], rel=3e-3) and calls[True] < calls[False]


def test_leave_one_out_of_a_network_is_a_newton_step_without_the_sample(solved: tuple[Objective, Tensor]) -> None:
    objective, w = solved
    exact, product = newton_steps(objective, w), objective.linearise(w).ggnvp
    whole = leave_one_out_parameters(objective, w, product, factor=factorised(objective, w), rows=15)
    assert whole.value == pytest.approx(exact, rel=0.01) and whole.error == 0.0 and whole.probes == 120
    by_iteration = leave_one_out_parameters(objective, w, product, rows=120)
    assert by_iteration.value == pytest.approx(whole.value, rel=0.02)
    drawn = [leave_one_out_parameters(objective, w, product, rows=12, seed=seed) for seed in range(8)]
    assert sum(abs(estimate.value - exact) <= estimate.error for estimate in drawn) >= 6
    assert sum(estimate.value for estimate in drawn) / 8 == pytest.approx(exact, rel=0.2)


def test_predictions_are_takeuchis_and_turn_back() -> None:
    assert predicted_excess(20.0, 100, 1000) == pytest.approx(0.5 * (1 / 100 - 1 / 1000) * 20)
    assert predicted_optimism(20.0, 100, 1000) == 2 * predicted_excess(20.0, 100, 1000)
    assert predicted_excess(20.0, 1000, 1000) == 0
    enough = samples_for_excess(20.0, 0.01, 1000)
    assert predicted_excess(20.0, enough, 1000) <= 0.01 < predicted_excess(20.0, enough - 1, 1000)
    assert samples_for_excess(20.0, predicted_excess(20.0, 250, 1000), 1000) == 250
    assert samples_for_excess(20.0, 1e-12, 1000) == 1000
    with pytest.raises(SettingError, match="excess"):
        samples_for_excess(20.0, 0.0, 1000)


def test_the_prediction_holds_on_average_for_ridge_regression() -> None:
    generator = make_generator(2, "effective-test")
    x = torch.randn(2000, 6, generator=generator, dtype=torch.float64)
    y = x @ torch.ones(6, 1, dtype=torch.float64) + torch.randn(2000, 1, generator=generator, dtype=torch.float64)

    def solve(rows: Tensor) -> Tensor:
        a, b = x[rows], y[rows]
        return torch.linalg.solve(2 * a.T @ a / len(a) + 0.1 * torch.eye(6, dtype=torch.float64), 2 * a.T @ b / len(a))

    def value(w: Tensor) -> float:
        return float((x @ w - y).square().mean() + 0.05 * w.square().sum())

    objective = Objective(nn.Linear(6, 1, bias=False).double(), x, y, loss="mse", l2=0.1)
    best = solve(torch.arange(2000))
    w = best.reshape(-1).contiguous()
    trace = effective_trace(
        objective.linearise(w).hvp, SampleGradients(objective, w), torch.zeros(2000, dtype=torch.int64), probes=30
    )
    draws = [torch.randperm(2000, generator=generator)[:400] for _ in range(200)]
    excess = sum(value(solve(rows)) for rows in draws) / 200 - value(best)
    assert predicted_excess(trace.value, 400, 2000) == pytest.approx(excess, rel=0.15)
