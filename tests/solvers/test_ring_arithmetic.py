"""The arithmetic of the ring on a CPU: against exact sums, and how much of it there is."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from subsetopt.bench.algebra import Formula
from subsetopt.objective import FunctionObjective
from subsetopt.seeding import make_generator
from subsetopt.solvers import make_solver
from subsetopt.solvers.curvature_pairs import CurvaturePairs
from subsetopt.solvers.ring_passes import EXACT, RUN, SHORT
from subsetopt.solvers.ring_places import Places

PAIRS = 3


def learnt(size: int, dtype: torch.dtype) -> tuple[CurvaturePairs, Tensor]:
    """Return a ring of `PAIRS` that has learnt five steps of a diagonal quadratic, and the last gradient."""
    draw = make_generator(0, "steps")
    h = torch.logspace(0, 2, size, dtype=dtype)
    points = [torch.randn(size, generator=draw).to(dtype) for _ in range(6)]
    ring = CurvaturePairs.empty(PAIRS, points[0])
    for old, new in itertools.pairwise(points):
        ring.learn((old, h * old), (new, h * new), 1.0, 1.0)
    return ring, h * points[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [EXACT, RUN, RUN + 5, SHORT + 1])
def test_products_and_direction_of_a_ring_that_has_turned_are_those_in_float64(size: int, dtype: torch.dtype) -> None:
    ring, gradient = learnt(size, dtype)
    rows, g = ring.rows.double().numpy(), gradient.double().numpy()
    lengths = np.linalg.norm(rows, axis=1)
    tolerance = 1e-12 if dtype == torch.float64 or size <= EXACT else 1e-6
    used = np.array(ring.order)
    error = np.abs(ring.with_gradient - rows @ g) / (lengths * np.linalg.norm(g))
    assert error[np.concatenate([2 * used, 2 * used + 1])].max() < tolerance
    for slot in ring.order:
        s, y = rows[2 * slot], rows[2 * slot + 1]
        assert ring.gram[2 * slot, 2 * slot + 1] == pytest.approx(s @ y, rel=tolerance)
        assert ring.gram[2 * slot + 1, 2 * slot + 1] == pytest.approx(y @ y, rel=tolerance)
    c, gamma = ring.coefficients(len(ring.order))
    direction, _ = ring.apply(gradient, float(g @ g), -1.0)
    expected = -(c @ rows + gamma * g)
    scale = np.abs(c) @ np.abs(rows) + gamma * np.abs(g)
    assert (np.abs(direction.double().numpy() - expected) / scale).max() < (1e-14 if dtype == torch.float64 else 1e-6)


def test_a_copy_in_float64_follows_the_ring_through_insertions_and_pairs_that_are_refused() -> None:
    ring, gradient = learnt(50, torch.float32)
    ring.meet(gradient)
    for sign in (1.0, -1.0, 1.0):  # the second is not curved: its rows become 0
        step = torch.randn(50, generator=make_generator(3, "step"))
        ring.insert(step, sign * 2 * step, gradient)
        assert ring._float64 is not None
        assert np.array_equal(ring._float64, ring.rows.double().numpy())


class CountOperations(TorchDispatchMode):
    """Counts the operations that torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [30, SHORT])
def test_an_iteration_asks_torch_for_few_operations_however_many_pairs_and_parameters(size: int) -> None:
    h = torch.logspace(0, 4, size)

    def count(pairs: int) -> int:
        objective = FunctionObjective(lambda x: (h * (x - 1) ** 2).sum(), torch.zeros(size))
        solver = make_solver("lbfgs", gtol=0.0, memory=pairs)
        state = solver.init(objective, objective.initial())
        for _ in range(12):
            state = solver.step(objective, state)
        before = state.evaluations
        with CountOperations() as inside:
            objective.value_and_gradient(state.w)
        with CountOperations() as counted:
            state = solver.step(objective, state)
        return counted.count - inside.count * (state.evaluations - before)

    assert count(10) == count(3) <= 24


class CountEntries(TorchDispatchMode):
    """Adds up the entries that torch's operations read and write; those in a function made `free` are left out."""

    VIEWS = ("view", "slice", "select", "squeeze", "split", "expand", "alias", "stride", "unbind", "empty", "detach")

    def __init__(self) -> None:
        super().__init__()
        self.entries, self.idle = 0, False

    def free(self, function: Any) -> Any:
        def uncounted(*args: Any) -> Any:
            self.idle = True
            result = function(*args)
            self.idle = False
            return result

        return uncounted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.idle and not any(name in str(func) for name in self.VIEWS):
            tensors = tree_leaves((args, kwargs or {}, result))
            self.entries += sum(each.numel() for each in tensors if isinstance(each, Tensor))
        return result


def test_an_evaluation_moves_less_memory_than_one_of_torchs() -> None:
    """P = 140 000, ten pairs, once the rings are full: entries read or written per evaluation, in vectors."""
    size, pairs, numpys = SHORT + 8928, 10, 5  # g, w, d and s, y: what numpy reads, of which torch knows nothing
    h, count = torch.logspace(0, 4, size), CountEntries()
    formula = count.free(lambda w: (0.5 * torch.dot(h * (w - 1), w - 1).double(), h * (w - 1)))
    objective = Formula(formula, torch.zeros(size))
    solver = make_solver("lbfgs", gtol=0.0, memory=pairs)
    state = solver.init(objective, objective.initial())
    for _ in range(pairs + 2):
        state = solver.step(objective, state)
    begun = state.evaluations
    with count:
        for _ in range(pairs):
            state = solver.step(objective, state)
    assert len(state.memory.order) == pairs and state.evaluations <= begun + pairs + 1
    own = count.entries / size / (state.evaluations - begun) + numpys
    assert own <= 4 * pairs + 28
    assert own <= 0.65 * _torchs_vectors(Formula(formula, torch.zeros(size)), pairs, count)


def _torchs_vectors(objective: Formula, pairs: int, count: CountEntries) -> float:
    w = objective.initial().requires_grad_()
    settings: dict[str, Any] = {"line_search_fn": "strong_wolfe", "tolerance_change": 0.0, "tolerance_grad": 0.0}
    peer = torch.optim.LBFGS([w], max_iter=3 * pairs, history_size=pairs, **settings)
    evaluations, begun = 0, 2 * pairs  # once its pairs are full

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        if evaluations == begun:
            count.entries = 0
        loss, w.grad = objective.value_and_gradient(w.detach())
        return loss

    with count:
        peer.step(closure)
    assert evaluations > begun + pairs // 2
    return count.entries / w.numel() / (evaluations - begun)


@pytest.mark.parametrize("order", [[0], [0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1], [3, 0]])
def test_tables_are_the_products_of_the_pairs_in_order_wherever_the_ring_stands(order: list[int]) -> None:
    gram = np.random.default_rng(0).normal(size=(8, 8))  # not symmetric: rows and columns are told apart
    places = Places.of(order, 4)
    SY, YY = places.tables(gram)
    np.testing.assert_array_equal(SY, [[gram[2 * i, 2 * j + 1] for j in order] for i in order])
    np.testing.assert_array_equal(YY, [[gram[2 * i + 1, 2 * j + 1] for j in order] for i in order])
    row = np.arange(8)
    assert row[places.s].tolist() == [2 * i for i in order] and row[places.y].tolist() == [2 * i + 1 for i in order]
