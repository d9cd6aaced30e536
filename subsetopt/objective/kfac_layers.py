"""What K-FAC reads off each layer in one forward and one backward pass: inputs, output gradients, second moments."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from subsetopt.devices import moved
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.kfac_rows import PATCH_BYTES, patches
from subsetopt.objective.losses import CrossEntropy, Loss, MeanSquaredError
from subsetopt.objective.sharding import SampleShare

ROWS_PER_SIDE = 16  # rows for each column of A at most: of more positions a random part is taken


@dataclass
class Layer:
    """A module whose own trainable parameters get curvature: their places in the flat model's list, None if absent."""

    module: nn.Module
    weight: int | None
    bias: int | None
    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False)

    @property
    def kronecker(self) -> bool:
        """Whether its curvature is a Kronecker product; otherwise it is a diagonal."""
        return isinstance(self.module, nn.Linear | nn.Conv2d)


def find_layers(flat: FlatModel) -> tuple[list[Layer], list[int]]:
    """Return the layers with a known form of curvature, and the places of all other trainable parameters.

    Known: Linear, Conv2d without groups, BatchNorm, LayerNorm, GroupNorm, Embedding. A parameter that two modules share
    belongs to no layer; nor does a bias whose weight is shared or frozen. A module called twice is one layer that has
    more rows.
    """
    places: dict[nn.Module, dict[str, int]] = {}
    for place, slots in enumerate(flat.slots):
        if len(slots) == 1:
            places.setdefault(slots[0][0], {})[slots[0][1]] = place
    layers = []
    for module, names in places.items():
        known = set(names) <= {"weight", "bias"} and _is_known(module)
        if known and ("weight" in names or not isinstance(module, nn.Linear | nn.Conv2d)):
            layers.append(Layer(module, names.get("weight"), names.get("bias")))
    covered = {place for layer in layers for place in (layer.weight, layer.bias)}
    return layers, [place for place in range(len(flat.names)) if place not in covered]


def _is_known(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1
    return isinstance(module, nn.Linear | _BatchNorm | nn.LayerNorm | nn.GroupNorm | nn.Embedding)


@contextmanager
def recording(layers: Sequence[Layer]) -> Iterator[None]:
    """Let `layers` keep input and output of every call made inside; the calls are forgotten at the end.

    What follows a layer gets a copy of its output, so that an activation in place does not change what is kept.
    """

    def keep(layer: Layer) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            layer.calls.append((inputs[0].detach(), output))
            return output.clone()

        return hook

    with ExitStack() as stack:
        for layer in layers:
            handle = layer.module.register_forward_hook(keep(layer))
            stack.callback(handle.remove)
            stack.callback(layer.calls.clear)
        yield


def output_noise(
    loss: Loss,
    outputs: Tensor,
    targets: Tensor,
    draw: str,
    generator: torch.Generator,
    share: SampleShare | None = None,
) -> Tensor:
    """Return random u `(n, M)` with E[u u'] = the Hessian of each sample's loss in its outputs, or its gradient.

    `curvature`: u = S e with random signs e and S S' that Hessian; for cross-entropy S = diag(sqrt p) - p sqrt(p)'.
    Of a confident sample every such u is small, where `labels` (u = p - onehot(y), y drawn from the model; Martens and
    Grosse 2015, section 5) are mostly zero and seldom large, so that fewer samples do. `empirical`: u = dl/dz at the
    true targets; a loss of the user's own always takes that. For mse, `labels` are Gaussian. What is random is drawn
    for all samples of which `share` says where these belong, so that it is theirs on whichever rank they are.
    """
    share = share or SampleShare.whole(len(outputs))
    if draw == "empirical" or not isinstance(loss, CrossEntropy | MeanSquaredError):
        z = outputs.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss.total(z, targets, z.dtype), z)
        return gradient
    z = outputs.detach()
    if isinstance(loss, MeanSquaredError):
        scale = math.sqrt(2.0 * len(z) / z.numel())
        normal = draw == "labels"
        return scale * (_normals(z, generator, share) if normal else _signs(z, generator, share))
    p = z.softmax(1)
    if draw == "labels":
        uniform = moved(_uniform(generator, share), p.device, p.dtype)
        y = (p.cumsum(1) <= uniform).sum(1).clamp_max(p.shape[1] - 1)
        return p - F.one_hot(y, p.shape[1]).to(p)
    spread = p.sqrt() * _signs(p, generator, share)
    return spread - p * spread.sum(1, keepdim=True)


def _uniform(generator: torch.Generator, share: SampleShare) -> Tensor:
    return torch.rand(share.total, 1, generator=generator, dtype=torch.float64)[share.places]


def _signs(like: Tensor, generator: torch.Generator, share: SampleShare) -> Tensor:
    bits = torch.randint(0, 2, (share.total, *like.shape[1:]), generator=generator)[share.places]
    return moved(2 * bits - 1, like.device, like.dtype)


