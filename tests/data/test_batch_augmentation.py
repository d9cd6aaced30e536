"""Batch augmentation: seeded, batched, and honest about donors."""

import numpy as np
import pytest
import torch
from scipy import stats

from subsetopt.data.batch_augmentation import AUGMENTATIONS, beta, flip_half, make_augmentation, shift_and_crop
from subsetopt.errors import SettingError

NAMES = [entry.name for entry in AUGMENTATIONS]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=32, channels=3, side=16):
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator(1))


def standardise(x):
    return (x.float() - 120) / 60


@pytest.mark.parametrize("name", NAMES)
def test_same_generator_state_gives_the_same_batch_and_the_global_one_is_untouched(name):
    augmentation = make_augmentation(name, (3, 16, 16))
    before = torch.get_rng_state()
    first, second, other = (augmentation(images(), standardise, generator(s)).inputs for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.shape == (32, 3, 16, 16)
    assert first.dtype == torch.float32


@pytest.mark.parametrize("channels", [2, 4])
def test_randaugment_refuses_other_numbers_of_channels_before_any_work(channels):
    with pytest.raises(SettingError, match="needs grey or colour images"):
        make_augmentation("randaugment", (channels, 16, 16))


def test_shift_equals_zero_padded_numpy_roll():
    batch = images(64, 1, 9)
    moved = shift_and_crop(batch, 2, generator())
    padded = np.pad(batch.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    seen = set()
    for index in range(64):
        offsets = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(padded[index, 0, y : y + 9, x : x + 9], moved[index, 0].numpy())
        ]
        assert len(offsets) == 1
        seen.add(offsets[0])
    assert len(seen) > 15


def test_half_of_the_images_are_mirrored():
    batch = images(1000, 1, 4)
    flipped = (flip_half(batch, generator()) != batch).flatten(1).any(1)
    assert stats.binomtest(int(flipped.sum()), 1000, 0.5).pvalue > 1e-3


def test_beta_draws_follow_the_distribution():
    draws = beta(0.3, 4000, generator()).numpy()
    assert stats.kstest(draws, stats.beta(0.3, 0.3).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", ["mixup", "ricap"])
def test_donors_and_shares_reproduce_the_mixture(name):
    """With constant images the mean pixel of a mixture is the share-weighted mean of its donors' pixels."""
    levels = torch.arange(20, dtype=torch.uint8) * 10
    constant = levels[:, None, None, None].expand(20, 1, 33, 33).contiguous()
    augmentation = make_augmentation(name, (1, 33, 33))
    for seed in range(20):
        # the shift lets zeros in, so look at it without: the inner third of mixup, and unshifted ricap
        mixed = augmentation(
            constant,
            lambda x: torch.ones_like(x, dtype=torch.float64) * levels.double()[:, None, None, None],
            generator(seed),
        )
        assert torch.allclose(mixed.shares.sum(1), torch.ones(20, dtype=mixed.shares.dtype))
        expected = (mixed.shares.double() * levels.double()[mixed.donors]).sum(1)
        assert torch.allclose(mixed.inputs.mean((1, 2, 3)).double(), expected, atol=1e-6)


def test_cutout_zeroes_at_most_a_quarter_and_something_everywhere():
    cut = make_augmentation("cutout", (3, 16, 16))(images(200), lambda x: x.float() + 1, generator()).inputs
    zeros = (cut == 0).all(1).float().mean((1, 2))
    assert float(zeros.max()) == pytest.approx(0.25)
    assert float(zeros.min()) >= 1 / 16


def test_vectors_are_refused_in_one_line():
    with pytest.raises(SettingError, match="needs images"):
        make_augmentation("mixup", (20,))
    with pytest.raises(SettingError, match="did you mean 'mixup'"):
        make_augmentation("mixupp", (3, 8, 8))
    assert make_augmentation("none", (20,)) is None
