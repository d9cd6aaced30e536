"""From raw splits to a data set: the validation split, and normalisation against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from subsetopt.data import Preprocess, dataset_from_arrays

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype(np.float32)
Y = np.arange(60) % 3


def test_the_validation_split_is_stratified_disjoint_and_keeps_publisher_rows() -> None:
    data = dataset_from_arrays(X, Y, validation_fraction=0.2, seed=4)
    assert data.validation is not None and data.test is None
    assert torch.bincount(data.validation.targets).tolist() == [4, 4, 4]
    rows = torch.cat([data.train.rows, data.validation.rows])
    assert torch.equal(rows.sort().values, torch.arange(60))
    for split in (data.train, data.validation):
        assert np.array_equal(split.inputs.numpy(), X[split.rows]) and np.array_equal(split.targets, Y[split.rows])


def test_the_validation_split_follows_the_seed_and_only_the_seed() -> None:
    first, again, other = (dataset_from_arrays(X, Y, seed=seed).train.rows for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.tolist() != dataset_from_arrays(X, Y + 0.0, seed=0).train.rows.tolist()  # regression: no strata


def test_carving_never_takes_the_last_sample_of_a_class() -> None:
    labels = np.array([0] * 40 + [1, 2, 3])
    for seed in range(40):
        data = dataset_from_arrays(X[:43], labels, validation_fraction=0.5, seed=seed)
        assert len(data.train.targets.unique()) == 4


@pytest.mark.parametrize("shape", [(50, 3, 4, 4), (50, 3)])
def test_standardisation_is_that_of_numpy_over_the_training_split(shape: tuple[int, ...]) -> None:
    images = RNG.integers(0, 256, shape, np.uint8)
    data = dataset_from_arrays(images, Y[:50], normalize="standard")
    axes = tuple(axis for axis in range(len(shape)) if axis != 1)
    train = images[data.train.rows].astype(np.float64)
    mean, std = train.mean(axes, keepdims=True), train.std(axes, keepdims=True)
    assert data.normalization is not None and data.train.inputs.dtype == torch.uint8
    np.testing.assert_allclose(data.normalization.mean, mean.ravel(), rtol=1e-13)
    np.testing.assert_allclose(data.normalization.std, std.ravel(), rtol=1e-13)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        seen = Preprocess(data.normalization, dtype)(data.train.inputs)
        assert seen.dtype == dtype and seen.shape == train.shape
        np.testing.assert_allclose(seen.numpy(), (train - mean) / std, atol=tolerance)


def test_constant_features_become_zero_whatever_their_value() -> None:
    """The float64 mean of equal numbers is often not that number: the deviation is then 1e-16 of it, not 0."""
    x = np.tile(RNG.uniform(-1, 1, 200) * 10.0 ** RNG.integers(-20, 20, 200), (57, 1))
    x[:, 0] = 0
    data = dataset_from_arrays(x, np.arange(57) % 3, normalize="standard", validation_fraction=0)
    assert (x.std(0) > 0).any() and data.normalization is not None
    np.testing.assert_allclose(data.normalization.std, np.where(x[0] == 0, 1.0, np.abs(x[0])), rtol=1e-14)
    seen = Preprocess(data.normalization, torch.float64)(data.train.inputs)
    assert bool((seen.abs() <= 1e-12).all())


def test_preprocess_without_statistics_only_casts_and_is_named_alike_everywhere() -> None:
    cast = Preprocess(None, torch.float64)
    assert (
        cast(torch.tensor([[3]], dtype=torch.uint8)).tolist() == [[3.0]]
        and cast(torch.ones(1, 2)).dtype == torch.float64
    )
    assert repr(cast) == "Preprocess(None, torch.float64)" == repr(Preprocess(None, torch.float64))


def test_high_precision_inputs_are_centred_before_they_are_cast() -> None:
    """Days since 1970 in seconds: float32 has a spacing of 128 there, the deviation is 10."""
    x = 1.7e9 + 10 * RNG.normal(size=(50, 1))
    data = dataset_from_arrays(x, Y[:50], normalize="standard", validation_fraction=0)
    seen = Preprocess(data.normalization, torch.float32)(data.train.inputs)
    np.testing.assert_allclose(seen.numpy(), (x - x.mean()) / x.std(), atol=1e-5)
