"""Solvers on every device: the minimum of the CPU, and no wait for the device but in `host_read`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu_cases import close, dense, vectors, waiting_is_an_error
from torch import Tensor, nn

from subsetopt.analysis.verification import certify
from subsetopt.objective import Objective
from subsetopt.solvers import make_solver, minimize

SOLVERS: dict[str, dict[str, Any]] = {
    "lbfgs": {"method": "lbfgs"},
    "lbfgs-kfac": {"method": "lbfgs", "preconditioner": "kfac"},
    "ncg": {"method": "ncg"},
    "newton-cg": {"method": "newton-cg"},
    "newton-cg-ggn": {"method": "newton-cg", "curvature": "ggn"},
    "newton-cg-kfac": {"method": "newton-cg", "preconditioner": "kfac", "sample_share": 0.5},
    "newton-cg-diagonal": {"method": "newton-cg", "preconditioner": "diagonal"},
}


def objective(device: torch.device | str, dtype: torch.dtype = torch.float64, convex: bool = False) -> Objective:
    """A small network, or logistic regression, which has one minimum."""
    data, model = vectors(120).train, nn.Linear(6, 3) if convex else dense()
    if convex:
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
    return Objective(model, data.inputs, data.targets, l2=0.01, dtype=dtype, device=device, chunk_size=50)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_minimum_of_a_convex_loss_is_that_of_the_cpu(name: str, device: torch.device) -> None:
    """f is strongly convex with the constant 0.01: gtol = 1e-8 puts both within sqrt(21) 1e-6 of one point."""
    here, there = (
        minimize(objective(d, convex=True), gtol=1e-8, max_iterations=200, **SOLVERS[name]) for d in ("cpu", device)
    )
    assert here.converged and there.converged
    assert there.x.device.type == device.type
    close(there.x, here.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_few_steps_on_a_network_end_where_the_cpu_ends(name: str, device: torch.device) -> None:
    ends = []
    for place in ("cpu", device):
        function, settings = objective(place), dict(SOLVERS[name])
        solver = make_solver(settings.pop("method"), gtol=1e-12, **settings)
        state = solver.init(function, function.initial())
        for _ in range(4):
            state = solver.step(function, state)
        ends.append(state.w)
    close(ends[1], ends[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", SOLVERS)
def test_float32_reaches_the_gradient_test(name: str, device: torch.device) -> None:
    reference = minimize(objective("cpu", convex=True), gtol=1e-8, method="lbfgs")
    found = minimize(objective(device, torch.float32, convex=True), gtol=1e-5, max_iterations=200, **SOLVERS[name])
    assert found.converged and found.loss == pytest.approx(reference.loss, rel=1e-5)


def test_a_function_of_a_tensor_is_minimised_where_its_start_is(device: torch.device) -> None:
    def rosenbrock(x: Tensor) -> Tensor:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    start = torch.full((10,), -1.0, dtype=torch.float64, device=device)
    for method in ("lbfgs", "ncg", "newton-cg"):
        found = minimize(rosenbrock, start, method=method, gtol=1e-9)
        assert found.converged and found.x.device.type == device.type


@pytest.mark.parametrize(("name", "reads"), [("lbfgs", 2), ("ncg", 2), ("newton-cg", None), ("newton-cg-ggn", None)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_a_step_waits_for_the_device_in_host_read_alone(
    name: str, reads: int | None, dtype: torch.dtype, device: torch.device
) -> None:
    """On CUDA by torch's own debug mode, which raises at any other wait, copies to the device among them.

    A step of L-BFGS and NCG whose first trial is accepted reads twice: the trial, and what is learned from it.
    """
    function = objective(device, dtype)
    settings = dict(SOLVERS[name])
    solver = make_solver(settings.pop("method"), gtol=1e-12, **settings)
    state = solver.init(function, function.initial())
    for _ in range(3):
        state = solver.step(function, state)
    with waiting_is_an_error(device) as count:
        before = state.evaluations
        state = solver.step(function, state)
        if reads is not None:
            assert count() == reads - 1 + state.evaluations - before


def test_a_certificate_is_that_of_the_cpu(device: torch.device) -> None:
    """Dense and by Lanczos."""
    w = minimize(objective("cpu"), gtol=1e-8, method="lbfgs").x
    for dense_limit in (1000, 0):
        here, there = (
            certify(objective(place), w.to(place), gtol=1e-6, damping=0.01, shift=0.01, dense_limit=dense_limit)
            for place in ("cpu", device)
        )
        assert here.verdict == there.verdict == "minimum"
        for a, b in (
            (here.spectrum.smallest, there.spectrum.smallest),
            (here.spectrum.largest, there.spectrum.largest),
        ):
            assert b.value == pytest.approx(a.value, rel=1e-6)
        effective = [c.spectrum.effective_dimension for c in (here, there)]
        assert effective[0] is not None and effective[1] is not None
        assert effective[1].value == pytest.approx(effective[0].value, rel=1e-4)
