"""Which layers and parameters have Kronecker factors, a diagonal, or one common scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from subsetopt.objective import FlatModel, make_loss
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.seeding import make_generator
from tests.objective.kfac.kfac_nets import built, dense, fitted, sample_gradients
from tests.objective.objective_nets import Tied


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.LayerNorm([4, 3])])
def test_norm_layers_have_the_diagonal_of_squared_sample_gradients(norm):
    flat = built(norm, nn.Flatten(), nn.Linear(12, 2))
    shape = (5, 3, 4) if getattr(norm, "normalized_shape", None) == (4,) else (5, 4, 3)
    x, y = torch.randn(shape, dtype=torch.float64), torch.arange(5) % 2
    own = 2 * norm.weight.numel()
    expected = sample_gradients(flat, x, y).square().mean(0)[:own]
    found = fitted(flat, x, y, draw="empirical").product(torch.ones(flat.size, dtype=torch.float64))
    torch.testing.assert_close(found[:own], expected)


def test_shared_weights_have_one_scale_and_are_named():
    flat = FlatModel(Tied().double())
    x, y = torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 3
    kfac = fitted(flat, x, y)
    assert kfac.note.startswith("K-FAC: no factors for inner.weight, inner.bias, again.bias (")
    shared = sum(shape.numel() for name, shape in zip(flat.names, flat.shapes, strict=True) if "head" not in name)
    assert f"({100 * shared / flat.size:.3g} % of the parameters); each has one common scale instead" in kfac.note
    product = kfac.product(torch.ones(flat.size, dtype=torch.float64))
    assert float(product[0]) > 0
    assert torch.equal(product[:36], product[:1].expand(36))


class Applied(nn.Module):
    """Layers by F.linear on parameters of its own, in place of nn.Linear; the second without a bias."""

    def __init__(self, like: nn.Sequential) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(p.detach().clone()) for p in like[0].parameters())
        self.out = nn.Parameter(like[2].weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.linear(x, self.weight, bias=self.bias).tanh_()
        return nn.functional.linear(hidden, self.out)


@pytest.mark.parametrize("draw", ["curvature", "empirical"])
def test_parameters_that_f_linear_takes_have_the_factors_of_linear_layers(draw):
    """Before, each had one common scale."""
    layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False)).double()
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 2
    expected, found = (fitted(FlatModel(each), x, y, draw=draw) for each in (layers, Applied(layers)))
    assert found.note == ""
    torch.testing.assert_close(dense(found), dense(expected))
    again = Kfac(found.flat, make_loss("cross_entropy"), draw=draw)
    again.load_state_dict(found.state_dict())
    assert again.note == ""
    for each in (again, found):
        each.update(each.flat.initial(), x + 1, y, make_generator(1, "kfac"))
    assert torch.equal(dense(again), dense(found))


def test_what_else_is_done_with_such_a_parameter_takes_its_factors_away():
    class Regularised(Applied):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.out.square().sum()

    like = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 2
    kfac = fitted(FlatModel(Regularised(like)), x, y)
    assert kfac.note.startswith("K-FAC: no factors for out (")


class Attentive(nn.Module):
    """Attention between two inputs, whose projections are not called as modules; a head that is an embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.attention = nn.Embedding(5, 4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.middle = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x)
        h = self.attention(h, torch.tanh(h), h, need_weights=False)[0].mean(1)
        return nn.functional.linear(torch.tanh(self.middle(h)), self.tokens.weight)


def test_parameters_used_outside_of_their_layers_calls_have_one_scale_and_are_named():
    """Before, attention's output projection had a curvature of zero, and the embedding that of half of its uses."""
    flat = FlatModel(Attentive().double())
    x, y = torch.randint(0, 5, (6, 3)), torch.arange(6) % 5
    kfac = fitted(flat, x, y)
    named = ("tokens.weight", "attention.in_proj_weight", "attention.in_proj_bias", "attention.out_proj.weight")
    assert kfac.note.startswith(f"K-FAC: no factors for {', '.join(named)}, attention.out_proj.bias (")
    v = torch.randn(flat.size, dtype=torch.float64)
    product, damped = kfac.product(v), kfac.apply(v, 0.1)
    identity = torch.eye(flat.size, dtype=torch.float64)
    torch.testing.assert_close(damped, torch.linalg.solve(dense(kfac) + 0.1 * identity, v))
    for name, part, given in zip(flat.names, flat.views(product), flat.views(v), strict=True):
        if "middle" not in name:
            scale = (part / given).reshape(-1)
            assert float(scale[0]) > 0, name
            torch.testing.assert_close(scale, scale[:1].expand_as(scale))
    torch.testing.assert_close(kfac.eigenvalues().sort().values, torch.linalg.eigvalsh(dense(kfac)))
    again = Kfac(flat, make_loss("cross_entropy"))
    again.load_state_dict(kfac.state_dict())
    assert torch.equal(again.product(v), product)
    assert again.note == kfac.note


