"""Chances to be drawn against a brute-force search, and the draw's frequencies against the chances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from subsetopt.data.inclusion import inclusion_probabilities, systematic_draw
from subsetopt.seeding import make_generator


def by_bisection(scores: Tensor, size: int, uniform: float) -> Tensor:
    """p = min(1, kappa s) with sum p = size, kappa found by halving."""
    s = (1 - uniform) * scores.double() / scores.double().sum() + uniform / len(scores)
    low, high = 0.0, 2.0 / float(s.min())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((middle * s).clamp(max=1).sum()) < size else (low, middle)
    return (high * s).clamp(max=1)


@pytest.mark.parametrize("uniform", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("size", [1, 7, 50, 99])
def test_chances_are_those_of_a_search_for_kappa(size: int, uniform: float) -> None:
    scores = torch.randn(100, generator=make_generator(0, "scores"), dtype=torch.float64).exp() ** 3
    found = inclusion_probabilities(scores, size, uniform)
    assert float(found.sum()) == pytest.approx(size, rel=1e-12)
    assert float(found.max()) <= 1.0 and float(found.min()) > 0.0
    assert torch.allclose(found, by_bisection(scores, size, uniform), rtol=1e-9)


def test_extreme_scores_leave_usable_chances() -> None:
    outlier = torch.zeros(50)
    outlier[3] = 1e30
    found = inclusion_probabilities(outlier, 10, 0.1)
    assert float(found[3]) == 1.0 and torch.allclose(found[4:], torch.full((46,), 9 / 49, dtype=torch.float64))
    for same in (torch.zeros(40), torch.full((40,), math.nan), torch.full((40,), 1e-320, dtype=torch.float64)):
        assert torch.allclose(inclusion_probabilities(same, 10, 0.1), torch.full((40,), 0.25, dtype=torch.float64))
    huge = torch.tensor([1e308, 1e308, 1e-300, 0.0], dtype=torch.float64)
    assert float(inclusion_probabilities(huge, 3, 0.1).sum()) == pytest.approx(3)
    assert torch.equal(inclusion_probabilities(torch.rand(5), 5, 0.1), torch.ones(5, dtype=torch.float64))


def test_every_draw_has_its_size_and_rows_come_as_often_as_their_chances_say() -> None:
    scores = torch.arange(1.0, 31.0).square()
    chances = inclusion_probabilities(scores, 12, 0.1)
    generator, draws = make_generator(1, "draws"), 4000
    counts = torch.zeros(30, dtype=torch.float64)
    for _ in range(draws):
        rows = systematic_draw(chances, generator)
        assert len(rows.unique()) == 12 and torch.equal(rows, rows.sort().values)
        counts[rows] += 1
    assert torch.equal(counts[chances == 1.0], torch.full((int((chances == 1.0).sum()),), float(draws)).double())
    open_ = chances < 1.0
    z = (counts - draws * chances)[open_] / (draws * chances * (1 - chances))[open_].sqrt()
    # Counts of one draw are negatively correlated: chi-square of this many degrees of freedom bounds the sum.
    degrees = int(open_.sum())
    assert float(z.square().sum()) < degrees + 4 * math.sqrt(2 * degrees)
    assert float(z.abs().max()) < 4.0


def test_a_draw_depends_on_its_generator_alone() -> None:
    chances = inclusion_probabilities(torch.rand(100, generator=make_generator(0, "s")), 25, 0.1)
    first, again = (systematic_draw(chances, make_generator(5, "draw")) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, systematic_draw(chances, make_generator(6, "draw")))
