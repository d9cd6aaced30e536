"""Products of modules used in unusual ways, against torch's own double backward in float64, to 1e-10."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from subsetopt.objective import Objective
from subsetopt.objective.lean import linear
from subsetopt.seeding import make_generator

OUTPUTS = 3
Run = Callable[..., Tensor]


class Net(nn.Module):
    """`parts` by name, and what is done with them to an input; a mean and a linear layer come after it."""

    def __init__(self, run: Run, **parts: nn.Module) -> None:
        super().__init__()
        self.run, self.parts = run, nn.ModuleDict(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (n, 3)."""
        y = self.run(x, **self.parts)
        y = y.flatten(2).mean(2) if y.ndim > 2 else y
        return F.pad(y, (0, OUTPUTS))[:, :OUTPUTS] + y.sin().sum(1, keepdim=True)


def conv(**options: Any) -> nn.Module:
    return nn.Conv2d(4, 4, 3, **options)


def then(*layers: Callable[[], nn.Module]) -> tuple[Run, dict[str, Callable[[], nn.Module]]]:
    """Return layers one after another."""
    return _one_after_another, {f"layer{index}": layer for index, layer in enumerate(layers)}


def _one_after_another(x: Tensor, **layers: nn.Module) -> Tensor:
    for layer in layers.values():
        x = layer(x)
    return x


def _masked_rows(x: Tensor, attention: nn.Module) -> Tensor:
    padding = torch.zeros(x.shape[:2], dtype=torch.bool)
    padding[0, 1:] = True
    return attention(x, x, x, key_padding_mask=padding, need_weights=True)[0]


def _all_masked(x: Tensor, q: nn.Module, k: nn.Module) -> Tensor:
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
    mask[1] = False
    return F.scaled_dot_product_attention(q(x), k(x), x.tanh(), mask)


