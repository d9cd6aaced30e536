"""Lazy greedy facility location against plain greedy and against all subsets."""

import math
from itertools import combinations

import pytest
import torch

from subsetopt.samplers.facility_location import facility_location_greedy
from subsetopt.samplers.methods.craig import gradient_similarity


def similarity_of(n, seed, dimension=3):
    points = torch.randn(n, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    distance = torch.cdist(points, points)
    return distance.max() - distance


def value(s, subset):
    return float(s[list(subset)].max(0).values.sum())


def greedy(s, k):
    chosen = []
    for _ in range(k):
        rest = [j for j in range(len(s)) if j not in chosen]
        chosen.append(max(rest, key=lambda j: value(s, [*chosen, j])))
    return chosen


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("probe", [1, 4, 64])
def test_lazy_picks_are_the_plain_greedy_picks_over_all_rows(seed, probe):
    """Peers' sampler fault 5: gains from the first batch only. Reference: every gain evaluated for every pick."""
    s = similarity_of(40, seed)
    facilities = facility_location_greedy(lambda rows: s[rows], 40, 7, probe)
    assert facilities.selected.tolist() == greedy(s, 7)
    assert facilities.value == pytest.approx(value(s, facilities.selected.tolist()))


@pytest.mark.parametrize("seed", range(8))
def test_value_is_within_the_greedy_bound_of_the_optimum(seed):
    """Reference: brute force over all subsets; 1 - 1/e."""
    s = similarity_of(12, seed)
    best = max(value(s, subset) for subset in combinations(range(12), 4))
    facilities = facility_location_greedy(lambda rows: s[rows], 12, 4)
    assert best * (1 - 1 / math.e) <= facilities.value <= best + 1e-9
    single = facility_location_greedy(lambda rows: s[rows], 12, 1)
    assert single.value == pytest.approx(max(value(s, [j]) for j in range(12)))


@pytest.mark.parametrize("seed", range(8))
def test_cluster_sizes_count_the_rows_closest_to_each_pick(seed):
    """Peers' sampler fault 5: weights off by one. Reference: argmax over the picks; sizes sum to n."""
    s = similarity_of(50, seed)
    facilities = facility_location_greedy(lambda rows: s[rows], 50, 6)
    owner = s[facilities.selected].argmax(0)
    assert facilities.sizes.tolist() == torch.bincount(owner, minlength=6).tolist()
    assert facilities.sizes.sum() == 50 and (facilities.sizes >= 1).all()


def test_similarities_are_distances_of_written_out_gradients():
    """Reference: torch.cdist of e [h, 1]^T, and of e where gradients are those of the outputs."""
    generator = torch.Generator().manual_seed(0)
    e, h = torch.randn(30, 3, generator=generator), torch.randn(30, 4, generator=generator)
    g = torch.einsum("nm,nd->nmd", e, torch.cat((h, torch.ones(30, 1)), 1)).flatten(1)
    rows = torch.tensor([3, 0, 29])
    for features, written_out in ((h, g), (None, e)):
        reference = 2 * written_out.norm(dim=1).max() - torch.cdist(written_out, written_out)
        s = gradient_similarity(e, features)(rows)
        torch.testing.assert_close(s, reference[rows], atol=1e-3, rtol=1e-4)
        assert (s >= 0).all()