def _normals(like: Tensor, generator: torch.Generator, share: SampleShare) -> Tensor:
    drawn = torch.randn(share.total, *like.shape[1:], generator=generator, dtype=torch.float64)
    return moved(drawn[share.places], like.device, like.dtype)


def kronecker_moments(
    layer: Layer, gradients: Sequence[Tensor], n: int, generator: torch.Generator, share: SampleShare
) -> tuple[Tensor, Tensor]:
    """Return A (d, d) and G (o, o) with F ~ A (x) G for the layer's weight (o, d), the bias as last column.

    Each position of a convolution, and each token, is a row: A = (1/n) sum a a' over all rows, G = the mean of g g'
    over all rows, with g the derivative of one sample's loss (Grosse and Martens 2016, eq. 24: positions independent).
    Where a convolution has many more rows than A has columns, A is estimated from random positions, the same ones in
    all samples of all ranks: most of the arithmetic of an estimate would be there.
    """
    second_a = second_g = None
    rows = 0
    for (x, _), g in zip(layer.calls, gradients, strict=True):
        a_part = _input_moment(layer, x, len(x) * share.total // n, generator)
        g_rows = g.movedim(1, -1).flatten(0, -2) if isinstance(layer.module, nn.Conv2d) else g.flatten(0, -2)
        rows += len(g_rows)
        g_part = g_rows.T @ g_rows
        second_a = a_part if second_a is None else second_a + a_part
        second_g = g_part if second_g is None else second_g + g_part
    assert second_a is not None and second_g is not None, "a layer that was not called has no moments"
    return second_a / n, second_g / rows


def _input_moment(layer: Layer, x: Tensor, everywhere: int, generator: torch.Generator) -> Tensor:
    """Return the sum of a a' over the rows of x, as many positions being taken as `everywhere` inputs need."""
    if not isinstance(layer.module, nn.Conv2d):
        return _outer(x.flatten(0, -2), layer.bias is not None)
    numel = x[0].numel() * layer.module.weight[0, 0].numel() * x.element_size()
    chosen: Tensor | None = None
    total, scale = None, 1.0
    for piece in torch.split(x, max(1, PATCH_BYTES // max(numel, 1))):
        columns = patches(layer.module, piece)
        positions = columns.shape[1]
        wanted = math.ceil(ROWS_PER_SIDE * columns.shape[2] / everywhere)
        if wanted < positions:
            if chosen is None:
                chosen = moved(torch.randperm(positions, generator=generator)[:wanted], x.device)
            columns, scale = columns[:, chosen], positions / wanted
        part = _outer(columns.flatten(0, 1), layer.bias is not None)
        total = part if total is None else total + part
    assert total is not None, "torch.split gives at least one piece"
    return total * scale


def _outer(rows: Tensor, ones: bool) -> Tensor:
    """Return the sum of a a' over rows, with a one appended to every a where there is a bias."""
    square = rows.T @ rows
    if not ones:
        return square
    total = rows.sum(0)[:, None]
    corner = total.new_full((1, 1), float(len(rows)))
    return torch.cat([torch.cat([square, total], 1), torch.cat([total.T, corner], 1)])


def diagonal_moments(layer: Layer, gradients: Sequence[Tensor], n: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the mean over samples of squared per-sample gradients of weight and bias (None where there is none).

    Norm layers: exact, but that BatchNorm's samples act on each other only through g. Embeddings: tokens independent.
    """
    module = layer.module
    if isinstance(module, nn.Embedding):
        squares = torch.zeros_like(module.weight)
        for (tokens, _), g in zip(layer.calls, gradients, strict=True):
            squares.index_add_(0, tokens.flatten(), g.flatten(0, -2).square())
        return squares / n, None
    weight = bias = None
    for (x, _), g in zip(layer.calls, gradients, strict=True):
        of_weight, of_bias = _norm_sums(module, g * _normalised(module, x)), _norm_sums(module, g)
        weight = of_weight if weight is None else weight + of_weight
        bias = of_bias if bias is None else bias + of_bias
    assert weight is not None and bias is not None, "a layer that was not called has no moments"
    return weight.square().sum(0) / n, bias.square().sum(0) / n


def _normalised(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, _BatchNorm):
        return F.batch_norm(x, None, None, training=True, eps=module.eps)
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, eps=module.eps)
    assert isinstance(module, nn.GroupNorm), "the only other norm layer that find_layers knows"
    return F.group_norm(x, module.num_groups, eps=module.eps)


def _norm_sums(module: nn.Module, product: Tensor) -> Tensor:
    """Return the sums over the positions of each sample, shape (n, *parameter shape)."""
    if isinstance(module, nn.LayerNorm):
        axes = range(1, product.ndim - len(module.normalized_shape))
    else:
        axes = range(2, product.ndim)
    return product.sum([*axes]) if len(axes) else product
