"""What K-FAC reads off each layer in one forward and one backward pass: inputs, output gradients, second moments."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from subsetopt.devices import moved
from subsetopt.objective.layers import Layer
from subsetopt.objective.patches import CONVOLUTION, PATCH_BYTES, patch_bytes, patches
from subsetopt.objective.sharding import SampleShare

ROWS_PER_SIDE = 16  # rows for each column of A at most: of more positions a random part is taken


def kronecker_moments(
    layer: Layer,
    gradients: Sequence[Tensor],
    n: int,
    generator: torch.Generator,
    share: SampleShare,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return A (d, d) and G (o, o) with F ~ A (x) G for the layer's weight (o, d), the bias as last column.

    Each position of a convolution, and each token, is a row: A = (1/n) sum a a' over all rows, G = the mean of g g'
    over all rows, with g the derivative of one sample's loss (Grosse and Martens 2016, eq. 24: positions independent).
    Where a convolution has many more rows than A has columns, A is estimated from random positions, the same ones in
    all samples of all ranks: most of the arithmetic of an estimate would be there. `weights` (n,) say how often each
    sample counts in A; in G they are part of g.
    """
    second_a = second_g = None
    rows = 0
    for (x, _), g in zip(layer.calls, gradients, strict=True):
        own = weights if weights is not None and len(x) == n else None
        size = g.shape[2:] if isinstance(layer.module, CONVOLUTION) else ()
        a_part = _input_moment(layer, x, size, len(x) * share.total // n, generator, own)
        g_rows = g.movedim(1, -1).flatten(0, -2) if isinstance(layer.module, CONVOLUTION) else g.flatten(0, -2)
        rows += len(g_rows)
        g_part = g_rows.T @ g_rows
        second_a = a_part if second_a is None else second_a.add_(a_part)
        second_g = g_part if second_g is None else second_g.add_(g_part)
    assert second_a is not None and second_g is not None, "a layer that was not called has no moments"
    return second_a.div_(n), second_g.div_(rows)


def _input_moment(
    layer: Layer, x: Tensor, size: Sequence[int], everywhere: int, generator: torch.Generator, weights: Tensor | None
) -> Tensor:
    """Return the sum of a a' over the rows of x, as many positions being taken as `everywhere` inputs need.

    `size` is that of a convolution's outputs.
    """
    ones = layer.bias is not None
    if not isinstance(layer.module, CONVOLUTION):
        rows = x.flatten(0, -2)
        return _add_outer(_nothing(rows, ones), rows, ones, weights)
    numel = patch_bytes(layer.module, x)
    chosen: Tensor | None = None
    total, scale, start = None, 1.0, 0
    for piece in torch.split(x, max(1, PATCH_BYTES // max(numel, 1))):
        own, start = None if weights is None else weights[start : start + len(piece)], start + len(piece)
        columns = patches(layer.module, piece, size)
        positions = columns.shape[1]
        wanted = math.ceil(ROWS_PER_SIDE * columns.shape[2] / everywhere)
        if wanted < positions:
            if chosen is None:
                chosen = moved(torch.randperm(positions, generator=generator)[:wanted], x.device)
            columns, scale = columns[:, chosen], positions / wanted
        total = _nothing(columns, ones) if total is None else total
        _add_outer(total, columns.flatten(0, 1), ones, own)
    assert total is not None, "torch.split gives at least one piece"
    return total.mul_(scale)


def _nothing(rows: Tensor, ones: bool) -> Tensor:
    """Return zeros to which `_add_outer` can add."""
    side = rows.shape[-1] + ones
    return rows.new_zeros(side, side)


def _add_outer(into: Tensor, rows: Tensor, ones: bool, weights: Tensor | None) -> Tensor:
    """Add the sum of a a' over rows, with a one appended to every a where there is a bias, with no matrix beside it.

    `weights` are those of equally many neighbouring rows each.
    """
    count: float | Tensor = float(len(rows))
    weighted = rows
    if weights is not None:
        each = weights.to(rows.dtype).repeat_interleave(len(rows) // len(weights))
        weighted, count = rows * each[:, None], each.sum()
    side = rows.shape[1]
    into[:side, :side].addmm_(rows.T, weighted)
    if ones:
        total = weighted.sum(0)
        for edge, value in ((into[:-1, -1], total), (into[-1, :-1], total), (into[-1, -1], count)):
            edge.add_(value)
    return into


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