def _scores_in_place(x: Tensor, q: nn.Module, k: nn.Module) -> Tensor:
    scores = torch.bmm(q(x), k(x).transpose(1, 2))
    scores /= math.sqrt(3)
    scores.masked_fill_(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
    return scores.softmax(dim=-1) @ x


def _tied(x: Tensor, first: nn.Module) -> Tensor:
    return F.linear(torch.tanh(first(x)), first.weight.t())


def _gram(x: Tensor, first: nn.Module) -> Tensor:
    h = first(x)
    return torch.matmul(h, h.mT) @ h


def _with(layer: Callable[[], nn.Module]) -> tuple[Run, dict[str, Callable[[], nn.Module]]]:
    return lambda x, first, last: last(first(x))[0], {"first": lambda: nn.Linear(5, 4), "last": layer}


TWO = {"q": lambda: nn.Linear(5, 3), "k": lambda: nn.Linear(5, 3)}
IMAGE, SEQUENCE, ROWS = (2, 4, 6, 6), (2, 4, 5), (6, 5)
CASES: dict[str, tuple[tuple[int, ...], tuple[Run, dict[str, Callable[[], nn.Module]]]]] = {
    "one sample": ((1, 4, 5), then(lambda: nn.Linear(5, 4), nn.GELU, lambda: nn.LayerNorm(4))),
    "reflected": (IMAGE, then(lambda: conv(padding=1, padding_mode="reflect"), nn.SiLU, lambda: conv(groups=4))),
    "circular": (IMAGE, then(lambda: conv(padding=2, padding_mode="circular", dilation=2), nn.Tanh, conv)),
    "strides, groups": (IMAGE, then(lambda: conv(stride=(2, 1), groups=2), nn.Softplus, lambda: nn.Conv2d(4, 6, 1))),
    "even kernel": (IMAGE, then(lambda: nn.Conv2d(4, 4, 2, padding="same"), nn.Tanh, lambda: nn.Conv2d(4, 4, 3))),
    "ReLU in place after a convolution": (IMAGE, then(conv, lambda: nn.ReLU(inplace=True), conv)),
    "ReLU in place after norms": (
        IMAGE,
        then(
            conv, lambda: nn.BatchNorm2d(4), lambda: nn.ReLU(inplace=True), lambda: nn.GroupNorm(2, 4),
            lambda: nn.LeakyReLU(0.1, inplace=True), conv, lambda: nn.InstanceNorm2d(4, affine=True),
            lambda: nn.ReLU(inplace=True),
        ),
    ),
    "linear and layer norm, in place": (
        SEQUENCE,
        then(lambda: nn.Linear(5, 4), lambda: nn.ReLU(True), lambda: nn.LayerNorm(4), lambda: nn.ELU(1.0, True)),
    ),
    "RMS norm": (SEQUENCE, then(lambda: nn.Linear(5, 4), lambda: nn.RMSNorm(4), nn.Mish, lambda: nn.RMSNorm((4, 4)))),
    "frozen statistics": (IMAGE, then(conv, lambda: nn.BatchNorm2d(4, track_running_stats=False), nn.GELU, conv)),
    "masked rows": (SEQUENCE, (_masked_rows, {"attention": lambda: nn.MultiheadAttention(5, 5, batch_first=True)})),
    "keys all masked": (SEQUENCE, (_all_masked, TWO)),
    "scores in place": (SEQUENCE, (_scores_in_place, TWO)),
    "encoder": (SEQUENCE, then(lambda: nn.TransformerEncoderLayer(5, 1, 7, 0.0, batch_first=True, norm_first=True))),
    "encoder, relu, dropout off": (SEQUENCE, then(lambda: nn.TransformerEncoderLayer(5, 5, 3, 0.5, batch_first=True))),
    "decoder": (
        SEQUENCE,
        (lambda x, d: d(x, x.cos()), {"d": lambda: nn.TransformerDecoderLayer(5, 1, 4, 0.0, "gelu", batch_first=True)}),
    ),
    "LSTM, projected": (SEQUENCE, _with(lambda: nn.LSTM(4, 4, proj_size=2, batch_first=True))),
    "LSTM, both ways": (SEQUENCE, _with(lambda: nn.LSTM(4, 2, 2, bidirectional=True))),
    "GRU, both ways": (SEQUENCE, _with(lambda: nn.GRU(4, 2, 2, bidirectional=True, batch_first=True))),
    "RNN": (SEQUENCE, _with(lambda: nn.RNN(4, 3, nonlinearity="relu"))),
    "LSTM cell": (ROWS, (lambda x, c: c(x, c(x.sin()))[0], {"c": lambda: nn.LSTMCell(5, 4)})),
    "a layer used twice": (ROWS, (lambda x, f: f(torch.tanh(f(x))), {"f": lambda: nn.Linear(5, 5)})),
    "a norm used twice": (
        SEQUENCE, (lambda x, n, f: n(f(n(x))), {"n": lambda: nn.LayerNorm(5), "f": lambda: nn.Linear(5, 5)}),
    ),
    "weights tied with their transpose": (ROWS, (_tied, {"first": lambda: nn.Linear(5, 4)})),
    "a product with itself": (SEQUENCE, (_gram, {"first": lambda: nn.Linear(5, 4)})),
    "matrices of other axes": (
        SEQUENCE, (lambda x, f: torch.matmul(f(x), f(x)[0].mT) + f(x)[:1] @ f(x).mT, {"f": lambda: nn.Linear(5, 3)}),
    ),
    "einsum": (SEQUENCE, (lambda x, f: torch.einsum("nik,njk->nij", f(x), f(x).sin()), {"f": lambda: nn.Linear(5, 3)})),
    "not contiguous": (
        SEQUENCE,
        (lambda x, f, n: n(f(x.mT).mT[:, ::2]).mT, {"f": lambda: nn.Linear(4, 4), "n": lambda: nn.LayerNorm(5)}),
    ),
    "orthogonal": (ROWS, then(lambda: parametrizations.orthogonal(nn.Linear(5, 4)), nn.GELU, lambda: nn.Linear(4, 4))),
    "an output that is not used": (
        SEQUENCE, (lambda x, f: (f(x), f(x.cos()).tanh())[0], {"f": lambda: nn.Linear(5, 4)}),
    ),
    "GELU by tanh, an embedding": (
        (3, 2), (lambda x, e: F.gelu(e(x.abs().long() % 4), approximate="tanh"), {"e": lambda: nn.Embedding(4, 5)}),
    ),
}  # fmt: skip


RECOMPUTED: dict[str, tuple[tuple[int, ...], tuple[Run, dict[str, Callable[[], nn.Module]]]]] = {
    "torch's own operators": (
        ROWS,
        (
            lambda x, a: checkpoint(a, x, use_reentrant=False),
            {"a": lambda: nn.Sequential(nn.Linear(5, 4), nn.Hardswish(), nn.Linear(4, 4))},
        ),
    ),
    "lean ones": (
        IMAGE,
        (
            lambda x, a: checkpoint(a, x, use_reentrant=False),
            {"a": lambda: nn.Sequential(conv(), nn.GroupNorm(2, 4), nn.SiLU(), conv())},
        ),
    ),
}


def _problem(name: str, cases: Mapping[str, Any] = CASES) -> tuple[nn.Module, Tensor, Tensor]:
    shape, (run, layers) = cases[name]
    torch.manual_seed(0)
    model = Net(run, **{part: layer() for part, layer in layers.items()}).double().eval()
    x = torch.randn(shape, generator=make_generator(1, "unusual"), dtype=torch.float64)
    return model, x, torch.arange(len(x)) % OUTPUTS


def _references(model: nn.Module, x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return H v and G v by torch's own operators."""
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.train().track_running_stats, module.running_mean, module.running_var = False, None, None
    parameters = list(plain.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    parts = [part.view_as(p) for part, p in zip(v.split(sizes), parameters, strict=True)]

    def along(outputs: Any, **options: Any) -> list[Tensor]:
        return list(torch.autograd.grad(outputs, parameters, allow_unused=True, materialize_grads=True, **options))

    with sdpa_kernel(SDPBackend.MATH):
        z = plain(x)
        first = along(F.cross_entropy(z, y), create_graph=True)
        curved = [(f, part) for f, part in zip(first, parts, strict=True) if f.requires_grad]
        hessian = along([f for f, _ in curved], grad_outputs=[part for _, part in curved])
        z = plain(x)
        u = torch.zeros_like(z, requires_grad=True)
        pulled = along(z, grad_outputs=u, create_graph=True)
        used = [(f, part) for f, part in zip(pulled, parts, strict=True) if f.requires_grad]
        (pushed,) = torch.autograd.grad([f for f, _ in used], u, [part for _, part in used])
        p = z.softmax(-1).detach()
        bent = p * (pushed - (p * pushed).sum(-1, keepdim=True)) / len(x)
        gauss_newton = along(z, grad_outputs=bent)
    return torch.cat([part.reshape(-1) for part in hessian]), torch.cat([part.reshape(-1) for part in gauss_newton])


@pytest.mark.parametrize("name", CASES)
def test_products_equal_torchs_own_double_backward(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice at one point and by turns, so that what one product leaves behind reaches no other."""
    monkeypatch.setattr(linear, "WORTH", 0)
    model, x, y = _problem(name)
    objective = Objective(model, x, y, chunk_size=len(x))
    at = objective.linearise(objective.initial())
    for seed in (0, 1):
        v = torch.randn(objective.size, generator=make_generator(seed, "direction"), dtype=torch.float64)
        hessian, gauss_newton = _references(model, x, y, v)
        torch.testing.assert_close(at.hvp(v), hessian, rtol=1e-10, atol=1e-10 * float(hessian.abs().max()))
        torch.testing.assert_close(at.ggnvp(v), gauss_newton, rtol=1e-10, atol=1e-10 * float(gauss_newton.abs().max()))
    assert at.note == ""


@pytest.mark.filterwarnings("ignore:curvature products")
@pytest.mark.parametrize("name", RECOMPUTED)
def test_checkpointed_modules_are_recomputed_at_the_parameters_of_the_product(name: str) -> None:
    """They were at the model's own parameters. Reference: as above, at other parameters than those.

    Lean operators, which recomputing does not meet, make it central differences.
    """
    model, x, y = _problem(name, RECOMPUTED)
    objective = Objective(model, x, y, chunk_size=len(x))
    w = objective.initial() + 0.5
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5
    v = torch.randn(objective.size, generator=make_generator(0, "direction"), dtype=torch.float64)
    hessian, gauss_newton = _references(model, x, y, v)
    at = objective.linearise(w)
    near = 1e-7 if name == "lean ones" else 1e-10
    torch.testing.assert_close(at.hvp(v), hessian, rtol=near, atol=near * float(hessian.abs().max()))
    torch.testing.assert_close(at.ggnvp(v), gauss_newton, rtol=near, atol=near * float(gauss_newton.abs().max()))
