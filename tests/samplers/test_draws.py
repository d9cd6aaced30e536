"""Draws from a distribution, against its own probabilities and against exhaustive enumeration."""

from itertools import permutations

import pytest
import torch

from subsetopt.samplers.draws import draw_with_replacement, draw_without_replacement, importance_weights
from subsetopt.seeding import make_generator


def test_draws_with_replacement_have_the_given_frequencies():
    """Reference: binomial standard errors around P_i."""
    p = torch.tensor([0.0, 0.1, 0.25, 0.0, 0.6, 0.05, 0.0], dtype=torch.float64)
    n = 200_000
    drawn = torch.bincount(draw_with_replacement(7 * p, n, make_generator(0, "t")), minlength=7).double() / n
    assert ((drawn - p).abs() <= 4 * (p * (1 - p) / n).sqrt()).all()


def test_more_than_two_to_the_24_categories_can_be_drawn():
    """`torch.multinomial` refuses this many."""
    n = 2**24 + 3
    p = torch.zeros(n, dtype=torch.float32)
    p[-2:] = 1.0
    drawn = draw_with_replacement(p, 100, make_generator(0, "t"))
    assert set(drawn.tolist()) == {n - 2, n - 1}


def test_draws_without_replacement_follow_successive_draws():
    """Reference: the probability of each set by enumeration of successive draws proportional to P."""
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    exact: dict[frozenset[int], float] = {}
    for i, j in permutations(range(4), 2):
        exact[frozenset((i, j))] = exact.get(frozenset((i, j)), 0.0) + float(p[i] * p[j] / (1 - p[i]))
    generator, n, seen = make_generator(0, "t"), 20_000, {}
    for _ in range(n):
        indices, _ = draw_without_replacement(p, 2, generator)
        key = frozenset(indices.tolist())
        seen[key] = seen.get(key, 0) + 1
    for key, probability in exact.items():
        assert seen[key] / n == pytest.approx(probability, abs=4 * (probability * (1 - probability) / n) ** 0.5)


def test_order_of_draws_without_replacement_is_random():
    """The largest P must not come first: batches are cut from this order. Reference: uniform position, 1/3 each."""
    p = torch.tensor([0.997, 0.001, 0.001, 0.001], dtype=torch.float64)
    generator, n = make_generator(0, "t"), 4000
    first = sum(int(draw_without_replacement(p, 3, generator)[0][0] == 0) for _ in range(n))
    assert first / n == pytest.approx(1 / 3, abs=4 * (2 / 9 / n) ** 0.5)


@pytest.mark.parametrize("replacement", [False, True])
def test_weighted_sums_are_unbiased(replacement):
    """Reference: the exact total; 4 standard errors of the Monte-Carlo mean."""
    generator = make_generator(3, "t")
    p = torch.rand(40, generator=generator, dtype=torch.float64) ** 3 + 0.01
    p /= p.sum()
    f = torch.randn(40, generator=generator, dtype=torch.float64)
    estimates = torch.empty(20_000, dtype=torch.float64)
    for t in range(len(estimates)):
        if replacement:
            i = draw_with_replacement(p, 12, generator)
            estimates[t] = (importance_weights(p[i], 40) * f[i]).mean() * 40
        else:
            i, inclusion = draw_without_replacement(p, 12, generator)
            estimates[t] = (f[i] / inclusion).sum()
    assert (estimates.mean() - f.sum()).abs() <= 4 * estimates.std() / len(estimates) ** 0.5


def test_drawing_everything_is_a_permutation_with_certain_inclusion():
    indices, inclusion = draw_without_replacement(torch.rand(9), 9, make_generator(0, "t"))
    assert indices.sort().values.tolist() == list(range(9)) and (inclusion == 1).all()
