"""Statistics of columns of any size, against extended arithmetic; targets standardised and restored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from subsetopt.data import Preprocess, Restore, dataset_from_arrays, standardised_targets
from subsetopt.data.normalization import measure

RNG = np.random.default_rng(3)
BASE = RNG.normal(size=500)


@pytest.mark.parametrize("power", [-300, -12, 0, 12, 300])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_units_and_offsets_cost_no_digits(power: int, offset: float) -> None:
    column = 10.0**power * (BASE + offset)
    found = measure(torch.from_numpy(column[:, None]))
    exact = column.astype(np.longdouble) / 10.0**power  # in units in which squares neither overflow nor vanish
    assert found.std[0] == pytest.approx(float(exact.std()) * 10.0**power, rel=1e-9)
    assert found.mean[0] == pytest.approx(float(exact.mean()) * 10.0**power, rel=1e-14, abs=1e-14 * 10.0**power)
    seen = Preprocess(found, torch.float32)(torch.from_numpy(column[:, None]))
    np.testing.assert_allclose(seen[:, 0].numpy(), (BASE - BASE.mean()) / BASE.std(), rtol=1e-5, atol=1e-6)


def test_float32_with_an_offset_keeps_the_digits_that_it_has() -> None:
    """The mean 123456.78 is no float32: rounded to one, every standardised value would be shifted alike."""
    column = torch.from_numpy((123456.78 + BASE).astype(np.float32))[:, None]
    found = measure(column)
    wanted = (column.double() - found.mean[0]) / found.std[0]
    seen = Preprocess(found, torch.float32)(column).double()
    assert float((seen - wanted).abs().max()) < 1e-6 < abs(float(np.float32(found.mean[0])) - found.mean[0])


def test_integers_beyond_eight_bits_are_centred_before_they_are_cast() -> None:
    column = torch.arange(2**40, 2**40 + 100)[:, None]
    seen = Preprocess(measure(column), torch.float32)(column)
    plain = np.arange(100.0)
    np.testing.assert_allclose(seen[:, 0].numpy(), (plain - plain.mean()) / plain.std(), atol=1e-6)


def test_a_constant_has_its_own_size_for_unit_and_a_zero_has_one() -> None:
    found = measure(torch.tensor([[0.1, 0.0, -1e-20, 5e8]]).repeat(7, 1))
    assert found.std == pytest.approx((np.float32(0.1), 1.0, np.float32(1e-20), 5e8), rel=1e-7)
    assert measure(torch.tensor([[3.0]])).mean == (3.0,), "one row"


def test_blocks_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(RNG.integers(0, 256, (37, 3, 4, 5), np.uint8))
    whole = measure(images)
    monkeypatch.setattr("subsetopt.data.normalization._BLOCK", 130)
    pieces = measure(images)
    assert pieces.mean == pytest.approx(whole.mean, rel=1e-14) and pieces.std == pytest.approx(whole.std, rel=1e-14)
    assert whole.std == pytest.approx(images.double().std((0, 2, 3), correction=0).tolist(), rel=1e-12)


def test_targets_are_standardised_by_the_training_split_and_restored() -> None:
    y = 1e9 + np.stack([BASE * 1e3, BASE**2], axis=1)
    data = dataset_from_arrays(BASE[:, None], y, BASE[:9, None], y[:9], validation_fraction=0.3)
    trained = standardised_targets(data)
    kept = y[data.train.rows.numpy()]
    np.testing.assert_allclose(trained.train.targets.numpy(), (kept - kept.mean(0)) / kept.std(0), atol=1e-6)
    assert trained.test is not None and data.test is not None
    restored = Restore(data.target_normalization)(trained.test.targets.float())
    np.testing.assert_allclose(restored.numpy(), y[:9], rtol=1e-6 * 1e3 / 1e9)
    assert torch.equal(data.test.targets, torch.from_numpy(y[:9])), "the data set itself keeps its units"


def test_none_changes_nothing_and_classes_have_no_scale() -> None:
    raw = dataset_from_arrays(BASE[:, None], BASE, normalize="none")
    assert raw.normalization is None and raw.target_normalization is None and standardised_targets(raw) is raw
    outputs = torch.ones(2, 1)
    assert Restore(None)(outputs) is outputs
    assert dataset_from_arrays(BASE[:, None], np.arange(500) % 2).target_normalization is None


def test_tokens_become_the_integers_that_an_embedding_takes_and_the_name_tells() -> None:
    keep = Preprocess(None, torch.float32, embedded=True)
    assert keep(torch.tensor([[3]], dtype=torch.uint8)).dtype == torch.int64
    assert repr(keep) != repr(Preprocess(None, torch.float32)), "another function of the same bits"


def test_normalization_of_a_split_is_that_of_the_training_rows_alone() -> None:
    data = dataset_from_arrays(BASE[:, None], BASE, 1e6 + BASE[:5, None], BASE[:5], validation_fraction=0)
    assert data.normalization is not None and data.normalization.mean[0] == pytest.approx(BASE.mean(), abs=1e-12)
