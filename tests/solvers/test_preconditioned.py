"""Preconditioned trust-region steps against dense algebra; curvature from parts of the samples; what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subsetopt import Objective
from subsetopt.errors import SettingError
from subsetopt.objective import CountingMeter
from subsetopt.objective.host import observe_reads
from subsetopt.objective.preconditioning import make_preconditioner
from subsetopt.seeding import make_generator
from subsetopt.solvers import make_solver, minimize
from subsetopt.solvers.krylov import KrylovSpace
from subsetopt.solvers.minimize import run
from tests.solvers.networks import assert_exhaustion_changes_nothing, network, random
from tests.solvers.problems import PROBLEMS

P = 9
KFAC = {"curvature": "ggn", "preconditioner": "kfac", "max_products": 4, "sample_share": 0.5}
DIAGONAL = {"preconditioner": "diagonal", "sample_share": 0.3, "factor_share": 0.5, "factor_interval": 2}


def matrix(lowest: float, name: str) -> Tensor:
    root = random(P, P, name=name)
    H = root @ root.T / P
    return H + (lowest - torch.linalg.eigvalsh(H)[0]) * torch.eye(P, dtype=torch.float64)


def full_space(H: Tensor, M: Tensor, g: Tensor, capacity: int = P) -> KrylovSpace:
    inverse = torch.linalg.inv(M)
    space = KrylovSpace.of(g, float(g.norm()), capacity, lambda v: inverse @ v)
    while not space.complete:
        assert space.extend(lambda v: H @ v)
    return space


@pytest.mark.parametrize("lowest", [0.1, -0.5])
@pytest.mark.parametrize("radius", [1e-3, 0.5, 1e3])
def test_step_solves_the_subproblem_in_the_norm_of_the_preconditioner(lowest: float, radius: float) -> None:
    """(H + lambda M) p = -g, lambda >= 0, ||p||_M = Delta on the boundary, H + lambda M positive semidefinite."""
    H, M, g = matrix(lowest, "H"), matrix(0.2, "M"), random(P, name="g")
    space = full_space(H, M, g)
    step = space.solve(radius)
    p, multiplier = space.vector(step), step.multiplier
    length = float((p @ M @ p).sqrt())
    assert len(space) == P
    assert torch.linalg.vector_norm(H @ p + multiplier * (M @ p) + g) <= 1e-8 * max(1.0, radius)
    assert length == pytest.approx(step.length)
    assert length <= radius * (1 + 1e-9)
    assert multiplier == 0 or length == pytest.approx(radius)
    assert float(torch.linalg.eigvalsh(H + multiplier * M)[0]) >= -1e-9
    assert step.decrease == pytest.approx(-float(g @ p + 0.5 * p @ H @ p), rel=1e-8)
    assert space.slope(step) == pytest.approx(float(g @ p))


def test_residual_is_that_of_the_dense_problem() -> None:
    H, M, g = matrix(0.1, "H"), matrix(0.2, "M"), random(P, name="g")
    space = full_space(H, M, g, capacity=4)
    step = space.solve(0.3)
    p = space.vector(step)
    r = H @ p + step.multiplier * (M @ p) + g
    assert space.residual(step) == pytest.approx(float((r @ torch.linalg.solve(M, r)).sqrt()), rel=1e-6)


def test_at_full_dimension_the_preconditioner_does_not_matter() -> None:
    H, g = matrix(0.3, "H"), random(P, name="g")
    expected = -torch.linalg.solve(H, g)
    for M in (torch.eye(P, dtype=torch.float64), matrix(0.2, "M"), matrix(0.01, "another")):
        space = full_space(H, M, g)
        torch.testing.assert_close(space.vector(space.solve(1e9)), expected, rtol=1e-7, atol=1e-8)


def test_the_curvature_itself_as_preconditioner_needs_one_product() -> None:
    H, g = matrix(0.3, "H"), random(P, name="g")
    space = KrylovSpace.of(g, float(g.norm()), P, lambda v: torch.linalg.solve(H, v))
    assert space.extend(lambda v: H @ v)
    step = space.solve(1e9)
    assert space.residual(step) <= 1e-12 * space.start_norm
    assert step.length == pytest.approx(space.start_norm)
    torch.testing.assert_close(space.vector(step), -torch.linalg.solve(H, g))


def test_hard_case_in_the_norm_of_the_preconditioner() -> None:
    """g is nearly orthogonal to the lowest generalised eigenvector u: lambda ~ -lambda_min(H, M), the rest along u."""
    M = matrix(0.2, "M")
    root = torch.linalg.cholesky(M)
    values = torch.tensor([-1.0, *range(1, P)], dtype=torch.float64)
    basis, _ = torch.linalg.qr(random(P, P, name="basis"))
    H = root @ basis @ torch.diag(values) @ basis.T @ root.T
    u = torch.linalg.solve(root.T, basis[:, 0])
    g = root @ (basis[:, 1:] @ random(P - 1, name="g") + 1e-7 * basis[:, 0])
    space = full_space(H, M, g)
    step = space.solve(50.0)
    p = space.vector(step)
    assert step.multiplier == pytest.approx(1.0)
    assert float((p @ M @ p).sqrt()) == pytest.approx(50.0)
    assert torch.linalg.vector_norm(H @ p + step.multiplier * (M @ p) + g) <= 1e-5
    assert abs(float(u @ M @ p)) > 45


@pytest.mark.parametrize("settings", [KFAC, DIAGONAL, {"preconditioner": "kfac"}])
def test_a_network_is_solved_to_the_minimum(settings: dict[str, Any]) -> None:
    """Products on parts change the path only, since the gradient is that of all samples."""
    gtol = 1e-3 if "sample_share" in settings else 1e-6
    result = minimize(network(), method="newton-cg", gtol=gtol, max_iterations=60, **settings)
    assert result.converged


def test_good_factors_save_products() -> None:
    """On this network about half of them; 0.7 leaves room for other machines' rounding."""
    plain = minimize(network(), method="newton-cg", gtol=1e-4)
    better = minimize(network(), method="newton-cg", gtol=1e-4, preconditioner="kfac", factor_share=1)
    assert plain.converged
    assert better.converged
    assert better.counts["products"] < 0.7 * plain.counts["products"]


