"""L-BFGS on the host against the general one, which has its own references, and against dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

from subsetopt.sklearn import SubsetClassifier
from subsetopt.sklearn.host_lbfgs import Carried, HostLBFGS, HostPairs
from subsetopt.sklearn.network import Network
from subsetopt.sklearn.perceptron import PerceptronObjective, Sample
from subsetopt.solvers import make_solver


def _objective(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 1).long()
    network = Network.drawn((5, 6, 3), "tanh", 0, dtype, torch.device("cpu"))
    return PerceptronObjective(network, Sample(x.to(dtype), y, None), 1e-3)


@pytest.mark.parametrize("memory", [3, 50])
def test_its_steps_are_those_of_the_general_method(memory):
    """The ring turns after three pairs; rounding alone differs, since another library adds up."""
    objective = _objective()
    own, reference = HostLBFGS(gtol=0.0, memory=memory), make_solver("lbfgs", gtol=0.0, memory=memory)
    a, b = own.init(objective, objective.initial()), reference.init(objective, objective.initial())
    for _ in range(15):
        a, b = own.step(objective, a), reference.step(objective, b)
        torch.testing.assert_close(a.w, b.w, rtol=1e-6, atol=1e-8)
        # The general method combines pairs to conjugate ones, and may begin with a diagonal; this one does neither.
        b.memory.measured, b.memory.told = 0, []
    assert a.evaluations == b.evaluations


def test_it_reaches_the_gradient_test_in_both_precisions():
    for dtype, gtol in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        objective = _objective(dtype)
        solver = HostLBFGS(gtol=gtol, max_iterations=2000)
        state = solver.init(objective, objective.initial())
        while solver.terminate(state) is None:
            state = solver.step(objective, state)
        assert state.gradient_norm <= gtol
        assert objective.value_and_gradient(state.w)[1].abs().max() <= gtol


def test_carried_pairs_know_the_curvature_of_a_stronger_penalty():
    """On a quadratic y = A s, pairs of A + d I are y + d s; P conjugate ones give the inverse exactly."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    A, d = root @ root.T + np.eye(4), 0.7
    s = np.linalg.eigh(A)[1].T.copy()  # conjugate directions, for which BFGS is exact
    ring, g = HostPairs.empty(6, 4), rng.normal(size=4)
    ring.refill(s, s @ A + d * s, g, 1e-16)
    product, square = ring.apply(g, float(g @ g))
    expected = np.linalg.solve(A + d * np.eye(4), g)
    np.testing.assert_allclose(product, expected, rtol=1e-10)
    assert square == pytest.approx(g @ expected)


def test_pairs_that_a_weaker_penalty_leaves_without_curvature_are_dropped():
    objective = _objective()
    solver = HostLBFGS()
    state = solver.init(objective, objective.initial())
    s = np.eye(2, state.w.numel())
    kept = solver.carry(state, Carried(s, np.array([[2.0], [0.5]]) * s, 1.0), -1.0)
    assert kept.memory.order == [0]
    np.testing.assert_array_equal(kept.memory.rows[1], s[0])


def test_a_fit_is_the_same_bit_for_bit_and_leaves_the_global_generators_alone():
    X, y = load_wine(return_X_y=True)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = SubsetClassifier((9,), random_state=1).fit(X, y).result_
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    second = SubsetClassifier((9,), random_state=1).fit(X, y).result_
    assert torch.equal(first.x, second.x)
    assert first.counts == second.counts
