"""K-FAC against Fisher blocks that are summed sample by sample from Jacobians, and against dense solves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from subsetopt.errors import ModelError
from subsetopt.objective import BudgetExhausted, FlatModel, make_loss
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.objective.kfac.factor import FEW, RANK
from subsetopt.objective.output_noise import output_noise
from subsetopt.seeding import make_generator, seeded_globals
from tests.objective.objective_nets import Tied


def built(*layers: nn.Module) -> FlatModel:
    return FlatModel(nn.Sequential(*layers).double())


def fitted(flat: FlatModel, x: Tensor, y: Tensor, loss: str = "cross_entropy", **settings: object) -> Kfac:
    kfac = Kfac(flat, make_loss(loss), **settings)  # type: ignore[arg-type]
    kfac.update(flat.initial(), x, y, make_generator(0, "kfac"))
    return kfac


def dense(kfac: Kfac) -> Tensor:
    return torch.stack([kfac.product(row) for row in torch.eye(kfac.flat.size, dtype=torch.float64)])


def sample_gradients(flat: FlatModel, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each sample's own loss, shape (n, P)."""
    loss, rows = make_loss("cross_entropy"), []
    for index in range(len(x)):
        w = flat.initial().requires_grad_()
        one = slice(index, index + 1)
        value = loss.total(flat.forward(w, x[one], "deterministic"), y[one], torch.float64)
        rows += torch.autograd.grad(value, w)
    return torch.stack(rows)


@pytest.fixture(autouse=True)
def _seeded():
    with seeded_globals(0, "kfac tests"):
        yield


