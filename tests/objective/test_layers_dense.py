"""Value, gradient, HVP and GGN of tiny models with each kind of layer against dense float64 algebra, in chunks or not.

The dense Hessian differentiates twice with torch's own operators and unfused attention, in one batch. Where torch has
no second derivative, or a wrong one, the reference is the same function written out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from subsetopt.errors import ModelError
from subsetopt.objective import Objective
from subsetopt.objective.lean.mode import right_second_derivatives

SAMPLES, CLASSES = 7, 3


class Around(nn.Module):
    """`inner`, as `call(inner, x)` uses it, averaged over all axes but the first and last, and a Linear head."""

    def __init__(self, inner: nn.Module, width: int, call: Callable[[Any, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(width, CLASSES)
        self.call = call or (lambda inner, x: inner(x))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.call(self.inner, x))
        return self.head(y.flatten(1, -2).mean(1) if y.ndim > 2 else y)


def channels(inner: nn.Module) -> nn.Module:
    """Return a model of `inner`, a convolution to 4 channels."""
    return Around(inner, 4, lambda inner, x: (inner(x) ** 2).movedim(1, -1))


def attention(**options: Any) -> nn.Module:
    """Return a model of self-attention."""
    inner = nn.MultiheadAttention(4, 2, batch_first=True, **options)
    return Around(inner, 4, lambda inner, x: inner(x, x, x, need_weights=False)[0])


def cross_attention() -> nn.Module:
    inner = nn.MultiheadAttention(4, 2, batch_first=True)
    return Around(inner, 4, lambda inner, x: inner(x[:, :2], x, x)[0])


def fused(causal: bool) -> nn.Module:
    """Return a model that calls F.scaled_dot_product_attention."""

    def call(inner: nn.Linear, x: Tensor) -> Tensor:
        q, k, v = inner(x).view(*x.shape[:2], 3, 2, 2).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)

    return Around(nn.Linear(4, 12), 4, call)


def recurrent(kind: type[nn.RNNBase], **options: Any) -> nn.Module:
    width = 3 * (1 + options.get("bidirectional", False))
    return Around(kind(4, 3, batch_first=True, **options), width, lambda inner, x: inner(x)[0])


class Tied(nn.Module):
    """An embedding whose weight is the head's as well, as a shared parameter or through F.linear."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.embedding, self.middle = nn.Embedding(5, 4), nn.Linear(4, 4)
        self.head = None if functional else nn.Linear(4, 5, bias=False)
        if self.head is not None:
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.middle(self.embedding(x))).mean(1)
        return F.linear(h, self.embedding.weight) if self.head is None else self.head(h)


