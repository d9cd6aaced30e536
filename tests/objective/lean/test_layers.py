"""Lean normalisation, softmax, linear layers and attention against torch's values and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from subsetopt.objective.lean import linear
from subsetopt.objective.lean.mode import lean_second_derivatives
from tests.objective.lean.test_mode import randn

Function = Callable[..., Tensor]
FUTURE = torch.ones(3, 4, dtype=torch.bool).triu(1)
SOME_KEYS = torch.tensor([[True, False, True, True], [True] * 4, [False] * 4])

LAYERS: dict[str, tuple[Function, list[tuple[int, ...]]]] = {
    "layer norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b, 1e-2), [(3, 2, 4), (4,), (4,)]),
    "layer norm over two axes": (lambda x, w: F.layer_norm(x, (2, 3), w), [(3, 2, 3), (2, 3)]),
    "layer norm, bare": (lambda x: F.layer_norm(x, [4], eps=0.5), [(3, 4)]),
    "layer norm of one sample": (lambda x, w, b: F.layer_norm(x, (5,), w, b), [(5,), (5,), (5,)]),
    "layer norm of a transposed input": (lambda x, w: F.layer_norm(x.mT, (3,), w), [(2, 3, 4), (3,)]),
    "group norm": (lambda x, w, b: F.group_norm(x, 2, w, b, 1e-3), [(3, 4, 2, 2), (4,), (4,)]),
    "group norm of vectors": (lambda x, w, b: F.group_norm(x, 2, w, b), [(3, 6), (6,), (6,)]),
    "group norm, bare": (lambda x: F.group_norm(x, 3, eps=0.1), [(2, 6, 3)]),
    "group norm, one group": (lambda x, w, b: F.group_norm(x, 1, w, b), [(2, 3, 2), (3,), (3,)]),
    "instance norm": (lambda x, w, b: F.instance_norm(x, weight=w, bias=b), [(2, 3, 4), (3,), (3,)]),
    "instance norm, bare": (lambda x: F.instance_norm(x, eps=1e-2), [(2, 2, 2, 2)]),
    "softmax": (lambda x: x.softmax(-1), [(2, 3, 4)]),
    "softmax over rows": (lambda x: F.softmax(x, dim=1), [(2, 3, 4)]),
    "softmax by name": (lambda x: torch.softmax(input=x, dim=0), [(3, 4)]),
    "softmax in another dtype": (lambda x: F.softmax(x, -1, dtype=torch.float64), [(3, 4)]),
    "linear": (F.linear, [(2, 3, 4), (5, 4), (5,)]),
    "linear without bias": (F.linear, [(3, 4), (1, 4)]),
    "linear of one vector": (F.linear, [(4,), (3, 4), (3,)]),
    "linear of a transposed input": (lambda x, w: F.linear(x.mT, w), [(2, 3, 4), (2, 3)]),
    "silu": (F.silu, [(3, 4)]),
    "prelu": (F.prelu, [(3, 4), (1,)]),
    "prelu by channels": (F.prelu, [(2, 3, 2, 2), (3,)]),
    "prelu of columns": (lambda x, a: torch.prelu(x, weight=a), [(3, 4), (4,)]),
    "prelu of one vector": (F.prelu, [(4,), (1,)]),
    "glu": (F.glu, [(3, 4)]),
    "glu over channels": (lambda x: F.glu(x, dim=1), [(2, 4, 3)]),
    "glu of a transposed input": (lambda x: F.glu(x.mT), [(2, 4, 3)]),
    "silu in place": (lambda x: F.silu(x * 1, inplace=True), [(3, 4)]),
}


def attention(**options: Any) -> Function:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)


QKV = [(3, 3, 2), (3, 4, 2), (3, 4, 5)]
ATTENTION: dict[str, tuple[Function, list[tuple[int, ...]]]] = {
    "attention": (attention(), QKV),
    "several heads": (attention(scale=0.3), [(2, 2, 3, 2), (2, 2, 3, 2), (2, 2, 3, 1)]),
    "causal": (attention(is_causal=True), QKV),
    "bool mask, one row without keys": (attention(attn_mask=SOME_KEYS[:, None]), QKV),
    "added mask": (attention(attn_mask=torch.zeros(3, 4).masked_fill(FUTURE, -math.inf).double()), QKV),
    "learned mask": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), [*QKV, (3, 4)],
    ),
    "shared keys": (lambda q, k: F.scaled_dot_product_attention(q, k, k), QKV[:2]),
    "grouped queries": (attention(enable_gqa=True), [(1, 4, 3, 2), (1, 2, 3, 2), (1, 2, 3, 2)]),
}  # fmt: skip


@pytest.fixture
def all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small linear layers are lean, too."""
    monkeypatch.setattr(linear, "WORTH", 0)


