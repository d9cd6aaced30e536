"""A loss of a module as a plain function of a flat vector, against autograd on the module itself."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from subsetopt import functional, minimize
from subsetopt.errors import ModelError, SettingError
from subsetopt.seeding import make_generator, seeded_globals

X = torch.randn(15, 2, generator=make_generator(0, "functional"), dtype=torch.float64)
Y = torch.sin(X).sum(1)


class Process(nn.Module):
    """A Gaussian process with a squared exponential kernel: no forward pass at all."""

    def __init__(self) -> None:
        super().__init__()
        self.log_length, self.log_noise = nn.Parameter(torch.zeros(2).double()), nn.Parameter(torch.zeros(()).double())

    def negative_log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        scaled = x / self.log_length.exp()
        kernel = torch.exp(-0.5 * (scaled[:, None] - scaled[None]).square().sum(2))
        factor = torch.linalg.cholesky(kernel + self.log_noise.exp() * torch.eye(len(x), dtype=x.dtype))
        solved = torch.cholesky_solve(y[:, None], factor)[:, 0]
        return 0.5 * y @ solved + factor.diagonal().log().sum()


def test_value_gradient_and_products_are_those_of_the_module() -> None:
    process = Process()
    function, start = functional(process, lambda gp: gp.negative_log_likelihood(X, Y))
    assert start.shape == (3,)
    w = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(w), w)
    expected = torch.autograd.grad(process.negative_log_likelihood(X, Y), list(process.parameters()))
    torch.testing.assert_close(gradient, torch.cat([part.reshape(-1) for part in expected]), rtol=1e-12, atol=0)
    hessian = torch.autograd.functional.hessian(function, start)
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["lbfgs", "newton-cg"])
def test_minimize_takes_it_and_gives_the_module_back(method: str) -> None:
    function, start = functional(Process(), lambda gp: gp.negative_log_likelihood(X, Y))
    result = minimize(function, start, method=method, gtol=1e-5, max_iterations=200)
    assert result.loss < float(function(start)) - 1
    fitted = function.module(result.x)
    assert isinstance(fitted, Process)
    assert float(fitted.negative_log_likelihood(X, Y).detach()) == pytest.approx(result.loss, rel=1e-10)


def test_derivatives_of_the_module_inside() -> None:
    with seeded_globals(0, "functional"):
        net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def slope(model: nn.Module) -> Tensor:
        x = X.clone().requires_grad_()
        (derivative,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return (derivative - X.cos()).square().mean()

    function, start = functional(net, slope)
    expected = slope(net).detach()
    with torch.no_grad():
        torch.testing.assert_close(function(start), expected, rtol=1e-12, atol=0)
    assert minimize(function, start, max_iterations=30).loss < 0.5 * float(function(start))


def test_what_is_no_loss_is_refused() -> None:
    with pytest.raises(SettingError, match=r"not a torch\.nn\.Module"):
        functional(lambda x: x, lambda model: 0)  # type: ignore[arg-type] # the mistake under test
    with pytest.raises(SettingError, match="give a function"):
        functional(Process(), 3)  # type: ignore[arg-type] # the mistake under test


class Recomputing(nn.Module):
    """A network whose inner layers, BatchNorm among them, are evaluated again in the backward pass where asked."""

    def __init__(self, how: str) -> None:
        super().__init__()
        with seeded_globals(0, "recomputing"):
            self.body = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh())
            self.head = nn.Linear(5, 1)
        self.how = how
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "plain" or (self.how == "late" and float(self.head.bias.detach()) < 1):
            return self.head(self.body(x))
        return self.head(checkpoint(self.body, x, use_reentrant=self.how == "reentrant"))


def misfit(model: nn.Module) -> Tensor:
    return (model(X)[:, 0] - Y).square().mean()


def test_a_module_that_is_recomputed_has_the_derivatives_of_the_same_without() -> None:
    """Two graphs live at once, and the backward passes come after both: each is recomputed at its own point."""
    found = []
    for how in ("plain", "checkpointed"):
        function, start = functional(Recomputing(how), misfit)
        points = [(start + shift).requires_grad_() for shift in (0.5, -0.25)]
        values = [function(point) for point in points]
        gradients = [torch.autograd.grad(value, point)[0] for value, point in zip(values, points, strict=True)]
        hessian = torch.autograd.functional.hessian(function, points[0].detach())
        found.append([*(value.detach() for value in values), *gradients, hessian])
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("method", ["lbfgs", "newton-cg"])
def test_a_solve_with_a_recomputed_module_is_that_of_the_same_without(method: str) -> None:
    found = []
    for how in ("plain", "checkpointed"):
        function, start = functional(Recomputing(how), misfit)
        result = minimize(function, start, method=method, max_iterations=5)
        found.append(torch.cat([parameter.flatten() for parameter in function.module(result.x).parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("needs", [False, True])
def test_checkpoints_that_lose_the_gradient_are_refused(needs: bool) -> None:
    x = X.clone().requires_grad_(needs)
    with pytest.raises(ModelError, match="use_reentrant=False"):
        functional(Recomputing("reentrant"), lambda model: model(x).square().sum())


def test_a_checkpoint_of_what_depends_on_parameters_is_refused_where_autograd_cannot_pass() -> None:
    with pytest.raises(ModelError, match=r"autograd\.grad cannot pass; checkpoint with use_reentrant=False"):
        functional(Recomputing("reentrant"), lambda model: model(X * (1 + model.head.bias)).square().sum())


def test_a_checkpoint_that_begins_later_is_refused_when_it_is_recomputed() -> None:
    function, start = functional(Recomputing("late"), misfit)
    w = (start + 2).requires_grad_()
    value = function(w)
    with pytest.raises(ModelError, match="checkpoint at every point alike"):
        torch.autograd.grad(value, w)


def test_a_functional_is_copied_and_pickled() -> None:
    function, start = functional(Recomputing("plain"), misfit)
    for other in (copy.deepcopy(function), pickle.loads(pickle.dumps(function))):
        assert torch.equal(other(start + 1), function(start + 1))


def test_copies_of_a_functional_refuse_their_module_outside_of_it_too() -> None:
    """What stands for the parameters between calls raises in a copy as well, pickled or not."""
    function, start = functional(nn.Linear(2, 1).double(), _squares)
    for other in (function, copy.deepcopy(function), pickle.loads(pickle.dumps(function))):
        assert torch.equal(other(start), function(start))
        for module in other._flat.modules():
            assert set(module._parameters) == {"weight", "bias"}
            with pytest.raises(ModelError, match="called outside of fun"):
                module(X)


def _squares(module: nn.Module) -> Tensor:
    total: Tensor = module(X).square().sum()
    return total


class Drawing(Recomputing):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * torch.rand((), dtype=x.dtype)


def test_trying_a_functional_out_draws_nothing_from_the_callers_generator() -> None:
    module, state = Drawing("plain"), torch.get_rng_state()
    functional(module, misfit)
    assert torch.equal(torch.get_rng_state(), state)
