"""The statistics against scipy, hand-made tables, and simulations where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from subsetopt.study.statistics import (
    compare_all,
    detectable_difference,
    holm,
    mean_interval,
    paired_p,
    rank_all,
)


def test_the_interval_is_students_as_scipy_has_it() -> None:
    values = [0.91, 0.94, 0.90, 0.95, 0.93]
    reference = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((reference.low, reference.high), rel=1e-12)
    assert mean_interval([0.5]) is None
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_the_paired_p_is_that_of_scipys_ttest_rel() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=6), rng.normal(size=6)
    assert paired_p(list(a - b)) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-12)


def test_differences_without_spread_have_the_p_of_a_sign_flip_test() -> None:
    assert paired_p([0.0, 0.0, 0.0]) == 1.0
    assert paired_p([0.1, 0.1, 0.1]) == 0.25
    assert paired_p([0.1] * 6) == pytest.approx(2 / 2**6)
    assert paired_p([0.1]) is None


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 are 0.02, 0.03, 0.06, 0.04; the last is raised to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_equal_methods_come_out_as_no_difference_in_95_of_100_studies() -> None:
    rng = np.random.default_rng(1)
    studies = 400
    wrong = 0
    for _ in range(studies):
        seeds = rng.normal(size=5)  # shared by the methods, as data splits are
        values = {name: dict(enumerate(seeds + rng.normal(size=5))) for name in "abcd"}
        wrong += any(row.verdict != "no difference" for row in compare_all(values, True))
    # A binomial with p = 0.05 exceeds 0.08 * 400 = 32 with probability 0.005; without Holm about 80 are wrong.
    assert wrong / studies <= 0.08


def test_a_true_difference_is_found_on_both_sides() -> None:
    rng = np.random.default_rng(2)
    seeds = rng.normal(size=5)
    good, bad = ({s: seeds[s] + shift + 0.1 * rng.normal() for s in range(5)} for shift in (2.0, 0.0))
    (pair,) = compare_all({"good": good, "bad": bad}, higher_is_better=True)
    assert pair.verdict == "better" and pair.interval is not None and pair.interval[0] < 2.0 < pair.interval[1]
    assert compare_all({"bad": bad, "good": good}, True)[0].verdict == "worse"
    assert compare_all({"good": good, "bad": bad}, higher_is_better=False)[0].verdict == "worse"


def test_pairs_use_the_seeds_that_both_have() -> None:
    (pair,) = compare_all({"a": {0: 1.0, 1: 2.0, 2: 9.0}, "b": {0: 0.5, 1: 1.4}}, True)
    assert pair.n == 2 and pair.difference == pytest.approx(0.55)
    (lone,) = compare_all({"a": {0: 1.0}, "b": {}}, True)
    assert (lone.difference, lone.p, lone.verdict) == (None, None, "no difference")


def test_ranks_by_hand_and_friedman_as_scipy_has_it() -> None:
    values = {"a": {0: 3.0, 1: 3.0, 2: 3.0}, "b": {0: 2.0, 1: 2.0, 2: 4.0}, "c": {0: 1.0, 1: 2.0, 2: 1.0}}
    ranked = rank_all(values, higher_is_better=True)
    assert ranked is not None
    assert ranked.ranks == pytest.approx({"a": 4 / 3, "b": 5.5 / 3, "c": 8.5 / 3})
    reference = stats.friedmanchisquare(*(list(seeds.values()) for seeds in values.values()))
    assert (ranked.statistic, ranked.p) == pytest.approx((reference.statistic, reference.pvalue))
    two = rank_all({"a": {0: 1.0}, "b": {0: 0.0}}, True)
    assert two is not None and two.p is None


@pytest.mark.parametrize(("n", "comparisons"), [(5, 1), (5, 78), (2, 1), (20, 3)])
def test_the_detectable_difference_is_found_in_four_studies_of_five(n: int, comparisons: int) -> None:
    """Reference: simulation with normal differences whose true mean is the detectable one."""
    rng = np.random.default_rng(n)
    scatter = rng.normal(size=n)
    size = detectable_difference(scatter.tolist(), comparisons)
    assert size is not None
    drawn = size + scatter.std(ddof=1) * rng.normal(size=(20_000, n))
    p = stats.ttest_1samp(drawn, 0.0, axis=1).pvalue
    assert (p < 0.05 / comparisons).mean() == pytest.approx(0.8, abs=0.012)


def test_without_scatter_nothing_is_said_of_power() -> None:
    assert detectable_difference([0.1], 1) is None and detectable_difference([0.1, 0.1, 0.1], 1) is None


def test_a_baseline_makes_fewer_comparisons_and_a_smaller_correction() -> None:
    rng = np.random.default_rng(3)
    values = {name: dict(enumerate(rng.normal(size=5))) for name in "abcd"}
    rows = compare_all(values, True, baseline="b")
    assert [(row.a, row.b) for row in rows] == [("a", "b"), ("c", "b"), ("d", "b")]
    assert [row.p_adjusted for row in rows] == holm([row.p for row in rows if row.p is not None])
    everything = {frozenset((row.a, row.b)): row for row in compare_all(values, True)}
    for row in rows:
        full = everything[frozenset((row.a, row.b))]
        assert row.p == pytest.approx(full.p) and (row.detectable or 0) < (full.detectable or 0)
