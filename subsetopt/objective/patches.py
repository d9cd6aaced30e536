"""Linear layers and convolutions as products of a matrix with rows: inputs by positions, and weights in that order.

A transposed convolution of x is a convolution, without stride and by the flipped kernel, of x with zeros put between
its numbers (Dumoulin and Visin 2016, section 4): what a position of its output sees are patches of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
CONVOLUTION = nn.Conv1d | nn.Conv2d | nn.Conv3d | TRANSPOSED

PATCH_BYTES = 8 * 2**20  # of unfolded convolution inputs at a time


def is_transposed(module: nn.Module) -> bool:
    """Whether the weight of a layer has its input channels first, (C, o, ...), and not (o, C, ...)."""
    return isinstance(module, TRANSPOSED)


def as_matrix(weight: Tensor, transposed: bool) -> Tensor:
    """Return a layer's weight as the matrix (o, d) that multiplies its rows."""
    return (weight.transpose(0, 1) if transposed else weight).flatten(1)


def as_weight(matrix: Tensor, shape: torch.Size, transposed: bool) -> Tensor:
    """Return a matrix (o, d), see `as_matrix`, in the `shape` of the weight."""
    if transposed:
        return matrix.reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1)
    return matrix.reshape(shape)


def flat_weights(matrices: Tensor, shape: torch.Size, transposed: bool) -> Tensor:
    """Return matrices (n, o, d), see `as_matrix`, as rows (n, numbers) in the order of a weight of this `shape`."""
    if transposed:
        by_channel: Tensor = matrices.unflatten(2, (shape[0], -1))
        return by_channel.transpose(1, 2).flatten(1)
    return matrices.flatten(1)


def matrix_shape(shape: torch.Size, transposed: bool) -> tuple[int, int]:
    """Return (o, d) of a weight of this shape."""
    if transposed:
        return shape[1], shape[0] * shape[2:].numel()
    return shape[0], shape[1:].numel()


def patch_bytes(module: CONVOLUTION, x: Tensor) -> int:
    """Return about how much the patches of one sample of x take."""
    per_number = module.weight[0, 0].numel()
    if isinstance(module, TRANSPOSED):
        per_number *= torch.Size(module.stride).numel()
    return x[0].numel() * per_number * x.element_size()


def patches(module: CONVOLUTION, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Return what each output position of `module` sees of x, shape (n, positions, C times the kernel's size).

    `size` is that of the outputs, which for a transposed convolution a call may choose; by default it is its own.
    """
    if isinstance(module, TRANSPOSED):
        return _transposed(module, x, size)
    padding: Any = module.padding
    if isinstance(padding, str) or module.padding_mode != "zeros":
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x, padding = F.pad(x, module._reversed_padding_repeated_twice, mode=mode), 0
    kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    if isinstance(module, nn.Conv1d):  # as one row of an image
        x, padding = x[..., None, :], (0, *padding) if padding else 0
        kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
    if isinstance(module, nn.Conv3d):
        return _patches_in_space(x, kernel, dilation, padding, stride)
    unfolded = F.unfold(x, cast(Any, kernel), cast(Any, dilation), padding, cast(Any, stride))
    return unfolded.transpose(1, 2)


def _patches_in_space(x: Tensor, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Tensor:
    """Return what F.unfold, transposed, would give for volumes (n, C, D, H, W)."""
    if padding:
        x = F.pad(x, [edge for width in reversed(padding) for edge in (width, width)])
    for axis, (size, gap, step) in enumerate(zip(kernel, dilation, stride, strict=True), start=2):
        x = x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
    return x.movedim(1, 4).flatten(4).flatten(1, 3)  # from (n, C, *positions, *kernel)


def _transposed(module: TRANSPOSED, x: Tensor, size: Sequence[int] | None) -> Tensor:
    """Return the same for a transposed convolution."""
    stride, dilation, kernel = module.stride, module.dilation, module.kernel_size
    spread = x.new_zeros(*x.shape[:2], *((n - 1) * step + 1 for n, step in zip(x.shape[2:], stride, strict=True)))
    places: tuple[Any, ...] = (..., *(slice(None, None, step) for step in stride))
    spread[places] = x
    edges: list[int] = []
    for axis in reversed(range(len(kernel))):
        reach = dilation[axis] * (kernel[axis] - 1)
        before = reach - cast(int, module.padding[axis])
        own = before + module.output_padding[axis]
        after = own if size is None else size[axis] - spread.shape[2 + axis] + reach - before
        edges += [before, after]
    spread = F.pad(spread, edges)
    if len(kernel) == 3:
        columns = _patches_in_space(spread, kernel, dilation, 0, (1, 1, 1))
    else:
        line = len(kernel) == 1  # as one row of an image
        size_2d, gaps = ((1, *kernel), (1, *dilation)) if line else (kernel, dilation)
        columns = F.unfold(spread[..., None, :] if line else spread, cast(Any, size_2d), cast(Any, gaps)).transpose(
            1, 2
        )
    by_kernel: Tensor = columns.unflatten(2, (x.shape[1], *kernel))
    return by_kernel.flip(tuple(range(3, 3 + len(kernel)))).flatten(2)


def sample_rows(
    module: nn.Module, bias: bool, calls: Sequence[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs (n, t, d) and output gradients (n, t, o) of some samples at a time, t positions of all `calls`.

    `calls` are pairs of an input of the module and the gradient in its output; those on other numbers of samples, such
    as on a learned token, count one by one. With `bias` the last of the d columns is of ones.
    """
    sizes: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for x, g in calls:
        sizes.setdefault(len(x), []).append((x, g))
    for alike in sizes.values():
        yield from _rows_of_equal_calls(module, bias, alike)


def _rows_of_equal_calls(
    module: nn.Module, bias: bool, calls: Sequence[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    samples, per_sample = len(calls[0][0]), 1
    if isinstance(module, CONVOLUTION):
        per_sample = patch_bytes(module, calls[0][0]) * len(calls)
    for start in range(0, samples, piece := max(1, PATCH_BYTES // max(1, per_sample))):
        inputs, gradients = [], []
        for x, g in calls:
            x, g = x[start : start + piece], g[start : start + piece]
            if isinstance(module, CONVOLUTION):
                x, g = patches(module, x, g.shape[2:]), g.flatten(2).mT
            else:
                x, g = (rows.flatten(1, -2) if rows.dim() > 2 else rows[:, None] for rows in (x, g))
            inputs.append(torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2) if bias else x)
            gradients.append(g)
        yield torch.cat(inputs, 1), torch.cat(gradients, 1)
