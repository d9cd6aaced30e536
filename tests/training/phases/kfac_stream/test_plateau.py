"""The factor of the rate against sequences of losses."""

from __future__ import annotations

import pytest

from subsetopt.training.phases.kfac_stream.plateau import BLOCK, FALL, Plateau


def after(losses: list[float], followed: bool = True, known: bool = True) -> Plateau:
    plateau = Plateau(known=known)
    for loss in losses:
        plateau.take(loss, followed)
    return plateau


def test_the_rate_stays_while_the_mean_loss_of_blocks_falls():
    falling = [2.0 - 0.01 * step + 0.3 * (-1) ** step for step in range(10 * BLOCK)]
    assert after(falling).factor == 1.0


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_each_block_that_is_not_below_the_one_before_lowers_the_rate(blocks):
    assert after([1.0] * BLOCK * blocks).factor == pytest.approx(FALL ** (blocks - 1))
    assert after([1.0] * (BLOCK * blocks + BLOCK - 1)).factor == pytest.approx(FALL ** (blocks - 1))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_loss_is_nothing_to_it(scale):
    losses = [(step * 37 % 11) / 11 + 1 for step in range(12 * BLOCK)]
    assert after([scale * loss for loss in losses]).factor == after(losses).factor < 1.0


def test_it_is_left_alone_without_measurements_and_in_streams_of_earlier_versions():
    for plateau in (after([1.0] * 5 * BLOCK, followed=False), after([1.0] * 5 * BLOCK, known=False)):
        assert plateau.factor == 1.0
