"""Standardise inputs and regression targets: statistics of the training split, applied per chunk on the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor

from subsetopt.data.dataset import Dataset, Normalization, Split
from subsetopt.inputs import Inputs, Parts, Stored, each_part

_BLOCK = 2**22
# What rounding makes of a constant that was computed: a spread of so many units in the last place.
_CONSTANT_ULPS = 4
# From this ratio of mean to deviation on, a mean rounded to the working precision would shift what is standardised.
_OFFSET = 100.0


def measure(inputs: Tensor) -> Normalization:
    """Return mean and standard deviation (population, float64) of inputs (n, C, ...), one pair per C.

    C is the channel of images (n, C, H, W), the feature of vectors (n, D) and the column of targets (n, M). The units
    are those stored, 0 to 255 for uint8 images. A constant channel gets its own magnitude (1 where it is zero) for the
    deviation, so that it becomes zero and not NaN. Sums are taken over numbers brought to [-1, 1] by the channel's own
    smallest and largest one, so that neither 1e300 nor 1e-300, nor a mean far larger than the deviation, loses digits.
    """
    low, high = _extremes(inputs)
    centre, half = low / 2 + high / 2, high / 2 - low / 2
    ulp = torch.finfo(inputs.dtype if inputs.is_floating_point() else torch.float64).eps
    constant = half <= 0.5 * _CONSTANT_ULPS * ulp * centre.abs()
    scale = torch.where(constant, 1.0, half)
    mean = torch.zeros_like(centre)
    square, count = torch.zeros_like(centre), 0
    for start in _starts(inputs):
        unit = (_rows(inputs, start) - centre[:, None]).div_(scale[:, None])
        own, more = unit.mean(1), unit.shape[1]
        # Chan, Golub & LeVeque (1983): the sum of squared deviations of two samples together, formed in place.
        deviations = unit.sub_(own[:, None]).square_().sum(1)
        square += deviations + (own - mean).square() * (count * more / (count + more))
        mean += (own - mean) * (more / (count + more))
        count += more
    magnitude = torch.where(centre == 0, 1.0, centre.abs())
    std = torch.where(constant, magnitude, scale * (square / count).sqrt())
    return Normalization(tuple((centre + scale * mean).tolist()), tuple(std.tolist()))


def measure_inputs(inputs: Stored) -> Normalization | dict[str, Normalization] | None:
    """Return the statistics of inputs: of one tensor as `measure` does, of several those of numbers, by their keys.

    Numbers are floating scalars (n,), vectors (n, D) and images (n, C, H, W), and images of bytes. Left as they are:
    whole numbers (tokens), truth values and floats that are all 0 or 1 (masks), and sequences.
    """
    parts = dict(each_part(inputs))
    if None in parts:
        return measure(parts[None])
    found = {str(key): measure(_columns(part)) for key, part in parts.items() if _is_measured(part)}
    return found or None


def standardised_beside(dataset: Dataset) -> Dataset:
    """Return a data set of padded rows with the statistics of what holds no padding: scalars and vectors' targets.

    Inputs that a collate function padded are left as they are, since padding would become a number like any other.
    """
    quantities = dataset.task == "regression" and dataset.train.targets.is_floating_point()
    by = measure(dataset.train.targets) if quantities else None
    return replace(
        dataset,
        target_normalization=by,
        notes=(*dataset.notes, "inputs that a collate function padded are not standardised"),
    )


def _is_measured(part: Any) -> bool:
    if part.ndim not in (1, 2, 4):
        return False
    if not part.is_floating_point():
        return bool(part.dtype == torch.uint8 and part.ndim == 4)
    rows = part[: _BLOCK // max(1, part[:1].numel()) + 1]
    return not bool(((rows == 0) | (rows == 1)).all())


def _columns(part: Any) -> Any:
    """Return scalars (n,) as a column (n, 1)."""
    return part[:].unsqueeze(1) if part.ndim == 1 else part


def standardised_targets(dataset: Dataset) -> Dataset:
    """Return the data set with float64 targets (y - mean) / std of its `target_normalization`, as models are trained.

    The same data set where there is none. Undo it with `Restore`.
    """
    if dataset.target_normalization is None:
        return dataset
    standardise = Preprocess(dataset.target_normalization, torch.float64)

    def changed(split: Split) -> Split:
        return replace(split, targets=standardise(split.targets.double()))

    validation, test = (None if split is None else changed(split) for split in (dataset.validation, dataset.test))
    return replace(dataset, train=changed(dataset.train), validation=validation, test=test)


class Preprocess:
    """Casts a chunk of inputs to `dtype` on its own device and standardises it, (x - mean) / std.

    `normalization` None means cast only, and integers stay integers (int64, as `nn.Embedding` wants them) with
    `embedded`. Inputs that are floats of higher precision than `dtype` are standardised before the cast, integers
    beyond 8 bits in float64. Chunks have the shape (n, C, ...) that `measure` saw. Of several inputs each is treated
    by its own statistics; those without any stay as they are, floats and images of bytes in `dtype`, whole numbers as
    int64, truth values as masks.
    """

    def __init__(
        self, normalization: Normalization | dict[str, Normalization] | None, dtype: torch.dtype, embedded: bool = False
    ) -> None:
        self.normalization, self.dtype, self.embedded = normalization, dtype, embedded
        parts = normalization if isinstance(normalization, dict) else {}
        self._parts = {key: Preprocess(by, dtype) for key, by in parts.items()}
        self._statistics: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, Tensor | None]] = {}

    def __repr__(self) -> str:
        """The same in every process, since an objective's identity is made from it."""
        embedded = ", embedded" if self.embedded else ""
        return f"Preprocess({self.normalization!r}, {self.dtype}{embedded})"

    @overload
    def __call__(self, inputs: Tensor) -> Tensor: ...
    @overload
    def __call__(self, inputs: Parts) -> Parts: ...
    @overload
    def __call__(self, inputs: Inputs) -> Inputs: ...
    def __call__(self, inputs: Inputs) -> Inputs:
        """Return the chunk as the model sees it."""
        if isinstance(inputs, Parts):
            return Parts([self._part(key, part) for key, part in inputs.items()], inputs.names)
        return self._single(inputs)

    def _part(self, key: str, part: Tensor) -> Tensor:
        if key in self._parts:
            standardised = self._parts[key](part.unsqueeze(1) if part.ndim == 1 else part)
            return standardised.squeeze(1) if part.ndim == 1 else standardised
        if part.is_floating_point() or (part.dtype == torch.uint8 and part.ndim == 4):
            return part.to(self.dtype)
        return part if part.dtype == torch.bool else part.to(torch.int64)

    def _single(self, inputs: Tensor) -> Tensor:
        if self.normalization is None:
            keep = self.embedded and not inputs.is_floating_point()
            return inputs.to(torch.int64 if keep else self.dtype)
        working = self._working(inputs)
        mean, std, rest = self._on(inputs.device, working)
        shape = (-1, *[1] * (inputs.ndim - 2))
        centred = inputs.to(working) - mean.view(shape)
        if rest is not None:
            centred = centred - rest.view(shape)
        return (centred / std.view(shape)).to(self.dtype)

    def _working(self, inputs: Tensor) -> torch.dtype:
        if inputs.is_floating_point():
            return torch.promote_types(inputs.dtype, self.dtype)
        wide = inputs.dtype != torch.uint8 and inputs.device.type != "mps"
        return torch.float64 if wide else self.dtype

    def _on(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return mean and deviation in `dtype`, and what rounding took from a mean far larger than the deviation."""
        assert isinstance(self.normalization, Normalization)
        if (device, dtype) not in self._statistics:
            exact = torch.tensor([self.normalization.mean, self.normalization.std], dtype=torch.float64)
            mean, std = exact.to(dtype)
            offset = bool((exact[0].abs() > _OFFSET * exact[1]).any())
            rest = (exact[0] - mean.double()).to(dtype).to(device) if offset else None
            self._statistics[device, dtype] = mean.to(device), std.to(device), rest
        return self._statistics[device, dtype]


class Restore:
    """Turns outputs (n, M) trained on standardised targets back into the units of the data, z * std + mean, float64.

    `normalization` None returns them as they are.
    """

    def __init__(self, normalization: Normalization | None) -> None:
        self.normalization = normalization

    def __call__(self, outputs: Tensor) -> Tensor:
        """Return outputs in the units of the targets; float64 (float32 on a device without it)."""
        if self.normalization is None:
            return outputs
        wide = torch.float32 if outputs.device.type == "mps" else torch.float64
        parts = self.normalization.mean, self.normalization.std
        mean, std = (torch.tensor(part, dtype=wide, device=outputs.device) for part in parts)
        return outputs.to(wide) * std + mean


def _extremes(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest number of each channel, float64 (C,)."""
    pairs = [(rows.amin(1), rows.amax(1)) for rows in (_rows(inputs, start) for start in _starts(inputs))]
    lows, highs = zip(*pairs, strict=True)
    return torch.stack(lows).amin(0), torch.stack(highs).amax(0)


def _starts(inputs: Tensor) -> range:
    return range(0, len(inputs), _block_rows(inputs))


def _block_rows(inputs: Tensor) -> int:
    return max(1, _BLOCK // inputs[:1].numel())


def _rows(inputs: Tensor, start: int) -> Tensor:
    """Return a block of rows as float64 (C, numbers)."""
    rows = inputs[start : start + _block_rows(inputs)]
    return rows.reshape(len(rows), inputs.shape[1], -1).transpose(0, 1).reshape(inputs.shape[1], -1).double()
