"""What a product through lean operators computes and keeps; references: counts by hand."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from subsetopt.objective import Objective, calibrate_prices
from subsetopt.objective.lean import linear
from subsetopt.objective.lean.mode import lean_second_derivatives
from subsetopt.objective.memory import SavedBytes
from subsetopt.seeding import make_generator

PRODUCTS = {
    "mm": "dense",
    "addmm": "dense",
    "addmm_": "dense",
    "bmm": "batched",
    "baddbmm": "batched",
    "baddbmm_": "batched",
}


class _Products(TorchDispatchMode):
    """Counts products of matrices by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            self.counts[PRODUCTS[name]] += 1
        return func(*args, **(kwargs or {}))


class Attention(nn.Module):
    """One layer to embed, attention with a skip connection, a layer on the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.joint, self.head = nn.Linear(3, 4), nn.Linear(4, 12), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        q, k, v = self.joint(h).chunk(3, -1)
        return self.head((h + F.scaled_dot_product_attention(q, k, v)).mean(1))


@pytest.fixture
def attention(monkeypatch: pytest.MonkeyPatch) -> Objective:
    monkeypatch.setattr(linear, "WORTH", 0)
    torch.manual_seed(0)
    x = torch.randn(6, 5, 3, generator=make_generator(0, "x"))
    return Objective(Attention(), x, torch.arange(6) % 2, chunk_size=6)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Dense: one product for changes and one for derivatives in the first layer, six in each of the others.
        # Batched: each of the six products of attention's gradient changes with both of its factors.
        ("hvp", {"dense": 2 + 6 + 6, "batched": 12}),
        ("ggnvp", {"dense": 2 + 4 + 4, "batched": 4 + 4}),
    ],
)
def test_a_product_makes_the_products_of_matrices_that_it_needs(
    attention: Objective, kind: str, expected: dict[str, int]
) -> None:
    """Reference: Pearlmutter's R operator by hand."""
    w = attention.initial()
    at = attention.linearise(w)
    product: Callable[[Tensor], Tensor] = getattr(at, kind)
    product(w)
    with _Products() as counted:
        product(w)
    assert counted.counts == expected


def test_the_price_of_a_product_is_that_of_its_products_of_matrices(attention: Objective) -> None:
    """Reference: multiplications and additions by hand, for 6 sequences of 5."""
    x, y = torch.randn(6, 5, 3), torch.arange(6) % 2
    prices = calibrate_prices(attention, x, y)
    rows, embed, joint, head, attended = 30, 3 * 4, 4 * 12, 4 * 2, 2 * 6 * 5 * 5 * 4
    gradient = 2 * (rows * (2 * embed + 3 * joint) + 6 * 3 * head) + 6 * attended
    hvp = 2 * (rows * (2 * embed + 6 * joint) + 6 * 6 * head) + 12 * attended
    ggnvp = 2 * (rows * (2 * embed + 4 * joint) + 6 * 4 * head) + 8 * attended
    assert prices["hvp"] == pytest.approx(hvp / gradient, rel=1e-6)
    assert prices["ggnvp"] == pytest.approx(ggnvp / gradient, rel=1e-6)


@pytest.mark.parametrize(
    ("function", "kept", "kept_of_cotangent"),
    [
        # The slope and the curvature times what came in; the input is needed while the graph is recorded only.
        (F.gelu, 2, 1),
        (F.silu, 2, 1),
        (F.mish, 2, 1),
        # The output normalised, what came in, and small sums.
        (lambda x: F.group_norm(x, 2), 2, 1),
    ],
)
def test_what_a_graph_keeps(function: Callable[[Tensor], Tensor], kept: int, kept_of_cotangent: int) -> None:
    """Reference: tensors of the size of the input, counted by hand."""
    x = torch.randn(3, 4, 16, 16, generator=make_generator(0, "x")).requires_grad_()
    for in_cotangent_only, count in ((False, kept), (True, kept_of_cotangent)):
        with SavedBytes(exclude=x) as saved, lean_second_derivatives(in_cotangent_only):
            g = torch.ones_like(x).requires_grad_()
            torch.autograd.grad(function(x * 1), x, g, create_graph=True)
        assert count <= saved.total / x.nbytes < count + 0.1


def test_a_product_leaves_nothing_behind() -> None:
    """The direction of a product lives no longer than it; reference: a weak reference to it."""
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2))
    objective = Objective(model, torch.randn(6, 3), torch.arange(6) % 2)
    w = objective.initial()
    at = objective.linearise(w)
    at.hvp(w)
    v = w.clone()
    storage = weakref.ref(v.untyped_storage())
    at.hvp(v)
    del v
    gc.collect()
    assert storage() is None


def test_what_was_freed_after_recording_is_not_taken_for_zero() -> None:
    """A second derivative of a second backward pass, which needs what the first one freed, is refused."""
    x = torch.randn(3, generator=make_generator(0, "x")).requires_grad_()
    with lean_second_derivatives(in_cotangent_only=False):
        y = F.gelu(x).sum()
    torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        torch.autograd.grad(y, x, create_graph=True)
