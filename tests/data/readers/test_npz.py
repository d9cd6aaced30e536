"""A user's own file: read as it is, refused in one line."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from subsetopt.data import bounded, load_dataset
from subsetopt.data.catalog import Query
from subsetopt.data.readers import npz

X, Y = np.arange(40.0).reshape(20, 2), np.arange(20) % 4


def _save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_a_file_is_standardised_unless_it_is_to_be_fed_as_it_is(tmp_path: Path) -> None:
    path = _save(tmp_path / "mine.npz", x_train=X, y_train=Y * 2, x_test=X[:3], y_test=Y[:3] * 2)
    data = load_dataset("npz", data_file=path, validation_fraction=0, normalize="none")
    assert (data.name, data.task, data.n_outputs, data.in_shape, data.normalization) == (
        "npz",
        "classification",
        4,
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
    assert "data_file='FILE.npz'" in message(load_dataset, "npz")
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


def _archive(path: Path, header: dict[str, object], content: bytes, name: str = "x_train") -> Path:
    """Write an archive whose x_train has a header of our choice."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", buffer.getvalue() + content)
        y = io.BytesIO()
        np.save(y, Y)
        archive.writestr("y_train.npy", y.getvalue())
    return path


@pytest.mark.parametrize(
    ("descr", "shape"),
    [
        ("<f8", (-20, 2)),
        ("<f8", (20, -2)),
        ("<f8", (10**30, 2)),
        ("<f8", (2**62, 2**62)),
        ("<f8", (20, 3)),
        ("<f8", (20,) * 40),
        ("<f8", (True, 40)),
        ("|O", (20, 2)),
        ("<M8[s]", (20, 2)),
        ("<c16", (10, 2)),
        ("<U2", (20, 2)),
        ([("a", "<f8")], (20, 2)),
        ("nonsense", (20, 2)),
        ("<f9999", (20, 2)),
    ],
)
def test_headers_that_lie_are_one_line(tmp_path: Path, message, descr: object, shape: tuple[int, ...]) -> None:
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    text = message(load_dataset, "npz", data_file=_archive(tmp_path / "mine.npz", header, X.tobytes()))
    assert "x_train" in text


@pytest.mark.parametrize(
    "text",
    [
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (20, 2",
        b"",
        b"(" * 9000,
        b"-" * 9000 + b"1",
        b"__import__('os')",
        b"{'descr': '<f8', 'shape': (20, 2)}",
        b"\xff\xfe",
        b"{'descr': '<f8', 'fortran_order': 3, 'shape': '2'}",
    ],
)
def test_headers_that_are_no_dict_are_one_line(tmp_path: Path, message, text: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
        archive.writestr("x_train.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    assert "x_train cannot be read as .npz" in message(load_dataset, "npz", data_file=tmp_path / "mine.npz")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, message, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "SUSPECT_BYTES", 2**20)
    np.savez_compressed(tmp_path / "mine.npz", x_train=np.zeros((2**19, 4)), y_train=Y)
    tracemalloc.start()
    text = message(load_dataset, "npz", data_file=tmp_path / "mine.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()
    assert "x_train" in text and "more than 100 times as many" in text and "numpy.savez(" in text
    np.savez(tmp_path / "mine.npz", x_train=np.zeros((20, 4)), y_train=Y)
    assert load_dataset("npz", data_file=tmp_path / "mine.npz").in_shape == (4,)


def test_encrypted_and_doubled_members_are_one_line(tmp_path: Path, message) -> None:
    path = _save(tmp_path / "mine.npz", x_train=X, y_train=Y)
    raw = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := raw.find(signature, at + 1)) >= 0:
            raw[at + offset] |= 1
    path.write_bytes(raw)
    assert "x_train is encrypted" in message(load_dataset, "npz", data_file=path)
    _save(path, x_train=X, y_train=Y)
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", b"other")
    assert "x_train cannot be read as .npz (it is in there twice)" in message(load_dataset, "npz", data_file=path)


def test_validation_arrays_are_taken_and_others_said(tmp_path: Path, message) -> None:
    path = _save(tmp_path / "mine.npz", x_train=X, y_train=Y, x_validation=X[:8], y_validation=Y[:8], ids=Y)
    data = load_dataset("npz", data_file=path)
    assert data.validation is not None and torch.equal(data.validation.inputs, torch.from_numpy(X[:8]))
    assert any("not used: ids" in note for note in data.notes) and len(data.train) == 20
    text = message(load_dataset, "npz", data_file=_save(path, X_train=X, labels=Y))
    assert "has no array x_train (it has X_train, labels)" in text
