"""Augmented copies against shifting and mirroring by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from subsetopt.data import augmented_copies

GOLDEN_ROW = [0, 16, 17, 18, 19, 20, 21, 22]
GREY = torch.randint(1, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
COLOUR = torch.randint(1, 256, (40, 3, 16, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def _shifted(image: Tensor, dy: int, dx: int) -> Tensor:
    """Move by slicing: out[y, x] = image[y + dy, x + dx], zero outside."""
    _, height, width = image.shape
    out = torch.zeros_like(image)
    to_y, to_x = slice(max(0, -dy), min(height, height - dy)), slice(max(0, -dx), min(width, width - dx))
    from_y, from_x = slice(max(0, dy), min(height, height + dy)), slice(max(0, dx), min(width, width + dx))
    out[:, to_y, to_x] = image[:, from_y, from_x]
    return out


def _origins(copy: Tensor, image: Tensor, reach_y: int, reach_x: int) -> list[tuple[int, int, bool]]:
    """Return every (dy, dx, mirrored) that makes `copy` of `image`."""
    return [
        (dy, dx, mirrored)
        for dy in range(-reach_y, reach_y + 1)
        for dx in range(-reach_x, reach_x + 1)
        for mirrored in (False, True)
        if torch.equal(_shifted(image, dy, dx).flip(2) if mirrored else _shifted(image, dy, dx), copy)
    ]


@pytest.mark.parametrize(("images", "reach_y", "reach_x"), [(GREY, 1, 1), (COLOUR, 2, 3)])
def test_every_copy_is_its_image_shifted_by_at_most_an_eighth(images: Tensor, reach_y: int, reach_x: int) -> None:
    copies = augmented_copies(images, 4, seed=3)
    assert copies.shape == (160, *images.shape[1:]) and copies.dtype == torch.uint8
    found = [_origins(copies[row], images[row % 40], reach_y, reach_x) for row in range(160)]
    assert all(len(origin) == 1 for origin in found)
    moves = {origin[0][:2] for origin in found}
    assert (0, 0) not in moves and len(moves) >= (2 * reach_y + 1) * (2 * reach_x + 1) - 1 - (reach_x > 1) * 8
    mirrored = sum(origin[0][2] for origin in found)
    assert mirrored == 0 if images is GREY else 50 <= mirrored <= 110


def test_copies_are_fixed_by_the_seed_and_nested_in_their_number() -> None:
    two, three = augmented_copies(GREY, 2, seed=1), augmented_copies(GREY, 3, seed=1)
    assert torch.equal(two, three[:80]) and not torch.equal(three[:40], three[40:80])
    assert not torch.equal(two, augmented_copies(GREY, 2, seed=2))
    assert augmented_copies(GREY, 0, seed=1).shape == (0, 1, 8, 8)


def test_golden_copy_of_seed_0() -> None:
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    assert augmented_copies(image, 1, seed=0)[0, 0, 3].tolist() == GOLDEN_ROW


def test_kinds_choose_the_mirror_and_global_generators_are_left_alone() -> None:
    state = torch.get_rng_state()
    plain = augmented_copies(COLOUR, 1, seed=0, kind="shift")
    assert all(not _origins(plain[row], COLOUR[row], 2, 3)[0][2] for row in range(40))
    mirrored = augmented_copies(GREY, 1, seed=0, kind="shift-flip")
    assert 8 <= sum(_origins(mirrored[row], GREY[row], 1, 1)[0][2] for row in range(40)) <= 32
    assert torch.equal(state, torch.get_rng_state())


def test_28_and_32_pixels_reach_3_and_4() -> None:
    for side, reach in ((28, 3), (32, 4)):
        image = torch.zeros(500, 1, side, side)
        image[:, 0, side // 2, side // 2] = 1
        place = torch.nonzero(augmented_copies(image, 1, seed=0))[:, 2:] - side // 2
        assert (int(place.min()), int(place.max())) == (-reach, reach)


def test_mistakes_name_the_setting(message) -> None:
    assert "augment_copies = 1: needs images (C, H, W), the inputs have shape (5,)" in message(
        augmented_copies, torch.zeros(3, 5), 1, seed=0
    )
    assert message(augmented_copies, GREY, -1, seed=0).startswith("augment_copies = -1")
    assert "did you mean 'shift'" in message(augmented_copies, GREY, 1, seed=0, kind="shfit")
