"""Subsets against their definition: golden rows, nesting, shares to within one row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subsetopt.data import disjoint, draw, missing_classes, require_all_classes, subset_size
from subsetopt.errors import SettingError

GOLDEN = {
    "plain": [5, 11, 14, 17, 18, 19],
    "seed 1": [6, 7, 8, 13, 14, 18],
    "stratified": [11, 12, 13, 17, 18, 19],
    "replace": [6, 10, 11, 16, 19, 19],
    "stratified replace": [8, 12, 13, 17, 18, 19],
}
_SIZES = st.lists(st.one_of(st.integers(1, 4), st.integers(1, 120)), min_size=1, max_size=12)


def _labels(sizes: list[int]) -> np.ndarray:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(0).permutation(labels)


def test_golden_rows_of_seed_0_on_every_platform_and_numpy() -> None:
    assert draw(20, size=6, seed=0).tolist() == GOLDEN["plain"]
    assert draw(20, size=6, seed=1).tolist() == GOLDEN["seed 1"]
    labels = np.arange(20) % 3
    assert draw(20, size=6, seed=0, stratify=labels).tolist() == GOLDEN["stratified"]
    assert draw(20, size=6, seed=0, replace=True).tolist() == GOLDEN["replace"]
    assert draw(20, size=6, seed=0, stratify=labels, replace=True).tolist() == GOLDEN["stratified replace"]


@given(n=st.integers(1, 300), seed=st.integers(0, 2**40), data=st.data())
@settings(max_examples=60, deadline=None)
def test_subsets_are_sorted_unique_and_nested(n: int, seed: int, data: st.DataObject) -> None:
    small = data.draw(st.integers(1, n))
    large = data.draw(st.integers(small, n))
    first, second = draw(n, size=small, seed=seed), draw(n, size=large, seed=seed)
    assert first.dtype == torch.int64 and len(first) == small
    assert torch.equal(first, first.unique()) and int(first[0]) >= 0 and int(second[-1]) < n
    assert set(first.tolist()) <= set(second.tolist())


@given(sizes=_SIZES, seed=st.integers(0, 2**40), data=st.data())
@settings(max_examples=100, deadline=None)
def test_stratified_subsets_are_nested_and_have_every_share_to_within_one_row(
    sizes: list[int], seed: int, data: st.DataObject
) -> None:
    labels, n = _labels(sizes), sum(sizes)
    size = data.draw(st.integers(len(sizes), n))
    chosen = draw(n, size=size, seed=seed, stratify=labels)
    assert len(chosen.unique()) == size
    share = np.array(sizes) * size / n
    assert np.abs(np.bincount(labels[chosen.numpy()], minlength=len(sizes)) - share).max() < 1
    if size > len(sizes):
        smaller = draw(n, size=size - 1, seed=seed, stratify=torch.from_numpy(labels))
        assert set(smaller.tolist()) < set(chosen.tolist())


def test_every_row_is_equally_likely_with_and_without_strata() -> None:
    """Inclusion frequency K/N = 0.2 within 5 standard errors, over 1500 seeds."""
    sizes = [1, 1, 2, 3, 40, 13]
    labels = _labels(sizes)
    for stratify in (None, labels):
        seen = np.zeros(60)
        for seed in range(1500):
            seen[draw(60, size=12, seed=seed, stratify=stratify).numpy()] += 1
        assert np.abs(seen / 1500 - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 1500)


def test_with_replacement_repeats_nests_as_multisets_and_may_exceed_n() -> None:
    small, large = draw(10, size=8, seed=3, replace=True), draw(10, size=40, seed=3, replace=True)
    assert len(large) == 40 and len(large.unique()) <= 10 and torch.equal(large, large.sort().values)
    counts = [torch.bincount(rows, minlength=10) for rows in (small, large)]
    assert bool((counts[0] <= counts[1]).all())
    labels = np.repeat([0, 1], [8, 2])
    stratified = draw(10, size=40, seed=3, stratify=labels, replace=True)
    assert np.bincount(labels[stratified.numpy()]).tolist() == [32, 8]


def test_disjoint_subsets_share_no_row_and_the_first_is_the_draw() -> None:
    labels = _labels([30, 12, 6])
    parts = disjoint(48, 8, 6, seed=5, stratify=labels)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(48))
    assert torch.equal(parts[0], draw(48, size=8, seed=5, stratify=labels))
    assert all(abs(np.bincount(labels[part.numpy()], minlength=3)[0] - 5) <= 2 for part in parts)


@pytest.mark.parametrize("fraction", [0, 1.5, -0.1, "abc", float("nan"), float("inf"), True])
def test_an_unusable_fraction_is_refused(message, fraction) -> None:
    text = message(draw, 100, fraction=fraction)
    assert text.startswith(f"subset_frac = {fraction!r}") and "subset_frac=0.1" in text


@pytest.mark.parametrize("size", [0, -1, 101, 2.5, "10", True])
def test_an_unusable_size_is_refused(message, size) -> None:
    text = message(draw, 100, size=size)
    assert text.startswith(f"subset_size = {size!r}") and "subset_frac" in text


def test_a_subset_smaller_than_the_classes_is_refused(message) -> None:
    labels = torch.arange(100) % 10
    for text in (
        message(draw, 100, size=9, stratify=labels),
        message(require_all_classes, labels[:9], 10),
    ):
        assert "subset_size = 9" in text and "number of classes, 10" in text and "subset_frac" in text
    require_all_classes(labels[:10], 10)
    assert missing_classes(labels[:8], 10) == [8, 9]


def test_other_mistakes_name_the_setting(message) -> None:
    assert "subset_size" in message(draw, 100)
    assert "subset_size" in message(draw, 100, fraction=0.1, size=10)
    assert "stratify" in message(draw, 100, size=20, stratify=np.zeros(99, int))
    assert "subset_size=33" in message(disjoint, 100, 40, 3)
    with pytest.raises(SettingError):
        draw(0, size=1)


@pytest.mark.parametrize(
    ("n", "fraction", "size"), [(1000, 0.1, 100), (3, 0.1, 1), (25, 0.1, 2), (35, 0.1, 4), (7, 1, 7)]
)
def test_a_fraction_means_the_nearest_size_halves_to_even_but_at_least_one(n, fraction, size) -> None:
    assert subset_size(n, fraction=fraction) == size


def test_the_global_generators_are_left_alone() -> None:
    def states() -> tuple[object, ...]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002 - read, not used

    before = states()
    draw(50, size=10, stratify=np.arange(50) % 2, replace=True)
    assert states() == before


@pytest.mark.parametrize(("n", "classes", "enough"), [(6, 3, 0.5), (30, 5, 0.17), (40, 10, 0.25), (12, 9, 0.75)])
def test_a_share_smaller_than_the_classes_is_named_as_a_share_and_the_remedy_is_enough(n, classes, enough) -> None:
    labels = torch.arange(n) % classes
    with pytest.raises(SettingError, match=rf"subset_frac = 0.1: .* of {n} rows.*use subset_frac={enough}$"):
        draw(n, fraction=0.1, stratify=labels)
    assert len(draw(n, fraction=enough, stratify=labels)) >= classes