def test_one_synchronisation_per_product_one_for_the_start_and_one_for_the_factors() -> None:
    objective = network()
    solver = make_solver("newton-cg", curvature="ggn", preconditioner="kfac")
    state = solver.init(objective, objective.initial())
    reads: list[None] = []
    with observe_reads(lambda: reads.append(None)):
        after = solver.step(objective, state)
    # The third is the check, once per model, that products are symmetric.
    assert len(reads) == after.products + 3 + after.evaluations - state.evaluations


def test_products_on_a_part_are_those_of_its_samples_and_charged_for_them() -> None:
    objective = network()
    part = objective.part(0.3, make_generator(1, "part"))
    assert part.n_samples == 12
    pieces = [part.piece(start, stop) for start, stop in part.edges]
    x, y = torch.cat([x for x, _ in pieces]), torch.cat([y for _, y in pieces])
    alone = Objective(objective.flat, x, y, l2=1e-2)
    w, v = objective.initial(), random(objective.size, name="v")
    meter = CountingMeter()
    objective.meter = meter
    torch.testing.assert_close(part.linearise(w).hvp(v), alone.linearise(w).hvp(v))
    torch.testing.assert_close(part.linearise(w).ggnvp(v), alone.linearise(w).ggnvp(v))
    assert (meter.samples["hvp"], meter.samples["ggnvp"], meter.samples["linearise"]) == (12, 12, 24)
    everything = objective.part(1.0, make_generator(2, "part"))
    torch.testing.assert_close(everything.linearise(w).hvp(v), objective.linearise(w).hvp(v))
    assert objective.part(1e-9, make_generator(3, "part")).n_samples == 1


