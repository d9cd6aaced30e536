"""Random augmentation of mini-batches: batched, on the device, and drawn from a generator that the caller keeps.

Only first-order training uses these; validation, test and deterministic objectives never do. Geometric ones work on the
stored images, mixing ones on the model inputs, after standardisation. A mixing augmentation says which rows were mixed
in which shares, so that the loss and every sampler can credit each donor in proportion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from subsetopt.devices import moved
from subsetopt.errors import SettingError
from subsetopt.inputs import Inputs
from subsetopt.registry import Registry


class Augmented(NamedTuple):
    """Augmented model inputs `(b, C, H, W)`; for mixing ones the donors, positions in the batch `(b, d)`, and shares.

    `shares` `(b, d)` are non-negative and sum to 1 in each row. Both are None where every row is its own donor.
    """

    inputs: Inputs
    donors: Tensor | None = None
    shares: Tensor | None = None


class Augmentation(Protocol):
    """Turns stored images `(b, C, H, W)` into model inputs; `preprocess` casts and standardises."""

    def __call__(self, images: Tensor, preprocess: Callable[[Tensor], Tensor], generator: torch.Generator) -> Augmented:
        """Augment one batch; `generator` is a CPU generator whatever the device of the images."""


AUGMENTATIONS: Registry[type[Augmentation]] = Registry("augmentation", "subsetopt.data")


def make_augmentation(name: str, in_shape: tuple[int, ...] | dict[str, tuple[int, ...]]) -> Augmentation | None:
    """Return the augmentation of that name, None for `none`; raises `SettingError` where the inputs are no images."""
    if name == "none":
        return None
    kind = AUGMENTATIONS.get(name)
    if isinstance(in_shape, dict) or len(in_shape) != 3:
        raise SettingError("augmentation", name, f"needs images, the inputs have shape {in_shape}", "use none")
    if name == "randaugment" and in_shape[0] not in (1, 3):
        raise SettingError("augmentation", name, f"needs grey or colour images, these are {in_shape}", "use standard")
    return kind()


def shift_and_crop(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Return each image moved by up to `pad` pixels along both axes, zeros coming in (pad, then random crop)."""
    count, _, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad))
    offsets = moved(torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator), images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    every = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def flip_half(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images, each mirrored left to right with probability one half."""
    flips = moved(torch.rand(len(images), generator=generator) < 0.5, images.device)
    return torch.where(flips[:, None, None, None], images.flip(-1), images)


def beta(concentration: float, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` draws of Beta(a, a) by inversion, shape (count,), float64 on the CPU."""
    from scipy.special import betaincinv  # here: few runs augment, and all would import it

    uniform = torch.rand(count, dtype=torch.float64, generator=generator)
    return torch.from_numpy(betaincinv(concentration, concentration, uniform.numpy()))


@AUGMENTATIONS.register("standard", "shift by up to an eighth of the side; colour images are mirrored too")
@dataclass(frozen=True)
class Standard:
    """Pad and crop, and for colour images a horizontal flip (He et al. 2016, section 4.2)."""

    def __call__(self, images: Tensor, preprocess: Callable[[Tensor], Tensor], generator: torch.Generator) -> Augmented:
        """Shift, flip, standardise."""
        return Augmented(preprocess(shifted_and_flipped(images, generator)))


@AUGMENTATIONS.register("cutout", "standard, then a square of half the side set to the mean")
@dataclass(frozen=True)
class Cutout:
    """Zero a square of the standardised image, centred anywhere (DeVries and Taylor 2017)."""

    def __call__(self, images: Tensor, preprocess: Callable[[Tensor], Tensor], generator: torch.Generator) -> Augmented:
        """Shift, flip, standardise, cut."""
        inputs = preprocess(shifted_and_flipped(images, generator))
        count, _, height, width = inputs.shape
        reach = min(height, width) // 4
        inside = torch.ones(count, height, width, dtype=torch.bool, device=inputs.device)
        for axis, side in ((1, height), (2, width)):
            centre = moved(torch.randint(0, side, (count, 1), generator=generator), inputs.device)
            along = torch.arange(side, device=inputs.device)
            near = (along >= centre - reach) & (along < centre + reach)
            inside &= near[:, :, None] if axis == 1 else near[:, None, :]
        return Augmented(inputs.masked_fill(inside[:, None], 0.0))


@AUGMENTATIONS.register("mixup", "standard, then pairs of images averaged with Beta(0.3, 0.3) shares")
@dataclass(frozen=True)
class Mixup:
    """Convex combinations of two images and their losses (Zhang et al. 2018), alpha as in Arazo et al. 2021."""

    alpha: float = 0.3

    def __call__(self, images: Tensor, preprocess: Callable[[Tensor], Tensor], generator: torch.Generator) -> Augmented:
        """Shift, flip, standardise, mix."""
        inputs = preprocess(shifted_and_flipped(images, generator))
        count = len(inputs)
        share = moved(beta(self.alpha, 1, generator), inputs.device, inputs.dtype)
        partner = moved(torch.randperm(count, generator=generator), inputs.device)
        donors = torch.stack([torch.arange(count, device=inputs.device), partner], dim=1)
        shares = torch.cat([share, 1 - share]).expand(count, 2)
        return Augmented(share * inputs + (1 - share) * inputs[partner], donors, shares)


@AUGMENTATIONS.register("ricap", "standard, then patches of four images put together, Beta(0.3, 0.3) boundaries")
@dataclass(frozen=True)
class Ricap:
    """Random image cropping and patching (Takahashi et al. 2018); shares are the patches' areas."""

    concentration: float = 0.3

    def __call__(self, images: Tensor, preprocess: Callable[[Tensor], Tensor], generator: torch.Generator) -> Augmented:
        """Shift, flip, standardise, patch."""
        inputs = preprocess(shifted_and_flipped(images, generator))
        count, _, height, width = inputs.shape
        across, down = beta(self.concentration, 2, generator).tolist()
        left, top = round(across * width), round(down * height)
        patched, donors, shares = torch.empty_like(inputs), [], []
        for y, x, tall, wide in _quarters(top, left, height, width):
            donor = moved(torch.randperm(count, generator=generator), inputs.device)
            row = int(torch.randint(0, height - tall + 1, (), generator=generator))
            column = int(torch.randint(0, width - wide + 1, (), generator=generator))
            patched[:, :, y : y + tall, x : x + wide] = inputs[donor, :, row : row + tall, column : column + wide]
            donors.append(donor)
            shares.append(tall * wide / (height * width))
        share = moved(torch.tensor(shares, device="cpu"), inputs.device, inputs.dtype).expand(count, 4)
        return Augmented(patched, torch.stack(donors, dim=1), share)


def shifted_and_flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images moved by up to an eighth of the side, colour ones mirrored half of the time."""
    shifted = shift_and_crop(images, max(1, round(min(images.shape[-2:]) / 8)), generator)
    return flip_half(shifted, generator) if images.shape[1] == 3 else shifted


def _quarters(top: int, left: int, height: int, width: int) -> list[tuple[int, int, int, int]]:
    rows, columns = ((0, top), (top, height - top)), ((0, left), (left, width - left))
    return [(y, x, tall, wide) for y, tall in rows for x, wide in columns]
