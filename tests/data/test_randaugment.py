"""RandAugment beside the Python imaging library, and that every image draws its own operations."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from scipy import stats

from subsetopt.data import randaugment
from subsetopt.data.batch_augmentation import make_augmentation
from subsetopt.errors import SettingError

SHARE = 3.7 / 30  # at 4 a row of sheared pixels falls on the border between two
FACTOR = 0.1 + 1.8 * SHARE
AFFINE = Image.Transform.AFFINE


def natural(count=12, side=24):
    """Smooth colour images with some clipped pixels, some of few colours."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    large = [Image.fromarray(part).resize((side, side), Image.Resampling.BICUBIC) for part in coarse]
    noisy = np.clip(
        np.stack([np.asarray(part) for part in large]) + generator.normal(0, 8, (count, side, side, 3)), 0, 255
    )
    noisy[0] = 77  # one colour
    noisy[1] = np.where(noisy[1] > 120, 200, 3)
    return noisy.astype(np.uint8)


def reference(name, image, sign):
    """Return what the imaging library makes of one image at that strength."""
    width, height = image.size
    solarized = Image.fromarray((np.minimum(np.asarray(image) + 110 * SHARE, 255)).astype(np.uint8))
    return {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "posterize": lambda: ImageOps.posterize(image, 1),
        "solarize": lambda: ImageOps.solarize(image, 256 * SHARE),
        "solarize_add": lambda: ImageOps.solarize(solarized, 128),
        "color": lambda: ImageEnhance.Color(image).enhance(FACTOR),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(FACTOR),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(FACTOR),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(FACTOR),
        "rotate": lambda: image.rotate(sign * 30 * SHARE),
        "shear_x": lambda: image.transform(image.size, AFFINE, (1, sign * 0.3 * SHARE, 0, 0, 1, 0)),
        "shear_y": lambda: image.transform(image.size, AFFINE, (1, 0, 0, sign * 0.3 * SHARE, 1, 0)),
        "translate_x": lambda: image.transform(image.size, AFFINE, (1, 0, sign * 100 * SHARE * width / 32, 0, 1, 0)),
        "translate_y": lambda: image.transform(image.size, AFFINE, (1, 0, 0, 0, 1, sign * 100 * SHARE * height / 32)),
    }[name]()


@pytest.mark.parametrize("operation", randaugment.OPERATIONS[:-1], ids=lambda operation: operation.__name__)
def test_every_operation_is_that_of_the_imaging_library(operation):
    """To one grey level in 255; a pixel on the border between two may fall to the other: 1 % of them at most."""
    batch = natural()
    signs = torch.tensor([1.0, -1.0] * 6)
    inputs = torch.from_numpy(batch).permute(0, 3, 1, 2).float()
    found = operation(inputs.clone(), SHARE, signs, torch.zeros(12, 2)).permute(0, 2, 3, 1).numpy()
    assert (found == np.rint(found)).all() and found.min() >= 0 and found.max() <= 255
    wanted = [
        np.asarray(reference(operation.__name__, Image.fromarray(i), int(s))) for i, s in zip(batch, signs, strict=True)
    ]
    away = np.abs(found - np.stack(wanted).astype(float)) > 1
    assert away.mean() < 0.01, f"{away.mean():.1%} of the pixels differ"


def test_cutout_is_the_rectangle_that_the_imaging_library_draws():
    places = torch.rand(12, 2, generator=torch.Generator().manual_seed(0))
    batch, length = natural(), 40 * SHARE * 24 / 32
    found = randaugment.cutout(torch.from_numpy(batch).permute(0, 3, 1, 2).float(), SHARE, torch.ones(12), places)
    for image, (down, across), changed in zip(batch, places.tolist(), found.permute(0, 2, 3, 1).numpy(), strict=True):
        x, y = (math.floor(max(0.0, place * 24 - length / 2)) for place in (across, down))
        drawn = Image.fromarray(image)
        ImageDraw.Draw(drawn).rectangle((x, y, min(24, x + length), min(24, y + length)), (125, 123, 114))
        assert np.mean(np.asarray(drawn) != changed) < 0.01


def test_every_image_draws_its_own_two_operations(monkeypatch):
    """With operations that each add a bit of their own to a dark image, all pairs come, each as often as by chance."""

    def marking(number):
        return lambda images, share, signs, places: images + 4**number

    monkeypatch.setattr(randaugment, "OPERATIONS", tuple(marking(number) for number in range(3)))
    batch = torch.zeros(900, 1, 4, 4, dtype=torch.uint8)
    marks = make_augmentation("randaugment", (1, 4, 4))(batch, lambda x: x, torch.Generator().manual_seed(0)).inputs
    counts = {pair: int((marks[:, 0, 0, 0] == pair).sum()) for pair in (2, 8, 32, 5, 17, 20)}
    assert sum(counts.values()) == 900
    assert stats.chisquare(list(counts.values()), [100, 100, 100, 200, 200, 200]).pvalue > 1e-3


def test_no_batch_is_darkened_as_a_whole():
    """One pair of operations for a whole batch left every eighth batch nearly black, and no two images differed."""
    batch = torch.from_numpy(natural(64)).permute(0, 3, 1, 2)
    augment = make_augmentation("randaugment", (3, 24, 24))
    means = [
        augment(batch, lambda x: x, torch.Generator().manual_seed(seed)).inputs.mean().item() for seed in range(40)
    ]
    assert min(means) > 0.6 * np.mean(means)


def test_grey_images_are_those_of_three_equal_channels():
    grey = torch.from_numpy(natural()[..., :1]).permute(0, 3, 1, 2).float()
    for operation in randaugment.OPERATIONS[:-1]:
        rest = SHARE, torch.ones(12), torch.zeros(12, 2)
        of_three = operation(grey.expand(-1, 3, -1, -1).clone(), *rest)
        assert (operation(grey.clone(), *rest) - of_three).abs().max() <= 1, operation.__name__


@pytest.mark.parametrize("side", [(1, 1), (2, 5), (3, 3), (33, 8)])
def test_small_and_oblong_images_keep_their_shape_and_range(side):
    batch = torch.randint(0, 256, (50, 3, *side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    changed = make_augmentation("randaugment", (3, *side))(batch, lambda x: x, torch.Generator().manual_seed(2)).inputs
    assert changed.shape == batch.shape
    assert changed.min() >= 0 and changed.max() <= 255 and torch.isfinite(changed).all()


def test_images_that_are_not_bytes_are_refused():
    with pytest.raises(SettingError, match="needs uint8 images"):
        make_augmentation("randaugment", (3, 8, 8))(torch.rand(4, 3, 8, 8), lambda x: x, torch.Generator())
