"""Fingerprints of data sets: what changes them, what does not, and the same value for good."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.data.digest import data_digest, dataset_digest, split_digests


def some_data(**changes: object) -> Dataset:
    x, y = torch.arange(60.0).view(20, 3), torch.arange(20) % 4
    return replace(dataset_from_arrays(x, y, x[:5] + 1, y[:5], validation_fraction=0.2), **changes)


def test_equal_content_has_an_equal_digest_wherever_the_tensors_lie_and_however_they_are_strided() -> None:
    data = some_data()
    train = replace(data.train, inputs=data.train.inputs.t().contiguous().t(), rows=data.train.rows + 7)
    assert not train.inputs.is_contiguous()
    assert dataset_digest(replace(data, train=train, name="renamed")) == dataset_digest(data)


def test_a_tensor_is_hashed_as_dtype_shape_and_its_bytes_in_row_order() -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    expected = hashlib.sha256(b"torch.float32 (4, 3)" + array.tobytes()).hexdigest()
    assert data_digest(torch.from_numpy(array)) == expected
    assert data_digest(torch.from_numpy(np.asfortranarray(array))) == expected


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("what", ["inputs", "targets"])
def test_one_number_changed_anywhere_changes_the_digest_and_names_the_split(split: str, what: str) -> None:
    data = some_data()
    part = getattr(data, split)
    changed_tensor = getattr(part, what).clone()
    changed_tensor.view(-1)[-1] += 1
    changed = replace(data, **{split: replace(part, **{what: changed_tensor})})
    assert dataset_digest(changed) != dataset_digest(data)
    before, after = split_digests(data), split_digests(changed)
    assert [name for name in before if before[name] != after[name]] == [split]


def test_dtype_shape_class_names_order_of_rows_and_a_missing_split_count() -> None:
    data = some_data()
    train = data.train
    variants = [
        data,
        replace(data, train=replace(train, inputs=train.inputs.double())),
        replace(data, train=replace(train, inputs=train.inputs.flip(0))),
        replace(data, train=replace(train, inputs=train.inputs.reshape(len(train), 3, 1))),
        replace(data, class_names=("a", "b")),
        replace(data, class_names=("ab",)),
        replace(data, validation=None),
        replace(data, validation=data.test, test=data.validation),
    ]
    seen = {dataset_digest(variant) for variant in variants}
    assert len(seen) == len(variants)


def test_large_tensors_are_sampled_with_their_first_and_last_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subsetopt.data.digest.WHOLE_BYTES", 1000)
    monkeypatch.setattr("subsetopt.data.digest._SAMPLE_BYTES", 16)
    tensor = torch.zeros(5000, 2)
    whole = data_digest(tensor)
    for row in (0, 1, 4999, round(4998 / 63)):
        changed = tensor.clone()
        changed[row, 1] = 1
        assert data_digest(changed) != whole, row
    assert data_digest(torch.zeros(5001, 2)) != whole


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.bool, torch.bfloat16, torch.int64, torch.float64, torch.complex64]
)
def test_any_dtype_and_no_rows_and_nested_inputs(dtype: torch.dtype) -> None:
    tensor = torch.ones(3, 2, dtype=dtype)
    digests = {data_digest(item) for item in (tensor, tensor[:0], (tensor, tensor), {"a": tensor}, {"b": tensor})}
    assert len(digests) == 5
