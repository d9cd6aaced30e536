"""A user's own file: read as it is, refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from subsetopt.data import load_dataset, npz
from subsetopt.data.catalog import Query

X, Y = np.arange(40.0).reshape(20, 2), np.arange(20) % 4


def _save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_a_file_is_standardised_unless_it_is_to_be_fed_as_it_is(tmp_path: Path) -> None:
    path = _save(tmp_path / "mine.npz", x_train=X, y_train=Y * 2, x_test=X[:3], y_test=Y[:3])
    data = load_dataset("npz", data_file=path, validation_fraction=0, normalize="none")
    assert (data.name, data.task, data.n_outputs, data.in_shape, data.normalization) == (
        "npz",
        "classification",
        7,
        (2,),
        None,
    )
    assert torch.equal(data.train.inputs, torch.from_numpy(X)) and data.test is not None and len(data.test) == 3
    standard = load_dataset("npz", data_file=str(path), validation_fraction=0)
    np.testing.assert_allclose(standard.normalization.mean, X.mean(0))


def test_floating_targets_mean_regression_and_a_test_split_is_optional(tmp_path: Path) -> None:
    data = load_dataset("npz", data_file=_save(tmp_path / "mine.npz", x_train=X, y_train=X[:, :1]))
    assert (data.task, data.n_outputs, data.test) == ("regression", 1, None)


@pytest.mark.parametrize("missing", ["x_train", "y_train", "x_test", "y_test"])
def test_a_missing_array_is_named(tmp_path: Path, message, missing: str) -> None:
    arrays = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}
    del arrays[missing]
    text = message(load_dataset, "npz", data_file=_save(tmp_path / "mine.npz", **arrays))
    assert "mine.npz" in text and f"has no array {missing}" in text and "numpy.savez" in text


def test_object_arrays_are_never_unpickled(tmp_path: Path, message) -> None:
    path = _save(tmp_path / "mine.npz", x_train=np.array([[1, None]] * 3, dtype=object), y_train=Y[:3])
    assert "x_train holds Python objects" in message(load_dataset, "npz", data_file=path)


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:100], lambda raw: b"", lambda raw: b"text", lambda raw: raw[:200] + b"\xff" * 40 + raw[240:]],
)
def test_damaged_files_are_one_line(tmp_path: Path, message, damage) -> None:
    path = _save(tmp_path / "mine.npz", x_train=X, y_train=Y)
    path.write_bytes(damage(path.read_bytes()))
    text = message(load_dataset, "npz", data_file=path)
    assert "mine.npz" in text and "numpy.savez" in text


def test_a_missing_file_or_setting_or_another_format_is_named(tmp_path: Path, message) -> None:
    assert "--data-file FILE.npz" in message(load_dataset, "npz")
    assert "no such file" in message(load_dataset, "npz", data_file=tmp_path / "none.npz")
    assert "no such file" in message(load_dataset, "npz", data_file=tmp_path)
    np.save(tmp_path / "single.npy", X)
    assert "single array" in message(load_dataset, "npz", data_file=tmp_path / "single.npy")


def test_large_arrays_stay_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MAPPED_BYTES", 1000)
    x, y = np.random.default_rng(0).normal(size=(100, 4)), np.arange(100) % 3
    for order, save in (("C", np.savez), ("F", np.savez), ("C", np.savez_compressed)):
        save(tmp_path / "big.npz", x_train=np.asarray(x, order=order), y_train=y.astype(np.uint8))
        raw = npz.read_npz(Query(data_file=tmp_path / "big.npz")).train
        np.testing.assert_array_equal(raw.inputs, x)
        assert isinstance(raw.inputs, np.memmap) == (save is np.savez)
        assert not isinstance(raw.targets, np.memmap), "small"
        data = load_dataset("npz", data_file=tmp_path / "big.npz", validation_fraction=0.0)
        assert torch.equal(data.train.inputs, torch.from_numpy(x))
        data.train.inputs[0] = 7.0
        np.testing.assert_array_equal(np.load(tmp_path / "big.npz")["x_train"], x, "the file is never written")
