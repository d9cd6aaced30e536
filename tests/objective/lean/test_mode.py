"""Lean second derivatives against finite differences (gradgradcheck), and the fallback where there are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from subsetopt.models import build_model
from subsetopt.objective import Objective
from subsetopt.objective.flops import count_flops
from subsetopt.objective.lean.mode import lean_second_derivatives
from subsetopt.objective.memory import SavedBytes
from subsetopt.seeding import make_generator
from tests.objective.objective_nets import problem, vector_like


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=make_generator(seed, "ops"), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize(
    ("function", "shapes", "settings"),
    [
        (F.conv1d, [(2, 2, 7), (3, 2, 3), (3,)], {"padding": 1}),
        (F.conv2d, [(2, 4, 5, 4), (4, 2, 3, 2), (4,)], {"stride": 2, "padding": (1, 0), "groups": 2}),
        (F.conv2d, [(2, 2, 6, 6), (2, 2, 2, 2)], {"dilation": 2, "padding": "same"}),
        (F.conv3d, [(1, 2, 3, 3, 3), (2, 2, 2, 2, 2), (2,)], {"dilation": (1, 2, 1)}),
        (F.conv_transpose1d, [(1, 2, 4), (2, 3, 3), (3,)], {"stride": 2, "output_padding": 1}),
        (F.conv_transpose2d, [(2, 4, 3, 2), (4, 3, 3, 2), (6,)], {"stride": (2, 1), "padding": (1, 0), "groups": 2}),
        (F.conv_transpose3d, [(1, 2, 2, 2, 2), (2, 1, 2, 2, 2)], {"dilation": (1, 2, 1)}),
    ],
)
def test_convolution_derivatives_equal_finite_differences(function: Any, shapes: list[Any], settings: Any) -> None:
    inputs = [randn(*shape, seed=seed) for seed, shape in enumerate(shapes)]

    def lean(*tensors: Tensor) -> Tensor:
        with lean_second_derivatives(in_cotangent_only=False):
            return function(*tensors, **settings)

    assert torch.equal(lean(*inputs), function(*inputs, **settings))
    assert torch.autograd.gradcheck(lean, inputs) and torch.autograd.gradgradcheck(lean, inputs)


@pytest.mark.parametrize("shape", [(6, 3), (4, 2, 3), (3, 2, 2, 3)])
def test_batch_norm_derivatives_equal_finite_differences_and_torchs_own(shape: tuple[int, ...]) -> None:
    inputs = [randn(*shape), randn(shape[1], seed=1), randn(shape[1], seed=2)]

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, weight, bias, True, 0.1, 1e-3)

    def lean(*tensors: Tensor) -> Tensor:
        with lean_second_derivatives(in_cotangent_only=False):
            return plain(*tensors)

    def second(function: Any) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(function(*inputs).sin().sum(), inputs, create_graph=True)
        total = sum(part.square().sum() for part in first)
        return torch.autograd.grad(total, inputs)

    assert torch.autograd.gradgradcheck(lean, inputs)
    for a, b in zip(second(lean), second(plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


ACTIVATIONS = {
    "torch.tanh": torch.tanh,
    "Tensor.tanh": Tensor.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "softplus": lambda x: F.softplus(x, 2.0, threshold=3.0),
    "mish": F.mish,
    "elu": lambda x: F.elu(x, 0.7),
    "celu": lambda x: F.celu(x, alpha=0.5),
    "selu": F.selu,
    "logsigmoid": F.logsigmoid,
    "an input by its name": lambda x: torch.tanh(input=x),
}
POOLS = {
    "avg_pool": lambda x: F.avg_pool2d(x, 2),
    "oblong": lambda x: F.avg_pool2d(x, (3, 1)),
    "image": lambda x: F.avg_pool2d(x[0], (6, 4), stride=None, count_include_pad=False),
    "overlapping": lambda x: F.avg_pool2d(x, 2, stride=1),
    "padded": lambda x: F.avg_pool2d(x, 2, padding=1),
    "rows left over": lambda x: F.avg_pool2d(x, (5, 2)),
    "columns left over": lambda x: F.avg_pool2d(x, 3, ceil_mode=True),
    "divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
}


@pytest.mark.parametrize("function", [*ACTIVATIONS.values(), *POOLS.values()], ids=[*ACTIVATIONS, *POOLS])
def test_activations_and_pools_equal_torch_and_finite_differences(function: Any) -> None:
    """Value and gradient: torch's, to rounding. Second derivative: finite differences of the gradient."""
    x = randn(2, 3, 6, 4)

    def lean(x: Tensor) -> Tensor:
        with lean_second_derivatives(in_cotangent_only=False):
            return function(x)

    g = torch.randn_like(function(x))
    assert torch.equal(lean(x), function(x))
    found, expected = (torch.autograd.grad(f(x), x, g, create_graph=True)[0] for f in (lean, function))
    torch.testing.assert_close(found, expected, rtol=1e-15, atol=1e-15)
    assert torch.autograd.gradcheck(lean, x) and torch.autograd.gradgradcheck(lean, x)