class Adapted(nn.Module):
    """A frozen backbone with a trainable low-rank adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(4, 6).requires_grad_(False), nn.Linear(6, CLASSES).requires_grad_(False)
        self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.base(x) + self.up(self.down(x))))


class Bare(nn.Module):
    """Parameters that no layer owns, in F.linear and F.conv1d."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))
        self.kernel, self.v = nn.Parameter(torch.randn(2, 1, 2)), nn.Parameter(torch.randn(CLASSES, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(F.linear(x, self.w, self.b))
        return F.linear(torch.tanh(F.conv1d(h[:, None], self.kernel)).flatten(1), self.v)


def normed(norm: nn.Module) -> nn.Module:
    return Around(nn.Sequential(nn.Conv1d(5, 4, 2), norm, nn.PReLU(4)), 3)


def transformer(**options: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True, activation="gelu", **options)
    return Around(nn.Sequential(nn.Embedding(5, 4), layer), 4)


def tokens() -> Tensor:
    return torch.randint(0, 5, (SAMPLES, 6))


def reals(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(SAMPLES, *shape, dtype=torch.float64)


sequences = reals(5, 4)
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "attention": (attention, sequences),
    "attention with extra keys": (lambda: attention(add_bias_kv=True, add_zero_attn=True), sequences),
    "cross attention": (cross_attention, sequences),
    "fused attention": (lambda: fused(False), sequences),
    "causal fused attention": (lambda: fused(True), sequences),
    "transformer": (transformer, tokens),
    "pre-norm transformer": (lambda: transformer(norm_first=True), tokens),
    "LayerNorm": (lambda: normed(nn.LayerNorm(3)), sequences),
    "RMSNorm": (lambda: normed(nn.RMSNorm(3)), sequences),
    "GroupNorm": (lambda: normed(nn.GroupNorm(2, 4)), sequences),
    "InstanceNorm": (lambda: normed(nn.InstanceNorm1d(4, affine=True)), sequences),
    "Embedding": (lambda: Around(nn.Embedding(5, 4), 4), tokens),
    "padded Embedding": (lambda: Around(nn.Embedding(5, 4, padding_idx=2), 4), tokens),
    "LSTM": (lambda: recurrent(nn.LSTM), sequences),
    "deep LSTM": (lambda: recurrent(nn.LSTM, num_layers=2, bidirectional=True), sequences),
    "GRU": (lambda: recurrent(nn.GRU), sequences),
    "RNN": (lambda: recurrent(nn.RNN), sequences),
    "Conv1d": (lambda: channels(nn.Conv1d(5, 4, 3, stride=2, padding=1, padding_mode="reflect")), sequences),
    "Conv3d": (lambda: channels(nn.Conv3d(2, 4, 2, padding="same")), reals(2, 2, 3, 2)),
    "ConvTranspose1d": (lambda: channels(nn.ConvTranspose1d(5, 4, 3, stride=2, output_padding=1)), sequences),
    "ConvTranspose2d": (lambda: channels(nn.ConvTranspose2d(2, 4, 2, groups=2, dilation=2)), reals(2, 3, 2)),
    "tied": (lambda: Tied(False), tokens),
    "tied by F.linear": (lambda: Tied(True), tokens),
    "adapter": (Adapted, reals(4)),
    "bare parameters": (Bare, reals(4)),
    "spectral_norm": (lambda: Around(spectral_norm(nn.Linear(4, 5)), 5), reals(4)),
    "orthogonal": (lambda: Around(orthogonal(nn.Linear(4, 5)), 5), reals(4)),
}


def made(build: Callable[[], nn.Module], inputs: Callable[[], Tensor]) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    return build().double().eval(), inputs(), torch.randint(0, CLASSES, (SAMPLES,))


def dense(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return value, gradient, Hessian and Gauss-Newton matrix of the mean cross-entropy at the model's parameters."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in trainable.values()]
    w = torch.cat([p.detach().reshape(-1) for p in trainable.values()])

    def outputs(w: Tensor) -> Tensor:
        parts = {name: part.view_as(p) for (name, p), part in zip(trainable.items(), w.split(sizes), strict=True)}
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.functional_call(model, parts, (x,))

    def loss(w: Tensor) -> Tensor:
        return F.cross_entropy(outputs(w), y)

    jacobian = torch.autograd.functional.jacobian
    z = outputs(w).detach()
    of_outputs = torch.autograd.functional.hessian(lambda z: F.cross_entropy(z, y), z).view(z.numel(), z.numel())
    J = jacobian(outputs, w).view(z.numel(), len(w))
    return loss(w).detach(), jacobian(loss, w), torch.autograd.functional.hessian(loss, w), J.T @ of_outputs @ J


def check(objective: Objective, reference: tuple[Tensor, ...], tolerance: float = 1e-10) -> None:
    w = objective.initial()
    value, gradient, hessian, gauss_newton = reference
    torch.testing.assert_close(objective.value_and_gradient(w), (value, gradient), rtol=0, atol=1e-12)
    v = torch.randn(len(w), dtype=w.dtype, generator=torch.Generator().manual_seed(1)).to(w.device)
    products = objective.linearise(w)
    torch.testing.assert_close(products.hvp(v), hessian @ v, rtol=0, atol=tolerance)
    torch.testing.assert_close(products.ggnvp(v), gauss_newton @ v, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_layer_equals_dense_algebra(name: str) -> None:
    model, x, y = made(*MODELS[name])
    reference = dense(model, x, y)
    for chunk_size in (None, 3):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # no fallback
            check(Objective(model, x, y, chunk_size=chunk_size), reference)


@pytest.mark.parametrize("name", ["LSTM", "deep LSTM", "GRU", "RNN"])
def test_recurrent_layers_on_a_gpu_equal_dense_algebra(name: str, cuda: torch.device) -> None:
    """cuDNN's have no gradient in eval mode. Reference: the CPU's."""
    model, x, y = made(*MODELS[name])
    reference = dense(model, x, y)
    objective = Objective(model, x, y, chunk_size=3, device=cuda)
    check(objective, tuple(part.to(cuda) for part in reference))
    assert not objective.by_differences
    assert torch.backends.cudnn.enabled


class Pooled(nn.Module):
    """What an EmbeddingBag computes, written out."""

    def __init__(self, bag: nn.EmbeddingBag) -> None:
        super().__init__()
        self.weight, self.mode, self.padding_idx = bag.weight, bag.mode, bag.padding_idx

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.ones_like(x) if self.padding_idx is None else (x != self.padding_idx).long()
        rows = F.embedding(x, self.weight)
        if self.mode == "max":
            largest = rows.masked_fill(kept[..., None] == 0, -torch.inf).amax(1)
            return torch.where(kept.any(1, keepdim=True), largest, 0.0)
        total = (rows * kept[..., None]).sum(1)
        return total / kept.sum(1, keepdim=True).clamp_min(1) if self.mode == "mean" else total


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 2, -1])
def test_embedding_bag_has_exact_products(mode: str, padding: int | None) -> None:
    """torch has no second derivative of it. Reference: the sum, mean or maximum over an Embedding's rows."""
    model, x, y = made(lambda: Around(nn.EmbeddingBag(5, 4, mode=mode, padding_idx=padding), 4), tokens)
    x[0] = 2  # a bag of padding alone
    reference = dense(written_out(model), x, y)
    for chunk_size in (None, 3):
        objective = Objective(model, x, y, chunk_size=chunk_size)
        check(objective, reference)
        assert not objective.by_differences


def written_out(model: nn.Module) -> nn.Module:
    """Return the same model with its EmbeddingBag written out, in the same order of parameters."""
    same = Around(Pooled(model.inner), 4)
    same.head = model.head
    return same.double()


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_embedding_bag_of_offsets_and_weights_equals_torch(mode: str) -> None:
    """Bags of several lengths, one of them empty, as torch computes them outside of recordings."""
    torch.manual_seed(1)
    weight, given = torch.randn(6, 3, dtype=torch.float64), torch.tensor([1, 5, 0, 0, 2, 5, 3])
    factors = torch.randn(7, dtype=torch.float64) if mode == "sum" else None
    for offsets, last in ([0, 2, 2, 5], False), ([0, 2, 2, 5, 7], True):
        options = {"mode": mode, "include_last_offset": last, "per_sample_weights": factors, "padding_idx": 5}
        expected = F.embedding_bag(given, weight, torch.tensor(offsets), **options)
        with right_second_derivatives():
            torch.testing.assert_close(F.embedding_bag(given, weight, torch.tensor(offsets), **options), expected)


class Flat(nn.EmbeddingBag):
    """The same bags, given by offsets."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(), torch.arange(0, x.numel(), x.shape[1]))


def test_embedding_bag_of_maxima_by_offsets_says_that_it_takes_differences() -> None:
    model, x, y = made(lambda: Around(Flat(5, 4, mode="max"), 4), tokens)
    reference = dense(written_out(model), x, y)
    objective = Objective(model, x, y, chunk_size=3)
    with pytest.warns(UserWarning, match="by central differences") as caught:
        check(objective, reference, 1e-7)
    assert all("\n" not in str(warning.message) for warning in caught)


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_has_the_hessian_that_torch_gets_wrong(dim: int | None) -> None:
    """Reference: w = g v / ||v||, written out as a parametrisation."""
    model, x, y = made(lambda: Around(weight_norm(nn.Linear(4, 5), dim=dim), 5), reals(4))

    class Scaled(nn.Module):
        def __init__(self, inner: Any, head: nn.Module) -> None:
            super().__init__()
            self.bias, self.head = inner.bias, head
            self.g, self.v = inner.parametrizations.weight.original0, inner.parametrizations.weight.original1

        def forward(self, x: Tensor) -> Tensor:
            norm = self.v.norm() if dim is None else self.v.square().sum(1 - dim, keepdim=True).sqrt()
            return self.head(torch.tanh(F.linear(x, self.v * (self.g / norm), self.bias)))

    same = Scaled(model.inner, model.head)
    names = ["bias", "g", "v", "head.weight", "head.bias"]
    assert [name for name, _ in same.named_parameters()] == names
    check(Objective(model, x, y, chunk_size=3), dense(same, x, y))


def test_sparse_embedding_gradients_are_those_of_dense_ones() -> None:
    for kind in (nn.Embedding, nn.EmbeddingBag):
        model, x, y = made(lambda kind=kind: Around(kind(5, 4, sparse=True), 4), tokens)
        sparse = Objective(model, x, y, chunk_size=3)
        assert model.inner.sparse, "the caller's module is as it was"
        model.inner.sparse = False
        check(sparse, dense(model if kind is nn.Embedding else written_out(model), x, y))


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize(
    ("option", "why"), [({"max_norm": 0.5}, "changes its weights"), ({"scale_grad_by_freq": True}, "gradient is not")]
)
def test_embedding_that_is_no_function_of_w_is_refused(kind: type[nn.Module], option: Any, why: str) -> None:
    model, x, y = made(lambda: Around(kind(5, 4, **option), 4), tokens)
    with pytest.raises(ModelError, match=f"^model: {kind.__name__} 'inner' has {next(iter(option))}=.*{why}") as caught:
        Objective(model, x, y)
    assert "\n" not in str(caught.value)
    model.inner.weight.requires_grad_(False)
    objective = Objective(model, x, y)
    assert torch.equal(objective.value(objective.initial()), objective.value(objective.initial()))


@pytest.mark.parametrize("frozen", [False, True])
def test_complex_parameter_is_refused_by_name(frozen: bool) -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, dtype=torch.complex128), requires_grad=not frozen)
            self.head = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.fft.irfft(torch.fft.rfft(x) * self.scale, n=4))

    model, x, y = made(lambda: Spectral(), reals(4))
    with pytest.raises(ModelError, match="model: parameter scale is complex; split it into real and imaginary"):
        Objective(model, x, y)
