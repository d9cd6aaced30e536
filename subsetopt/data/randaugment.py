"""RandAugment (Cubuk et al. 2020) as the public code of Arazo et al. 2021 applies it: N = 2, M = 4 on a scale to 30.

Every image draws its own two of sixteen operations, with replacement, all at the same strength; rotations, shears and
translations have a random sign. Values are whole numbers from 0 to 255 between operations, as in the Python imaging
library, whose results these are (pixels by nearest neighbour, black beyond the edge). Lengths in pixels are those for
images of 32 and go with the side. At M = 4 of 30 factors are 0.34 (1 changes nothing), so that it is a strong one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from subsetopt.data.batch_augmentation import AUGMENTATIONS, Augmented, shifted_and_flipped
from subsetopt.devices import moved
from subsetopt.errors import SettingError

_SIDE = 32
_FILL = (125.0, 123.0, 114.0)
_GREY_WEIGHTS = (0.299, 0.587, 0.114)
Operation = Callable[[Tensor, float, Tensor, Tensor], Tensor]
"""(images (b, C, H, W) with values 0 to 255, share M / 30, signs (b,), places (b, 2) in [0, 1)) -> images."""


def autocontrast(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Stretch every channel to 0 ... 255."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    stretched = ((images.double() - low) * (255 / (high - low).double().clamp(min=1)) + 1e-9).floor()
    return torch.where(high > low, stretched.to(images.dtype), images)


def equalize(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Give every channel a flat histogram; a channel with too few pixels of other values stays."""
    flat = images.flatten(2).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    brightest = counts.gather(2, flat.amax(2, keepdim=True))
    step = (flat.shape[2] - brightest) // 255
    before = counts.cumsum(2) - counts
    table = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    changed = table.gather(2, flat).to(images.dtype).reshape(images.shape)
    return torch.where(step[..., None] > 0, changed, images)


