"""`subsetopt.optim.NewtonCG` against dense Hessians and the solver that it stands on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from subsetopt import minimize
from subsetopt.distributed import Ranks
from subsetopt.errors import UserError
from subsetopt.optim import LBFGS, NewtonCG, full_batch_closure
from subsetopt.optim.closure import ClosureObjective
from subsetopt.optim.flat import FlatParameters
from subsetopt.seeding import make_generator, seeded_globals
from subsetopt.solvers import StopReason


class Fit:
    """A tanh network with a penalty; `function(w)` is its loss as a function of one vector."""

    def __init__(self, kind: Callable[..., Any] = NewtonCG, **settings: Any) -> None:
        draw = make_generator(0, "data")
        self.x = torch.randn(30, 3, generator=draw, dtype=torch.float64)
        self.y = torch.sin(self.x.sum(1, keepdim=True))
        with seeded_globals(0, "init"):
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        self.optimizer: Any = kind(self.net.parameters(), **settings)
        self.calls = 0

    def loss(self, net: Callable[[Tensor], Tensor], parameters: list[Tensor]) -> Tensor:
        penalty = torch.stack([(p * p).sum() for p in parameters]).sum()
        return ((net(self.x) - self.y) ** 2).mean() + 1e-2 * penalty

    def __call__(self) -> Tensor:
        self.calls += 1
        self.optimizer.zero_grad()
        loss = self.loss(self.net, list(self.net.parameters()))
        loss.backward()
        return loss

    def function(self, w: Tensor) -> Tensor:
        names = [name for name, _ in self.net.named_parameters()]
        shapes = [p.shape for p in self.net.parameters()]
        parts = [part.view(s) for part, s in zip(w.split([s.numel() for s in shapes]), shapes, strict=True)]
        named = dict(zip(names, parts, strict=True))
        return self.loss(lambda x: functional_call(self.net, named, (x,)), parts)

    @property
    def w(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.net.parameters()])


def products(fit: Fit, closure: Callable[[], Any]) -> Tensor:
    """The matrix of all Hessian products."""
    flat = FlatParameters(fit.net.parameters())
    linearisation = ClosureObjective(flat, closure, Ranks()).linearise(fit.w)
    return torch.stack([linearisation.hvp(v) for v in torch.eye(flat.size, dtype=flat.dtype)])


def test_products_are_those_of_the_dense_hessian() -> None:
    fit = Fit()
    dense = torch.autograd.functional.hessian(fit.function, fit.w)
    torch.testing.assert_close(products(fit, fit), dense, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch", [4, 30])
def test_a_closure_over_batches_has_the_products_of_the_whole(batch: int) -> None:
    fit = Fit()
    parts = list(zip(fit.x.split(batch), fit.y.split(batch), strict=True))

    def plain(w: Tensor) -> Tensor:
        penalty: Tensor = fit.function(w) - 1e-2 * (w * w).sum()
        return penalty

    dense = torch.autograd.functional.hessian(plain, fit.w)
    found = products(fit, full_batch_closure(fit.net, nn.functional.mse_loss, parts))
    torch.testing.assert_close(found, dense, rtol=1e-8, atol=1e-11)


def test_attention_has_products_of_its_unfused_form() -> None:
    heads = torch.randn(3, 1, 30, 4, generator=make_generator(0, "heads"), dtype=torch.float64)
    p = nn.Parameter(torch.ones(4, dtype=torch.float64))

    def function(w: Tensor) -> Tensor:
        q, k, v = heads * w
        return (nn.functional.scaled_dot_product_attention(q, k, v) ** 2).mean()

    def closure() -> Tensor:
        p.grad = None
        loss = function(p)
        loss.backward()
        return loss

    linearisation = ClosureObjective(FlatParameters([p]), closure, Ranks()).linearise(p.detach().clone())
    found = torch.stack([linearisation.hvp(v) for v in torch.eye(4, dtype=torch.float64)])
    with sdpa_kernel(SDPBackend.MATH):
        dense = torch.autograd.functional.hessian(function, p.detach())
    torch.testing.assert_close(found, dense, rtol=1e-9, atol=1e-12)


def test_it_ends_where_the_solver_ends_at_the_same_cost() -> None:
    fit = Fit(max_iter=200)
    expected = minimize(fit.function, fit.w, method="newton-cg", gtol=1e-7)
    fit.optimizer.step(fit)
    assert fit.optimizer.stop_reason == StopReason.GRADIENT == expected.stop_reason
    torch.testing.assert_close(fit.w, expected.x, rtol=1e-7, atol=1e-9)
    counts = fit.optimizer.state_dict()["state"][0]
    assert counts["n_iter"] == expected.iterations
    assert fit.calls == counts["func_evals"] == expected.counts["evaluations"] + expected.iterations


def test_steps_state_and_copies_walk_one_path() -> None:
    whole, broken = Fit(max_iter=6, max_eval=99), Fit(max_iter=3, max_eval=99)
    whole.optimizer.step(whole)
    broken.optimizer.step(broken)
    copied, loaded = copy.deepcopy(broken), Fit(max_iter=3, max_eval=99)
    loaded.net.load_state_dict(broken.net.state_dict())
    loaded.optimizer.load_state_dict(broken.optimizer.state_dict())
    for fit in (broken, copied, loaded):
        fit.optimizer.step(fit)
        assert torch.equal(fit.w, whole.w)


def test_new_data_are_noticed() -> None:
    fit = Fit(max_iter=100)
    fit.optimizer.step(fit)
    fit.y = -fit.y
    fit.optimizer.step(fit)
    assert fit.optimizer.stop_reason == StopReason.GRADIENT
    gradient = torch.autograd.grad(fit.function(w := fit.w.requires_grad_()), w)[0]
    assert float(gradient.abs().max()) < 1e-6


def _clipped(fit: Fit) -> Tensor:
    loss = fit()
    nn.utils.clip_grad_norm_(fit.net.parameters(), 1e-3)
    return loss


def _set_by_hand(fit: Fit) -> Tensor:
    loss = fit.loss(fit.net, list(fit.net.parameters()))
    for p, g in zip(fit.net.parameters(), torch.autograd.grad(loss, list(fit.net.parameters())), strict=True):
        p.grad = g
    return loss


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g


def _once(fit: Fit) -> Tensor:
    fit.optimizer.zero_grad()
    loss: Tensor = (_Once.apply(fit.net(fit.x)) ** 2).mean()
    loss.backward()
    return loss


@pytest.mark.parametrize(
    ("closure", "said"),
    [(_clipped, "not the derivative"), (_set_by_hand, "loss.backward"), (_once, "no second derivative")],
    ids=["clipped", "by hand", "once"],
)
def test_a_closure_without_second_derivatives_is_refused(closure: Callable[[Fit], Tensor], said: str) -> None:
    fit = Fit()
    start = fit.w
    with pytest.raises(UserError, match=said):
        fit.optimizer.step(lambda: closure(fit))
    assert torch.equal(fit.w, start)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: NewtonCG([p], max_products=0), "max_products = 0"),
        (lambda p: NewtonCG([p], max_iter=-1), "max_iter = -1"),
        (lambda p: NewtonCG([nn.Parameter(torch.zeros(2, dtype=torch.complex64))]), "view_as_real"),
        (lambda p: NewtonCG([p]).load_state_dict(_state(LBFGS)), "newton-cg"),
        (lambda p: LBFGS([p]).load_state_dict(_state(NewtonCG)), "lbfgs"),
        (lambda p: NewtonCG([p]).load_state_dict(_state(torch.optim.LBFGS)), "newton-cg"),
    ],
)
def test_mistakes_are_one_line(make: Callable[[nn.Parameter], Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        make(nn.Parameter(torch.zeros(2)))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def _state(kind: Callable[..., Any]) -> Any:
    x = nn.Parameter(torch.ones(2))
    optimizer = kind([x])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = ((x - 3) ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return optimizer.state_dict()


def test_a_scheduler_or_a_framework_may_write_a_rate_which_is_said_to_have_no_effect() -> None:
    """Before, a scheduler raised KeyError: 'lr', and skorch, which always gives lr, could not construct it."""
    ends = []
    for scheduled in (False, True):
        x = nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
        optimizer = NewtonCG([x], lr=0.01 if scheduled else 1.0, max_iter=2)
        kinds = (torch.optim.lr_scheduler.StepLR(optimizer, 1), torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer))

        def closure(optimizer: NewtonCG = optimizer, x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss = (x**4).sum()
            loss.backward()
            return loss

        for step in range(3):
            if scheduled and step == 0:
                with pytest.warns(UserWarning, match=r"no learning rate, so lr = 0\.01 has no effect"):
                    optimizer.step(closure)
            else:
                optimizer.step(closure)
            if scheduled:
                kinds[0].step()
                kinds[1].step(1.0)
        ends.append(x.detach().clone())
    assert torch.equal(*ends)


def test_sparse_gradients_are_refused_in_one_line() -> None:
    """A traceback: they have no second derivative, and no other shape."""
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = NewtonCG(table.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = table(torch.arange(3)).square().sum()
        loss.backward()
        return loss

    with pytest.raises(UserError, match="sparse gradients, without second derivatives; use sparse=False"):
        optimizer.step(closure)