def test_parts_are_drawn_anew_at_every_iterate() -> None:
    solver = make_solver("newton-cg", sample_share=0.3)
    objective = network()
    v = random(objective.size, name="v")
    made = [solver.at(objective, objective.initial(), k, None, 0.0).product(v) for k in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_diagonal_is_that_of_the_gauss_newton_matrix() -> None:
    """Exact for one sample with one output; the mean over many draws in general."""
    w, meter = network().initial(), CountingMeter()
    single = network((6, 5, 1), 1)
    regression = Objective(single.flat, random(1, 6, name="x"), random(1, 1, name="y"), loss="mse")
    estimate = make_preconditioner("diagonal", regression.flat, regression.loss)
    at = regression.initial()
    regression.part(1.0, make_generator(0, "part")).update(estimate, at, make_generator(0, "u"))
    torch.testing.assert_close(estimate.product(torch.ones_like(at)), ggn_diagonal(regression, at))
    objective = network(meter=meter)
    total, repeats = torch.zeros_like(w), 200
    for draw in range(repeats):
        once = make_preconditioner("diagonal", objective.flat, objective.loss)
        objective.part(1.0, make_generator(0, "part")).update(once, w, make_generator(draw, "u"))
        total += once.product(torch.ones_like(w)) / repeats
    expected = ggn_diagonal(objective, w) - objective.l2
    torch.testing.assert_close(total, expected, rtol=0.5, atol=1e-3)
    assert float(total.sum()) == pytest.approx(float(expected.sum()), rel=0.05)
    assert meter.samples["gradient"] == 40 * repeats + 16  # the guard looks at a gradient of 16 samples


def ggn_diagonal(objective: Objective, w: Tensor) -> Tensor:
    product = objective.linearise(w).ggnvp
    return torch.stack([product(e) for e in torch.eye(len(w), dtype=w.dtype)]).diagonal()


@pytest.mark.parametrize("settings", [KFAC, DIAGONAL])
def test_restored_solve_goes_on_bit_for_bit(settings: dict[str, Any]) -> None:
    solver = make_solver("newton-cg", gtol=0.0, **settings)
    straight, resumed = network(), network()
    a, b = solver.init(straight, straight.initial()), solver.init(resumed, resumed.initial())
    for _ in range(6):
        a = solver.step(straight, a)
        tensors, numbers = solver.save(solver.step(resumed, b))
        b = solver.restore(resumed, tensors, json.loads(json.dumps(numbers)))
        assert torch.equal(a.w, b.w)
        assert (a.damping, a.trust_radius, a.products) == (b.damping, b.trust_radius, b.products)


def test_budget_exhausted_at_any_call_changes_nothing() -> None:
    assert_exhaustion_changes_nothing("newton-cg", 3, **KFAC)


def test_damping_follows_the_agreement_of_model_and_objective() -> None:
    objective = network()
    solver = make_solver("newton-cg", **KFAC, damping=1.0, damping_decay=0.25)
    state = solver.init(objective, objective.initial())
    assert state.damping == 1.0
    seen = set()
    for _ in range(8):
        before, evaluations = state.damping, state.evaluations
        state = solver.step(objective, state)
        change = state.damping / before
        seen.add(change)
        assert change in (0.25, 1.0, 4.0)
        assert change == 4.0 or state.evaluations == evaluations + 1
    assert 0.25 in seen


def test_another_objective_drops_the_factors() -> None:
    first, second = network(samples=40), network(samples=30)
    solver = make_solver("newton-cg", **KFAC)
    state = solver.step(first, solver.init(first, first.initial()))
    assert int(state.factors.tensors["updates"]) == 1
    state = solver.step(second, solver.step(first, state))
    assert int(state.factors.tensors["updates"]) == 1
    assert state.identity == second.identity


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preconditioner": "kfac"}, "preconditioner = 'kfac': a plain function has no samples or layers"),
        ({"sample_share": 0.5}, "sample_share = 0.5: a plain function has no samples or layers"),
    ],
)
def test_a_plain_function_is_refused_before_any_call(settings: dict[str, Any], message: str) -> None:
    objective = PROBLEMS["wood"].objective()
    with pytest.raises(SettingError, match=r".") as caught:
        minimize(objective, method="newton-cg", **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert objective.evaluations == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preconditioner": "k-fac"}, "did you mean 'kfac'"),
        ({"sample_share": 0.0}, "above 0"),
        ({"sample_share": 1.5}, "at most 1"),
        ({"damping": 0}, "above 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make_solver("newton-cg", **settings)


class Scaled(nn.Module):
    """A layer that K-FAC does not know, before one that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6, dtype=torch.float64))
        self.last = nn.Linear(6, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(x * self.scale))


def test_unknown_layers_are_named_and_solved_all_the_same() -> None:
    y = torch.randint(0, 3, (40,), generator=make_generator(5, "y"))
    objective = Objective(Scaled(), random(40, 6, name="x"), y, l2=1e-2)
    solver = make_solver("newton-cg", preconditioner="kfac", curvature="ggn")
    with pytest.warns(UserWarning, match="no factors for scale") as caught:
        _, reason = run(solver, objective, solver.init(objective, objective.initial()))
    assert reason == "gradient"
    assert len(caught) == 1