def test_linear_blocks_of_one_sample_are_the_empirical_fisher():
    flat = built(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(1, 3, dtype=torch.float64), torch.tensor([1])
    gradient = sample_gradients(flat, x, y)[0]
    found = dense(fitted(flat, x, y, draw="empirical"))
    first = slice(0, 16)
    torch.testing.assert_close(found[first, first], torch.outer(gradient[first], gradient[first]))
    torch.testing.assert_close(found[16:, 16:], torch.outer(gradient[16:], gradient[16:]))
    assert found[:16, 16:].abs().max() == 0


def corrected(A: Tensor, G: Tensor, gradients: Tensor, matrix: Tensor) -> Tensor:
    """The Fisher block of `gradients` (n, o, d), diagonal in the eigenbasis of A and G, times a matrix (o, d)."""
    u, v = torch.linalg.eigh(G).eigenvectors, torch.linalg.eigh(A).eigenvectors
    return u @ ((u.T @ gradients @ v).square().mean(0) * (u.T @ matrix @ v)) @ v.T


def test_a_linear_block_has_the_eigenvectors_of_second_moments_and_the_eigenvalues_of_its_samples():
    flat = built(nn.Linear(3, 2))
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.arange(7) % 2
    gradients = sample_gradients(flat, x, y)
    a = torch.cat([x, torch.ones(7, 1, dtype=torch.float64)], 1)
    g = gradients[:, 6:]  # the gradient in the bias is that in the outputs
    found = fitted(flat, x, y, draw="empirical")
    v = torch.randn(8, dtype=torch.float64)
    matrix = torch.cat([v[:6].view(2, 3), v[6:, None]], 1)
    expected = corrected(a.T @ a / 7, g.T @ g / 7, torch.einsum("no,nd->nod", g, a), matrix)
    torch.testing.assert_close(found.product(v), torch.cat([expected[:, :3].reshape(-1), expected[:, 3]]))
    fisher = gradients.T @ gradients / 7
    assert float(dense(found).trace()) == pytest.approx(float(fisher.trace()))


def test_a_convolution_over_one_position_is_a_linear_layer():
    flat = built(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Tanh(), nn.Linear(3, 2))
    x, y = torch.randn(1, 2, 2, 2, dtype=torch.float64), torch.tensor([0])
    gradient = sample_gradients(flat, x, y)[0]
    found = dense(fitted(flat, x, y, draw="empirical"))
    torch.testing.assert_close(found[:27, :27], torch.outer(gradient[:27], gradient[:27]))


@pytest.mark.parametrize("padding", [{"padding": 1, "stride": 2}, {"padding": "same", "padding_mode": "circular"}])
def test_convolution_factors_sum_over_positions(padding):
    """Eigenvectors of the factors of Grosse and Martens (2016), eq. 24, position by position; samples' eigenvalues."""
    conv = nn.Conv2d(2, 3, 3, **padding)
    flat = built(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, y = torch.randn(4, 2, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    kfac = fitted(flat, x, y, draw="empirical")
    w = flat.initial()
    kernel = w[: 3 * 18].view(3, 18)
    # A patch is what multiplies each weight: the outputs of one-hot kernels.
    probe = nn.Conv2d(2, 18, 3, **padding, bias=False).double()
    with torch.no_grad():
        probe.weight.copy_(torch.eye(18, dtype=torch.float64).view(18, 2, 3, 3))
        patch = probe(x).flatten(2)  # (4, 18, T)
    positions = patch.shape[2]
    a = torch.cat([patch, torch.ones(4, 1, positions, dtype=torch.float64)], 1)
    outputs = (torch.einsum("od,ndt->not", kernel, patch) + w[54:, None]).requires_grad_()
    loss = make_loss("cross_entropy").total(outputs.mean(2), y, torch.float64)
    (g,) = torch.autograd.grad(loss, outputs)
    A = torch.einsum("nat,nbt->ab", a, a) / 4
    G = torch.einsum("not,npt->op", g, g) / (4 * positions)
    v = torch.randn(57, dtype=torch.float64)
    matrix = torch.cat([v[:54].view(3, 18), v[54:, None]], 1)
    expected = corrected(A, G, torch.einsum("not,ndt->nod", g, a), matrix)
    torch.testing.assert_close(kfac.product(v), torch.cat([expected[:, :18].reshape(-1), expected[:, 18]]))


@pytest.mark.parametrize("settings", [{"padding": 1, "stride": 2}, {"padding": "same", "dilation": 2}])
def test_a_convolution_along_a_sequence_is_one_along_rows_of_an_image(settings):
    """Before, Conv1d had no factors."""
    wide = {name: v if isinstance(v, str) else (0 if name == "padding" else 1, v) for name, v in settings.items()}
    x, y = torch.randn(4, 2, 7, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    line, image = nn.Conv1d(2, 3, 3, **settings), nn.Conv2d(2, 3, (1, 3), **wide)
    with torch.no_grad():
        image.weight.copy_(line.weight[:, :, None])
        image.bias.copy_(line.bias)
    along = fitted(built(line, nn.AdaptiveAvgPool1d(1), nn.Flatten()), x, y, draw="empirical")
    across = fitted(built(image, nn.AdaptiveAvgPool2d(1), nn.Flatten()), x[:, :, None], y, draw="empirical")
    v = torch.randn(21, dtype=torch.float64)
    assert along.note == ""
    torch.testing.assert_close(along.product(v), across.product(v))


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": (0, 1, 2), "stride": (1, 2, 1)},
        {"padding": "same", "dilation": (1, 2, 1)},
        {"padding": (0, 1, 1), "padding_mode": "circular"},
    ],
)
def test_a_convolution_in_space_with_flat_kernels_is_one_in_the_plane(settings):
    """Before, Conv3d had no factors."""
    plane = {name: value[1:] if isinstance(value, tuple) else value for name, value in settings.items()}
    x, y = torch.randn(4, 2, 5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    space, image = nn.Conv3d(2, 3, (1, 3, 2), **settings), nn.Conv2d(2, 3, (3, 2), **plane)
    with torch.no_grad():
        image.weight.copy_(space.weight[:, :, 0])
        image.bias.copy_(space.bias)
    deep = fitted(built(space, nn.AdaptiveAvgPool3d(1), nn.Flatten()), x[:, :, None], y, draw="empirical")
    flat = fitted(built(image, nn.AdaptiveAvgPool2d(1), nn.Flatten()), x, y, draw="empirical")
    v = torch.randn(39, dtype=torch.float64)
    assert deep.note == ""
    torch.testing.assert_close(deep.product(v), flat.product(v))


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.LayerNorm([4, 3])])
def test_norm_layers_have_the_diagonal_of_squared_sample_gradients(norm):
    flat = built(norm, nn.Flatten(), nn.Linear(12, 2))
    shape = (5, 3, 4) if getattr(norm, "normalized_shape", None) == (4,) else (5, 4, 3)
    x, y = torch.randn(shape, dtype=torch.float64), torch.arange(5) % 2
    own = 2 * norm.weight.numel()
    expected = sample_gradients(flat, x, y).square().mean(0)[:own]
    found = fitted(flat, x, y, draw="empirical").product(torch.ones(flat.size, dtype=torch.float64))
    torch.testing.assert_close(found[:own], expected)


@pytest.mark.parametrize(
    ("loss", "draw"),
    [("cross_entropy", "curvature"), ("cross_entropy", "labels"), ("mse", "curvature"), ("mse", "labels")],
)
def test_drawn_output_gradients_have_the_hessian_as_their_second_moment(loss, draw):
    outputs = torch.randn(1, 3, dtype=torch.float64)
    targets = torch.zeros(1, 3) if loss == "mse" else torch.tensor([0])
    many = output_noise(make_loss(loss), outputs.expand(40000, 3), targets, draw, make_generator(0, "u"))
    hessian = make_loss(loss).output_hessian(outputs, targets)
    expected = torch.cat([hessian(row[None]) for row in torch.eye(3, dtype=torch.float64)])
    torch.testing.assert_close(many.T @ many / 40000, expected, rtol=0.05, atol=0.01)
    torch.testing.assert_close(many.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=0.02)


def test_the_damped_inverse_is_the_dense_solve():
    layers = [nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3)]
    flat = built(*layers)
    kfac = fitted(flat, torch.randn(6, 1, 3, 3, dtype=torch.float64), torch.arange(6) % 3)
    v, matrix = torch.randn(flat.size, dtype=torch.float64), dense(kfac)
    identity = torch.eye(flat.size, dtype=torch.float64)
    torch.testing.assert_close(matrix, matrix.T)
    for damping in (1e-3, 0.1):
        torch.testing.assert_close(kfac.apply(v, damping), torch.linalg.solve(matrix + damping * identity, v))
    torch.testing.assert_close(kfac.product(v) @ v, v @ matrix @ v)
    assert kfac.note == ""


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


