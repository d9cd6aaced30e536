"""Standardise inputs: statistics of the training split, applied per chunk on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from subsetopt.data.dataset import Normalization

_BLOCK = 2**22
# A constant float column has a standard deviation of about 1e-16 |mean| by rounding, not 0.
_CONSTANT = 1e-12


def measure(inputs: Tensor) -> Normalization:
    """Return mean and standard deviation (population, float64) of inputs (n, C, ...), one pair per C.

    C is the channel of images (n, C, H, W) and the feature of vectors (n, D). The units are those stored, 0 to 255
    for uint8 images. A constant channel gets the deviation 1, so that it becomes zero and not NaN.
    """
    channels, count = inputs.shape[1], inputs[:, 0].numel()
    rows = max(1, _BLOCK // inputs[:1].numel())
    blocks = [slice(start, start + rows) for start in range(0, len(inputs), rows)]
    mean = _total(inputs, blocks, torch.zeros(channels, dtype=torch.float64), power=1) / count
    variance = _total(inputs, blocks, mean, power=2) / count
    std = torch.where(variance.sqrt() <= _CONSTANT * mean.abs(), 1.0, variance.sqrt())
    return Normalization(tuple(mean.tolist()), tuple(std.tolist()))


class Preprocess:
    """Casts a chunk of inputs to `dtype` on its own device and standardises it, (x - mean) / std.

    `normalization` None means cast only. Inputs that are floats of higher precision than `dtype` are standardised
    before the cast. Chunks have the shape (n, C, ...) that `measure` saw. With `integers`, integer
    inputs stay integers, as int64: token ids of a model that embeds them.
    """

    def __init__(self, normalization: Normalization | None, dtype: torch.dtype, integers: bool = False) -> None:
        self.normalization, self.dtype, self.integers = normalization, dtype, integers
        self._statistics: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __repr__(self) -> str:
        """The same in every process, since an objective's identity is made from it."""
        kept = ", integers=True" if self.integers else ""
        return f"Preprocess({self.normalization!r}, {self.dtype}{kept})"

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the chunk as the model sees it."""
        if self.integers and not inputs.is_floating_point():
            return inputs.to(torch.int64)
        if self.normalization is None:
            return inputs.to(self.dtype)
        working = torch.promote_types(inputs.dtype, self.dtype) if inputs.is_floating_point() else self.dtype
        mean, std = self._on(inputs.device, working)
        shape = (-1, *[1] * (inputs.ndim - 2))
        return ((inputs.to(working) - mean.view(shape)) / std.view(shape)).to(self.dtype)

    def _on(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        assert self.normalization is not None
        if (device, dtype) not in self._statistics:
            mean = torch.tensor(self.normalization.mean, dtype=dtype, device=device)
            std = torch.tensor(self.normalization.std, dtype=dtype, device=device)
            self._statistics[device, dtype] = (mean, std)
        return self._statistics[device, dtype]


def _total(inputs: Tensor, blocks: list[slice], centre: Tensor, power: int) -> Tensor:
    """Return the sum of (x - centre)^power over all axes but the channel, in float64."""
    total = torch.zeros_like(centre)
    for block in blocks:
        rows = inputs[block]
        deviation = rows.reshape(len(rows), len(centre), -1).double() - centre[:, None]
        total += deviation.pow(power).sum(dim=(0, 2))
    return total
