"""Models that keep what they computed: refused where it stands for other parameters, taken where it does not matter.

The reference is the same model without its cache: least squares has one minimum.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subsetopt import Objective, SubsetTrainer, minimize
from subsetopt.errors import ModelError
from subsetopt.models import build_model
from subsetopt.seeding import make_generator

RANDOM = make_generator(0, "test")
X, Y = torch.randn(60, 3, generator=RANDOM), torch.randn(60, 2, generator=RANDOM)


class Weighted(nn.Module):
    """x softmax(w) + b; a subclass says how the first factor is kept."""

    def __init__(self, in_shape: Any = None, n_outputs: int = 2) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, 6).reshape(3, 2))
        self.b = nn.Parameter(torch.zeros(2))
        self.cache: Tensor | None = None
        self.by_shape: dict[tuple[int, ...], Tensor] = {}

    def factor(self, x: Tensor) -> Tensor:
        return self.w.softmax(0)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.factor(x) + self.b


class FirstCall(Weighted):
    def factor(self, x: Tensor) -> Tensor:
        if self.cache is None:
            self.cache = self.w.softmax(0)
        return self.cache


class FirstCallDetached(Weighted):
    def factor(self, x: Tensor) -> Tensor:
        if self.cache is None:
            self.cache = self.w.detach().softmax(0)
        return self.cache + 0 * self.w


class ByShape(Weighted):
    def factor(self, x: Tensor) -> Tensor:
        if x.shape not in self.by_shape:
            self.by_shape[tuple(x.shape)] = self.w.softmax(0)
        return self.by_shape[tuple(x.shape)]


class NewAttribute(Weighted):
    def factor(self, x: Tensor) -> Tensor:
        if not hasattr(self, "_kept"):
            self._kept = [self.w.norm()]
        return self.w / self._kept[0]


class LastResult(Weighted):
    def factor(self, x: Tensor) -> Tensor:
        self.cache, self.calls = self.w.softmax(0), getattr(self, "calls", 0) + 1
        return self.cache


class Constant(Weighted):
    def factor(self, x: Tensor) -> Tensor:
        if self.cache is None:
            self.cache = torch.eye(3, device=x.device)
        return self.cache @ self.w.softmax(0)


class MadeOnce(Weighted):
    """A layer made in the first call, as hand-written lazy modules do."""

    ready = False

    def factor(self, x: Tensor) -> Tensor:
        if not self.ready:
            self.inner, self.ready = nn.Linear(3, 3), True
        return self.inner.weight @ self.w


STALE = {FirstCall: "cache", FirstCallDetached: "cache", ByShape: "by_shape", NewAttribute: "_kept"}


@pytest.mark.parametrize("kind", STALE)
def test_what_was_computed_at_other_parameters_is_named(kind: type[Weighted]) -> None:
    said = rf"what an earlier call left in (1\.)?{STALE[kind]}; compute in each forward pass what depends on parameters"
    with pytest.raises(ModelError, match=said):
        Objective(kind(), X, Y, loss="mse")
    with pytest.raises(ModelError, match=said):  # within another module, and in a run, which calls it before
        whole = nn.Sequential(nn.Linear(3, 3), kind())
        SubsetTrainer(whole, (X, Y), subset_frac=0.5, max_iterations=2, handoff="none").fit()


def test_a_cache_that_was_filled_before_the_model_is_given_is_seen_by_its_graph() -> None:
    model = FirstCall()
    model(X)
    with pytest.raises(ModelError, match="made of cache, which an earlier call computed from its parameters"):
        Objective(model, X, Y, loss="mse")


@pytest.mark.parametrize("kind", [LastResult, Constant])
@pytest.mark.parametrize("called", [False, True])
def test_what_is_renewed_or_no_function_of_parameters_may_be_kept(kind: type[Weighted], called: bool) -> None:
    model = kind()
    if called:
        model(X)
    plain = minimize(Objective(Weighted(), X, Y, loss="mse"), gtol=1e-5)
    kept = minimize(Objective(model, X, Y, loss="mse"), gtol=1e-5)
    assert kept.converged
    assert kept.loss == pytest.approx(plain.loss, rel=1e-4)


def test_layers_made_in_the_trial_call_of_a_factory_stay() -> None:
    model = build_model(f"{__name__}:MadeOnce", in_shape=(3,), n_outputs=2, seed=0)
    model(X)
    assert getattr(model, "ready", False)
    assert torch.equal(model(X), model(X))


class Recurrent(nn.Module):
    """A GRU that begins where the last call ended; its states approach each other from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.last, self.state = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2), None

    def forward(self, x: Tensor) -> Tensor:
        steps, state = self.cells(x[:, None].expand(-1, 20, -1), self.state)
        self.state = state.detach()
        return self.last(steps[:, -1])  # type: ignore[no-any-return] # torch's modules return Any


def test_a_state_from_call_to_call_is_no_random_number() -> None:
    """That two pairs of later calls agree, because the state settles, tells nothing of random numbers."""

    class Stateful(Weighted):
        def factor(self, x: Tensor) -> Tensor:
            before = torch.zeros(3, 2, device=x.device) if self.cache is None else self.cache
            self.cache = 0.05 * before + self.w.detach()
            return self.w + self.cache

    with pytest.raises(ModelError, match="keeps state from one call to the next in cache"):
        Objective(Stateful(), X, Y, loss="mse")
    torch.manual_seed(0)
    model = Recurrent()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 2  # so that the state is not forgotten within a call
    with pytest.raises(ModelError, match="keeps state from one call to the next in state"):
        Objective(model, X, Y, loss="mse")