def lean(function: Function) -> Function:
    def recorded(*tensors: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH), lean_second_derivatives(in_cotangent_only=False):
            return function(*tensors)

    return recorded


def check(function: Function, inputs: list[Tensor]) -> None:
    with sdpa_kernel(SDPBackend.MATH):
        expected = function(*inputs)
    torch.testing.assert_close(lean(function)(*inputs), expected, rtol=1e-12, atol=1e-13)
    assert torch.autograd.gradcheck(lean(function), inputs) and torch.autograd.gradgradcheck(lean(function), inputs)


@pytest.mark.usefixtures("all_sizes")
@pytest.mark.parametrize("name", [*LAYERS, *ATTENTION])
def test_layers_equal_torch_and_finite_differences(name: str) -> None:
    function, shapes = (LAYERS | ATTENTION)[name]
    check(function, [randn(*shape, seed=seed) for seed, shape in enumerate(shapes)])


@pytest.mark.usefixtures("all_sizes")
@pytest.mark.parametrize("frozen", [0, 1, 2])
@pytest.mark.parametrize("name", ["layer norm", "group norm", "linear", "attention", "prelu", "prelu by channels"])
def test_what_is_frozen_has_no_derivative_and_changes_no_other(name: str, frozen: int) -> None:
    function, shapes = (LAYERS | ATTENTION)[name]
    inputs = [randn(*shape, seed=seed).requires_grad_(seed != frozen) for seed, shape in enumerate(shapes)]
    check(function, inputs)


@pytest.mark.usefixtures("all_sizes")
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True},
        {"bias": False},
        {"add_bias_kv": True},
        {"add_zero_attn": True},
        {"kdim": 3, "vdim": 5},
        {"dropout": 0.5},
    ],
)
@pytest.mark.parametrize("masked", ["", "padding", "future", "both", "per head"])
def test_multi_head_attention_equals_torchs(weights: bool, options: dict[str, Any], masked: str) -> None:
    """Outputs, weights and second derivatives; reference: torch's own operators one by one."""
    torch.manual_seed(0)
    module = nn.MultiheadAttention(4, 2, **options).double().eval()
    x = randn(3, 3, 4)
    key, value = (randn(3, 3, module.kdim, seed=1), randn(3, 3, module.vdim, seed=2)) if "kdim" in options else (x, x)
    future = torch.ones(3, 3, dtype=torch.bool).triu(1)
    padding = torch.tensor([[False, True, False], [False] * 3, [False, False, True]])
    named: dict[str, Any] = {
        "padding": {"key_padding_mask": padding},
        "future": {"attn_mask": future, "is_causal": True},
        "both": {"key_padding_mask": padding, "attn_mask": future},
        "per head": {"attn_mask": randn(6, 3, 3, seed=4).detach()},
    }.get(masked, {})
    parameters = [x, *module.parameters()]

    def second(*_: Tensor) -> list[Tensor]:
        output, shares = module(x, key, value, need_weights=weights, average_attn_weights=False, **named)
        total = output.sin().sum() + (0 if shares is None else shares.square().sum())
        first = torch.autograd.grad(total, parameters, create_graph=True)
        along = torch.stack([(part * torch.linspace(1, 2, part.numel()).view(part.shape)).sum() for part in first])
        return [output, *([] if shares is None else [shares]), *torch.autograd.grad(along.sum(), parameters)]

    with sdpa_kernel(SDPBackend.MATH):
        expected = second()
    found = lean(second)()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