TRANSPOSED: list[tuple[type[nn.Module], tuple[int, ...], dict[str, object]]] = [
    (nn.ConvTranspose1d, (5,), {"stride": 2, "padding": 1, "output_padding": 1}),
    (nn.ConvTranspose2d, (3, 2), {"stride": (2, 1), "dilation": 2}),
    (nn.ConvTranspose2d, (4, 4), {"padding": 2}),
    (nn.ConvTranspose3d, (2, 2, 3), {"stride": (1, 2, 1), "padding": 1}),
]


def transposed(kind: type[nn.Module], settings: dict[str, object]) -> nn.Module:
    """Return a model whose only parameters are those of a transposed convolution with two outputs."""
    return nn.Sequential(kind(3, 2, 3, **settings), nn.Flatten(2), Mean()).double()


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x).mean(2)


@pytest.mark.parametrize(("kind", "shape", "settings"), TRANSPOSED)
def test_the_block_of_a_transposed_convolution_is_that_of_its_samples(kind, shape, settings):
    """Its trace over several samples, and all of it at one position: before, there were no factors."""
    flat = FlatModel(transposed(kind, settings))
    x, y = torch.randn(4, 3, *shape, dtype=torch.float64), torch.arange(4) % 2
    gradients = sample_gradients(flat, x, y)
    kfac = fitted(flat, x, y, draw="empirical")
    assert kfac.note == ""
    assert float(dense(kfac).trace()) == pytest.approx(float((gradients.T @ gradients / 4).trace()))
    eigenvalues = torch.linalg.eigvalsh(dense(kfac))
    torch.testing.assert_close(kfac.eigenvalues().sort().values, eigenvalues)