def invert(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Turn every value v into 255 - v."""
    inverted: Tensor = 255 - images
    return inverted


def posterize(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Keep up to four of the highest bits, at least one."""
    step = 1 << (8 - max(1, int(4 * share)))
    return torch.div(images, step, rounding_mode="floor") * step


def solarize(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Invert the values from a threshold on."""
    return torch.where(images < 256 * share, images, 255 - images)


def solarize_add(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Brighten by up to 110, then invert the values from 128 on."""
    brighter = (images + 110 * share).clamp(max=255).floor()
    return torch.where(brighter < 128, brighter, 255 - brighter)


def color(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Blend with the grey image."""
    return _blend(_grey(images), images, share)


def contrast(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Blend with the mean grey level."""
    return _blend((_grey(images).mean((1, 2, 3), keepdim=True) + 0.5).floor(), images, share)


def brightness(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Blend with black."""
    return _blend(torch.zeros_like(images), images, share)


def sharpness(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Blend with the image smoothed by a 3 x 3 mean that weights the centre fivefold; edges stay."""
    channels, smooth = images.shape[1], images.clone()
    if min(images.shape[2:]) < 3:
        return smooth
    kernel = torch.full((3, 3), 1 / 13, dtype=images.dtype, device=images.device)
    kernel[1, 1] = 5 / 13
    mean = F.conv2d(images, kernel.expand(channels, 1, 3, 3), groups=channels)
    smooth[:, :, 1:-1, 1:-1] = (mean + 0.5).floor()
    return _blend(smooth, images, share)


def rotate(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Turn about the centre by up to 30 degrees."""
    angle = signs * math.radians(30 * share)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    height, width = images.shape[2:]
    across = width / 2 * (1 - cos) + height / 2 * sin
    down = height / 2 * (1 - cos) - width / 2 * sin
    return _affine(images, (cos, -sin, across + zero), (sin, cos, down + zero))


def shear_x(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Shift every row by up to 0.3 of its number."""
    one, zero = torch.ones_like(signs), torch.zeros_like(signs)
    return _affine(images, (one, signs * 0.3 * share, zero), (zero, one, zero))


def shear_y(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Shift every column by up to 0.3 of its number."""
    one, zero = torch.ones_like(signs), torch.zeros_like(signs)
    return _affine(images, (one, zero, zero), (signs * 0.3 * share, one, zero))


def translate_x(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Shift by up to 100 pixels of 32 along rows."""
    one, zero = torch.ones_like(signs), torch.zeros_like(signs)
    return _affine(images, (one, zero, signs * (100 * share * images.shape[3] / _SIDE)), (zero, one, zero))


def translate_y(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Shift by up to 100 pixels of 32 along columns."""
    one, zero = torch.ones_like(signs), torch.zeros_like(signs)
    return _affine(images, (one, zero, zero), (zero, one, signs * (100 * share * images.shape[2] / _SIDE)))


def cutout(images: Tensor, share: float, signs: Tensor, places: Tensor) -> Tensor:
    """Fill a square of up to 40 pixels of 32, its centre anywhere, with the mean colour of natural images."""
    inside = torch.ones(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
    for axis in (1, 2):
        side = images.shape[axis + 1]
        length = 40 * share * side / _SIDE
        first = (places[:, axis - 1 : axis] * side - length / 2).clamp(min=0).floor()
        along = torch.arange(side, device=images.device)
        near = (along >= first) & (along <= first + length)
        inside &= near[:, :, None] if axis == 1 else near[:, None, :]
    fill = images.new_tensor(_FILL if images.shape[1] == 3 else (sum(_FILL) // 3,))[:, None, None]
    return torch.where(inside[:, None], fill, images)


OPERATIONS: tuple[Operation, ...] = (
    *(autocontrast, equalize, invert, posterize, solarize, solarize_add, color, contrast),
    *(brightness, sharpness, rotate, shear_x, shear_y, translate_x, translate_y, cutout),
)


@AUGMENTATIONS.register("randaugment", "standard, then 2 of 16 random operations of magnitude 4 for every image")
@dataclass(frozen=True)
class RandAugment:
    """Two operations of magnitude 4 of 30, drawn for every image (Cubuk et al. 2020; settings of Arazo et al. 2021)."""

    count: int = 2
    magnitude: float = 4

    def __call__(self, images: Tensor, preprocess: Callable[[Tensor], Tensor], generator: torch.Generator) -> Augmented:
        """Shift, flip, two operations on values 0 to 255, standardise; uint8 images only."""
        if images.dtype != torch.uint8:
            raise SettingError("augmentation", "randaugment", "needs uint8 images", "use standard")
        changed = shifted_and_flipped(images, generator).float()
        for _ in range(self.count):
            chosen = torch.randint(len(OPERATIONS), (len(images),), generator=generator)
            signs = 2 * torch.randint(2, (len(images),), generator=generator).float() - 1
            places = torch.rand(len(images), 2, generator=generator)
            for number in chosen.unique().tolist():
                rows = (chosen == number).nonzero().flatten()
                drawn = (moved(part[rows], images.device) for part in (signs, places))
                there = moved(rows, images.device)
                changed[there] = OPERATIONS[number](changed[there], self.magnitude / 30, *drawn)
        return Augmented(preprocess(changed))


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    weights = images.new_tensor(_GREY_WEIGHTS)[:, None, None]
    return ((images * weights).sum(1, keepdim=True) + 0.5).floor()


def _blend(other: Tensor, images: Tensor, share: float) -> Tensor:
    """Return other + (0.1 + 1.8 share) (images - other) as whole numbers from 0 to 255."""
    return (other + (0.1 + 1.8 * share) * (images - other)).clamp(0, 255).floor()


def _affine(images: Tensor, across: tuple[Tensor, ...], down: tuple[Tensor, ...]) -> Tensor:
    """Return the pixels at x' = a x + b y + c, y' = d x + e y + f of each image's coefficients (b,); black outside."""
    count, _, height, width = images.shape
    x = (torch.arange(width, device=images.device) + 0.5)[None, None, :]
    y = (torch.arange(height, device=images.device) + 0.5)[None, :, None]
    a, b, c = (each[:, None, None] for each in across)
    d, e, f = (each[:, None, None] for each in down)
    column, row = (a * x + b * y + c).floor().long(), (d * x + e * y + f).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).reshape(count, 1, -1)
    taken = images.flatten(2).gather(2, place.expand(-1, images.shape[1], -1)).reshape(images.shape)
    return taken * inside[:, None]
