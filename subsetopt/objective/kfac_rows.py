"""A layer as rows: what each position of it sees, and the gradient in what it says there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH_BYTES = 64 * 2**20  # of unfolded convolution inputs at a time


def patches(module: nn.Conv2d, x: Tensor) -> Tensor:
    """Return what each output position of `module` sees of x, shape (n, positions, C kh kw)."""
    padding: Any = module.padding
    if isinstance(padding, str) or module.padding_mode != "zeros":
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x, padding = F.pad(x, module._reversed_padding_repeated_twice, mode=mode), 0
    kernel: Any = module.kernel_size
    unfolded = F.unfold(x, kernel, cast(Any, module.dilation), padding, cast(Any, module.stride))
    return unfolded.transpose(1, 2)


def sample_rows(
    module: nn.Module, bias: bool, calls: Sequence[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs (n, t, d) and output gradients (n, t, o) of some samples at a time, t positions of all `calls`.

    `calls` are pairs of an input of the module and the gradient in its output. With `bias` the last of the d columns is
    of ones.
    """
    samples, per_sample = len(calls[0][0]), 1
    if isinstance(module, nn.Conv2d):
        per_sample = calls[0][0][0].numel() * module.weight[0, 0].numel() * len(calls) * module.weight.element_size()
    for start in range(0, samples, piece := max(1, PATCH_BYTES // max(1, per_sample))):
        inputs, gradients = [], []
        for x, g in calls:
            x, g = x[start : start + piece], g[start : start + piece]
            if isinstance(module, nn.Conv2d):
                x, g = patches(module, x), g.flatten(2).mT
            else:
                x, g = (rows.flatten(1, -2) if rows.dim() > 2 else rows[:, None] for rows in (x, g))
            inputs.append(torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2) if bias else x)
            gradients.append(g)
        yield torch.cat(inputs, 1), torch.cat(gradients, 1)
