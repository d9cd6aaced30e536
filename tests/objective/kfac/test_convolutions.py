"""K-FAC of convolutions, and of transposed ones, against sums over positions and against each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from subsetopt.objective import FlatModel, make_loss
from tests.objective.kfac.kfac_nets import built, corrected, dense, fitted, sample_gradients


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