class Attention(nn.Module):
    """Causal self-attention of two heads, by torch's module or written out of linear layers."""

    def __init__(self, batch_first: bool | None, bias: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        if batch_first is None:
            self.into, self.out = nn.Linear(4, 12, bias=bias), nn.Linear(4, 4, bias=bias)
        else:
            self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        if self.batch_first is None:
            q, k, v = self.into(x).view(*x.shape[:2], 3, 2, 2).permute(2, 0, 3, 1, 4)
            weights = (q @ k.mT / 2**0.5 + mask).softmax(-1)
            return self.out((weights @ v).transpose(1, 2).flatten(2)).mean(1)
        x = x if self.batch_first else x.transpose(0, 1)
        y = self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]
        return (y if self.batch_first else y.transpose(0, 1)).mean(1)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_has_the_factors_of_its_two_linear_layers(batch_first: bool, bias: bool):
    """Before, its output projection had a curvature of zero, and the one of its inputs a single scale."""
    written, module = Attention(None, bias).double(), Attention(batch_first, bias).double()
    with torch.no_grad():
        for p, q in zip(module.parameters(), written.parameters(), strict=True):
            p.copy_(q)
    x, y = torch.randn(5, 3, 4, dtype=torch.float64), torch.arange(5) % 4
    expected, found = (fitted(FlatModel(model), x, y) for model in (written, module))
    assert found.note == ""
    torch.testing.assert_close(dense(found), dense(expected))


def test_checkpointed_layers_have_the_factors_of_plain_ones():
    """Before, the calls of the recomputed forward pass were taken for calls of their own."""

    class Recomputed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            first = checkpoint(lambda x: torch.tanh(self[0](x)), x, use_reentrant=False)
            return self[2](first)

    layers = [nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)]
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2
    plain, recomputed = fitted(built(*layers), x, y), fitted(FlatModel(Recomputed(*layers).double()), x, y)
    torch.testing.assert_close(dense(recomputed), dense(plain))
    assert recomputed.note == ""


class OneByOne(nn.Module):
    """Gives a layer the samples of a batch one at a time, without the axis that counts them."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([self.layer(row).flatten() for row in x]))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 8), (3,)),
        (nn.Conv1d(1, 4, 2), (1, 3)),
        (nn.Conv2d(1, 2, 2), (1, 3, 3)),
        (nn.LayerNorm(8), (8,)),
        (nn.LayerNorm((2, 4)), (2, 4)),
    ],
)
def test_layers_that_are_given_single_samples_have_one_scale_and_are_named(layer: nn.Module, shape: tuple[int, ...]):
    flat = FlatModel(OneByOne(layer).double())
    x, y = torch.randn(6, *shape, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0])
    kfac = fitted(flat, x, y, draw="empirical")
    assert kfac.note.startswith("K-FAC: no factors for layer.weight, layer.bias (")
    found = dense(kfac)
    whole = sample_gradients(flat, x, y).sum(0)[: layer.weight.numel()]  # one draw of sum_i J_i'u_i
    scale = whole.square().mean() / len(x)
    torch.testing.assert_close(found.diagonal()[: layer.weight.numel()], scale.expand(layer.weight.numel()))


class WithToken(nn.Module):
    """A layer called on the samples, and on one learned token."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.token = nn.Linear(3, 2), nn.Buffer(torch.ones(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.layer(self.token)


def test_calls_on_other_numbers_of_samples_count_one_by_one():
    flat = FlatModel(WithToken().double())
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0])
    found = dense(fitted(flat, x, y, draw="empirical"))
    slopes = torch.softmax(flat.forward(flat.initial(), x, "deterministic"), 1) - nn.functional.one_hot(y, 2)
    own = slopes.square().sum(1) * (x.square().sum(1) + 1)  # |g_i a_i'|^2, the bias being fed by a one
    token = slopes.sum(0).square().sum() * (3 + 1)
    torch.testing.assert_close(found.diagonal().sum(), (own.sum() + token).detach() / len(x))


def test_embeddings_and_layers_called_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.inner, self.head = nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(torch.tanh(self.inner(self.tokens(x)))).mean(1))

    flat = FlatModel(Twice().double())
    x, y = torch.tensor([[0], [1], [1], [4]]), torch.tensor([0, 1, 1, 0])
    kfac = fitted(flat, x, y, draw="empirical")
    expected = sample_gradients(flat, x, y).square().mean(0)[:15]
    ones = torch.ones(flat.size, dtype=torch.float64)
    torch.testing.assert_close(kfac.product(ones)[:15], expected)
    assert torch.isfinite(kfac.apply(ones, 0.1)).all()