class _Calls(TorchDispatchMode):
    """Counts calls of operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Layer 1, whose input needs no gradient: one convolution on the way to J v, one on the way back. Layer 2: two
        # terms on the way to J v, and on the way back two for the input and two for the weights, in three calls.
        ("hvp", {"convolution": 3, "convolution_backward": 4, "tanh_backward": 4}),
        ("ggnvp", {"convolution": 3, "convolution_backward": 2, "tanh_backward": 4}),
    ],
)
def test_a_product_of_the_cnn_computes_no_more_than_it_needs(kind: str, expected: dict[str, int]) -> None:
    """Reference: the operations counted by hand."""
    model = build_model("cnn", in_shape=(1, 8, 8), n_outputs=3)
    generator = make_generator(0, "data")
    objective = Objective(model, torch.randn(6, 1, 8, 8, generator=generator), torch.arange(6) % 3)
    at = objective.linearise(objective.initial())
    product = getattr(at, kind)
    product(objective.initial())
    with _Calls() as calls:
        product(objective.initial())
    assert {name: calls.counts.get(name, 0) for name in expected} == expected
    assert not {"avg_pool2d", "avg_pool2d_backward", "tanh"} & calls.counts.keys()


def test_a_product_through_a_transposed_convolution_computes_no_more_than_it_needs() -> None:
    """Reference: four contractions of an inner layer, two of the first one, each as dear as a forward one."""
    first, second = nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 3, 2, stride=2)
    model = nn.Sequential(first, nn.Tanh(), second, nn.Flatten())
    x, y = torch.rand(4, 1, 5, 5), torch.rand(4, 3 * 36)
    with torch.no_grad():
        of_first, of_both = count_flops(lambda: first(x)), count_flops(lambda: model(x))
    objective = Objective(model, x, y, loss="mse")
    w = objective.initial()
    at = objective.linearise(w)
    at.ggnvp(w), at.hvp(w)
    inner = of_both - of_first
    assert count_flops(lambda: at.ggnvp(w)) == 2 * of_first + 4 * inner
    assert count_flops(lambda: at.hvp(w)) == 2 * of_first + 6 * inner


@pytest.mark.parametrize(("in_cotangent_only", "kept"), [(False, 2), (True, 1)])
def test_what_a_graph_keeps_is_counted_without_what_its_recording_needs_for_a_moment(
    in_cotangent_only: bool, kept: int
) -> None:
    """Reference: tanh keeps its output and, for its own curvature, one factor of the same size."""
    x = randn(5, 4)
    g = torch.ones_like(x).requires_grad_()
    with SavedBytes(exclude=g) as saved, lean_second_derivatives(in_cotangent_only):
        torch.autograd.grad(torch.tanh(x), x, g, create_graph=True)
    assert saved.total == kept * x.nbytes


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (1 - x.tanh().square())


class OnceDifferentiable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _Once.apply(x)


def test_an_operator_without_second_derivative_falls_back_to_differences_with_one_message() -> None:
    """Reference: the same network with torch's tanh."""
    model, x, y = problem("mlp")
    opaque = nn.Sequential(model[0], OnceDifferentiable(), *model[2:])
    exact, rough = Objective(model, x, y, l2=0.1, chunk_size=7), Objective(opaque, x, y, l2=0.1, chunk_size=7)
    w = exact.initial()
    v = vector_like(w)
    products = rough.linearise(w)
    with pytest.warns(UserWarning, match="hvp by central differences"):
        hvp = products.hvp(v)
    torch.testing.assert_close(hvp, exact.linearise(w).hvp(v), rtol=1e-6, atol=1e-8)
    with pytest.warns(UserWarning, match="ggnvp by central differences"):
        ggnvp = products.ggnvp(v)
    torch.testing.assert_close(ggnvp, exact.linearise(w).ggnvp(v), rtol=1e-6, atol=1e-8)
    assert products.note.startswith("curvature products: hvp by central differences (")
    assert torch.equal(rough.linearise(w).hvp(v), hvp)


def test_attention_has_products_without_fallback() -> None:
    """Fused attention has no second derivative; the graph is recorded with the plain formula. Reference: symmetry."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unsqueeze(1).chunk(3, -1)
            return self.head(F.scaled_dot_product_attention(q, k, v).squeeze(1).mean(1))

    x = randn(9, 5, 4).detach().float()
    objective = Objective(Attention(), x, torch.arange(9) % 3, chunk_size=4)
    w = objective.initial()
    products = objective.linearise(w)
    a, b = vector_like(w, 1), vector_like(w, 2)
    torch.testing.assert_close(a.dot(products.hvp(b)), b.dot(products.hvp(a)), rtol=1e-3, atol=1e-4)
    assert a.dot(products.ggnvp(a)) > 0 and products.note == ""


def test_a_model_that_calls_vmap_has_products_without_fallback() -> None:
    """Reference: the same network without vmap."""

    class Mapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(self.inner)(x)

    model, x, y = problem("mlp")
    plain, mapped = Objective(model, x, y), Objective(Mapped(model), x, y)
    w = plain.initial()
    v = vector_like(w)
    products = mapped.linearise(w)
    torch.testing.assert_close(products.hvp(v), plain.linearise(w).hvp(v), rtol=0, atol=1e-12)
    torch.testing.assert_close(products.ggnvp(v), plain.linearise(w).ggnvp(v), rtol=0, atol=1e-12)
    assert products.note == ""