def test_a_transposed_convolution_to_one_position_is_a_linear_layer():
    flat = built(nn.ConvTranspose2d(3, 4, (1, 1)), nn.Flatten(), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(1, 3, 1, 1, dtype=torch.float64), torch.tensor([0])
    gradient = sample_gradients(flat, x, y)[0]
    found = dense(fitted(flat, x, y, draw="empirical"))
    torch.testing.assert_close(found[:16, :16], torch.outer(gradient[:16], gradient[:16]))


def test_a_transposed_convolution_is_the_convolution_by_its_flipped_kernel():
    """torch's conv1d of a padded input, by the kernel turned round, is its conv_transpose1d."""
    one, two = nn.ConvTranspose1d(3, 2, 3), nn.Conv1d(3, 2, 3, padding=2)
    with torch.no_grad():
        two.weight.copy_(one.weight.transpose(0, 1).flip(2))
        two.bias.copy_(one.bias)
    x, y = torch.randn(4, 3, 5, dtype=torch.float64), torch.arange(4) % 2
    a, b = (fitted(FlatModel(nn.Sequential(each, Mean()).double()), x, y, draw="empirical") for each in (one, two))
    v = torch.randn(20, dtype=torch.float64)
    turned = torch.cat([v[:18].view(3, 2, 3).transpose(0, 1).flip(2).flatten(), v[18:]])
    expected = b.apply(turned, 0.1)
    back = torch.cat([expected[:18].view(2, 3, 3).flip(2).transpose(0, 1).flatten(), expected[18:]])
    torch.testing.assert_close(a.apply(v, 0.1), back)


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


def test_factors_of_other_layers_are_refused_in_one_line():
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2
    one, two = built(nn.Linear(3, 2)), built(nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(ModelError, match=r"^checkpoint: it has K-FAC factors of 1 layers, the model has 2; .*$"):
        Kfac(two, make_loss("cross_entropy")).load_state_dict(fitted(one, x, y).state_dict())


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


def test_running_mean_warms_up_and_state_goes_on_bit_for_bit():
    flat = built(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    draws = [(torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2) for _ in range(3)]
    w, generator = flat.initial(), make_generator(0, "g")
    kfac = Kfac(flat, make_loss("cross_entropy"), draw="empirical", memory=0.9)
    for x, y in draws[:2]:
        kfac.update(w, x, y, generator)
    single = [fitted(flat, x, y, draw="empirical").state_dict()["0.g.moment"] for x, y in draws[:2]]
    torch.testing.assert_close(kfac.state_dict()["0.g.moment"], (single[0] + single[1]) / 2)
    again = Kfac(flat, make_loss("cross_entropy"), draw="empirical", memory=0.9)
    again.load_state_dict({name: value.clone() for name, value in kfac.state_dict().items()})
    v = torch.randn(flat.size, dtype=torch.float64)
    for each in (kfac, again):
        each.update(w, *draws[2], generator)
    assert torch.equal(kfac.apply(v, 0.01), again.apply(v, 0.01))


def test_eigenvalues_in_a_basis_that_stays_are_averaged():
    flat = built(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    draws = [(torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2) for _ in range(2)]
    kfac = Kfac(flat, make_loss("cross_entropy"), draw="empirical", memory=0.0, drift=1e9)
    alone = []
    for x, y in draws:
        kfac.update(flat.initial(), x, y, make_generator(0, "g"))
        alone.append(dense(kfac))
    kfac = Kfac(flat, make_loss("cross_entropy"), draw="empirical", memory=0.9, drift=1e9)
    for x, y in draws:
        kfac.update(flat.initial(), x, y, make_generator(0, "g"))
    torch.testing.assert_close(dense(kfac), (alone[0] + alone[1]) / 2)
    assert not torch.allclose(alone[0], alone[1])


class Recorder:
    """A meter that keeps what it was charged, and refuses above its limit."""

    def __init__(self, limit: int = 10**9) -> None:
        self.limit, self.entries = limit, []  # type: ignore[var-annotated]

    def charge(self, kind, samples, purpose):
        if samples > self.limit:
            raise BudgetExhausted
        self.entries.append((kind, samples, purpose))


def test_an_update_is_charged_with_its_arithmetic_before_it_is_made():
    flat = built(nn.Linear(30, 20), nn.Tanh(), nn.Linear(20, 10))
    x, y = torch.randn(64, 30, dtype=torch.float64), torch.arange(64) % 10
    kfac, meter = Kfac(flat, make_loss("cross_entropy")), Recorder(limit=10)
    with pytest.raises(BudgetExhausted):
        kfac.update(flat.initial(), x, y, make_generator(0, "g"), meter)
    assert kfac.updates == 0
    meter.limit = 10**9
    kfac.update(flat.initial(), x, y, make_generator(0, "g"), meter)
    # Per sample, in products of the two layers' sizes: forward, gradients in outputs, A and G, their rotations and the
    # products of their squares and of what bases leave out, against a gradient's.
    forward = 30 * 20 + 20 * 10
    estimate = forward + 20 * 10 + (30**2 + 20**2) + (20**2 + 10**2)
    estimate += (31**2 + 20**2 + 31 * 20) + (21**2 + 10**2 + 21 * 10) + (31 + 20 + 1) + (21 + 10 + 1)
    gradient = 2 * forward + 20 * 10
    cubes = 31**3 + 20**3 + 21**3 + 10**3
    assert [(kind, purpose) for kind, _, purpose in meter.entries] == [("gradient", "product")] * 2
    assert meter.entries[0][1] == pytest.approx(64 * estimate / gradient, abs=1)
    assert meter.entries[1][1] == pytest.approx(9 * cubes / (2 * gradient), abs=1)


@pytest.mark.parametrize("dear", [float("inf"), 1000.0])
def test_factors_keep_few_eigenvectors_where_a_product_would_be_dear(dear: float) -> None:
    """The operations of whole factors are counted by shapes alone; the damped inverse is exact with few vectors."""
    conv, linear = nn.Conv2d(1, 60, 3), nn.Linear(60, 3)
    flat = built(conv, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    x, y = torch.randn(6, 1, 5, 5, dtype=torch.float64), torch.arange(6) % 3
    kfac = Kfac(flat, make_loss("cross_entropy"), draw="empirical", dear=dear)
    foreseen = kfac._product_flops_of(RANK)
    kfac.update(flat.initial(), x, y, make_generator(0, "g"))
    v = torch.randn(flat.size, dtype=torch.float64)
    solved = kfac.apply(v.clone(), 0.1)
    torch.testing.assert_close(kfac.product(solved) + 0.1 * solved, v)
    if dear > foreseen:
        assert kfac.product_flops == foreseen and "vectors" not in kfac.state_dict()
        return
    assert kfac.product_flops == kfac._product_flops_of(FEW) < 0.7 * foreseen
    assert [a.rank for a, _ in kfac._factors] == [10, FEW] and [g.rank for _, g in kfac._factors] == [FEW, 3]
    again = Kfac(flat, make_loss("cross_entropy"), draw="empirical", dear=dear)
    again.load_state_dict(kfac.state_dict())
    assert again.vectors == FEW and torch.equal(again.apply(v.clone(), 0.1), solved)


def test_a_factor_is_decomposed_again_only_when_its_moment_has_drifted():
    flat = built(nn.Linear(30, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y = torch.randn(200, 30, dtype=torch.float64), torch.arange(200) % 3
    kfac, meter, generator = Kfac(flat, make_loss("cross_entropy"), memory=0.0), Recorder(), make_generator(0, "g")
    w = flat.initial()
    kfac.update(w, x, y, generator)
    before = kfac.state_dict()
    w[:150] *= 4.0  # other activations, the same inputs
    kfac.update(w, x, y, generator, meter)
    after = kfac.state_dict()
    assert torch.equal(before["0.a.basis"], after["0.a.basis"])
    assert not torch.equal(before["1.a.basis"], after["1.a.basis"])
    rotated = after["1.a.basis"].T @ after["1.a.moment"] @ after["1.a.basis"]
    torch.testing.assert_close(rotated, rotated.diagonal().diag(), rtol=0.0, atol=1e-9)


def test_small_drifts_add_up_to_a_new_decomposition():
    flat = built(nn.Linear(4, 2))
    x, y = torch.randn(50, 4, dtype=torch.float64), torch.arange(50) % 2
    kfac, generator = Kfac(flat, make_loss("cross_entropy"), memory=0.0, drift=0.1), make_generator(0, "g")
    bases = []
    for step in range(4):  # the second moment grows by 4 % each time: by 8 % after two, by 12 % after three
        kfac.update(flat.initial(), x * 1.04 ** (step / 2), y, generator)
        bases.append(kfac.state_dict()["0.a.decomposed"])
    assert [torch.equal(basis, bases[0]) for basis in bases] == [True, True, True, False]


def test_layers_without_curvature_are_damped_alone():
    """A saturated softmax has the Hessian zero, so that (F + damping I)^-1 v = v / damping."""
    flat = built(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with torch.no_grad():
        w = flat.initial()
        w[-2] = 1e6  # the first class's bias
    kfac = Kfac(flat, make_loss("cross_entropy"))
    kfac.update(w, torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2, make_generator(0, "g"))
    v = torch.randn(flat.size, dtype=torch.float64)
    torch.testing.assert_close(kfac.apply(v, 0.5), v / 0.5)
    assert not kfac.product(v).any()


def test_an_estimate_that_is_not_finite_changes_nothing():
    flat = built(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y, generator = torch.randn(5, 3, dtype=torch.float64), torch.arange(5) % 2, make_generator(0, "g")
    kfac = Kfac(flat, make_loss("cross_entropy"))
    kfac.update(flat.initial(), x, y, generator)
    before = kfac.state_dict()
    kfac.update(flat.initial(), x * float("nan"), y, generator)
    assert all(torch.equal(value, before[name]) for name, value in kfac.state_dict().items())


def test_diagonals_of_a_checkpoint_of_an_earlier_version_are_found_among_those_of_all_parameters():
    """There every parameter had a place in the diagonal, zero where it has factors."""
    flat = built(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    kfac = fitted(flat, torch.randn(6, 4, dtype=flat.dtype), torch.arange(6) % 2)
    now = kfac.state_dict()
    assert len(now["diagonal"]) == 6, "the weight and bias of LayerNorm alone"
    whole = torch.zeros(flat.size, dtype=flat.dtype)
    whole[15:21] = now["diagonal"]
    earlier = {name: tensor for name, tensor in now.items() if name != "bounded"} | {"diagonal": whole}
    again, v = Kfac(flat, make_loss("cross_entropy")), torch.randn(flat.size, dtype=flat.dtype)
    again.load_state_dict(earlier)
    assert torch.equal(again.apply(v, 0.1), kfac.apply(v, 0.1)) and torch.equal(again.product(v), kfac.product(v))
    assert "bounded" not in again.state_dict(), "its sums go on as they were made"


def test_an_update_leaves_the_tensors_alone_that_were_given_away():
    """As a solver holds them that goes back when its budget ends in the midst of a step; of wide layers, too."""
    flat = built(nn.Linear(200, 3), nn.LayerNorm(3))
    x, y = torch.randn(6, 200, dtype=flat.dtype), torch.arange(6) % 3
    kfac = fitted(flat, x, y)
    held = kfac.state_dict()
    before = {name: tensor.clone() for name, tensor in held.items()}
    kfac.update(flat.initial(), 2 * x, y, make_generator(1, "draws"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in held.items())
    assert not torch.equal(kfac.state_dict()["0.a.moment"], before["0.a.moment"])


def test_a_product_may_be_written_over_its_vector_or_added_to_another():
    flat = built(nn.Linear(200, 3), nn.LayerNorm(3), nn.Linear(3, 2, bias=False))
    kfac = fitted(flat, torch.randn(6, 200, dtype=flat.dtype), torch.arange(6) % 2)
    v, into = torch.randn(2, flat.size, dtype=flat.dtype)
    expected, begun = kfac.apply(v, 0.1), into.clone()
    kfac.add_applied(into, v, 0.1, 0.5)
    torch.testing.assert_close(into, begun + 0.5 * expected)
    assert kfac.apply_(v, 0.1) is v and torch.equal(v, expected)
