"""Both CIFAR formats against bytes made by the published description, and against each other."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from subsetopt.data import load_dataset


@pytest.mark.parametrize(
    ("name", "kinds", "M"), [("cifar10", ("10-bin", "10-py"), 10), ("cifar100", ("100-bin", "100-py"), 100)]
)
def test_binary_and_python_versions_agree(cifar_dir, name: str, kinds: tuple[str, str], M: int) -> None:
    binary, python = (load_dataset(name, data_dir=cifar_dir(kind), validation_fraction=0) for kind in kinds)
    assert binary.in_shape == (3, 32, 32) and binary.n_outputs == python.n_outputs == M
    for part in ("train", "test"):
        first, second = getattr(binary, part), getattr(python, part)
        assert torch.equal(first.inputs, second.inputs) and torch.equal(first.targets, second.targets)
        assert torch.equal(first.rows, second.rows)


def test_a_record_is_label_then_red_green_blue_planes_by_row(tmp_path: Path) -> None:
    """cs.toronto.edu/~kriz/cifar.html: <1 x label><3072 x pixel>, 1024 red, 1024 green, 1024 blue, row-major."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    record = np.zeros(3073, np.uint8)
    record[0], record[1 + 33], record[1 + 1024], record[3072] = 9, 11, 22, 33
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (folder / f"{name}.bin").write_bytes(record.tobytes() + bytes(3073))
    (folder / "batches.meta.txt").write_text("a b c d e f g h i j\n\n")
    data = load_dataset("cifar10", data_dir=folder, validation_fraction=0)
    image = data.train.inputs[4]
    assert (int(image[0, 1, 1]), int(image[1, 0, 0]), int(image[2, 31, 31])) == (11, 22, 33)
    assert data.train.targets.tolist() == [9, 0] * 5 and data.class_names == tuple("abcdefghij")


def test_cifar100_takes_the_fine_label_the_second_byte(cifar_dir) -> None:
    root = cifar_dir("100-bin")
    raw = (root / "cifar-100-binary/train.bin").read_bytes()
    data = load_dataset("cifar100", data_dir=root, validation_fraction=0)
    assert data.train.targets.tolist() == [raw[1], raw[1 + 3074], raw[1 + 2 * 3074]]


def test_missing_and_truncated_files_are_one_line(cifar_dir, tmp_path: Path, message) -> None:
    text = message(load_dataset, "cifar10", data_dir=tmp_path / "none")
    assert "data_batch_1" in text and "subsetopt download cifar10 --data-dir" in text and "SUBSETOPT_DATA" in text
    root = cifar_dir("10-bin")
    path = root / "cifar-10-batches-bin" / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])
    text = message(load_dataset, "cifar10", data_dir=root)
    assert "data_batch_2.bin: holds 9218 bytes" in text and "3073-byte records" in text and "download" in text
    path.unlink()
    assert "data_batch_2.bin not found" in message(load_dataset, "cifar10", data_dir=root)


@pytest.mark.parametrize(
    "batch",
    [
        [1, 2],
        {b"data": np.zeros((2, 3072), np.uint8)},
        {b"data": np.zeros((2, 3071), np.uint8), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1.5]},
        {b"data": np.zeros((), np.uint8), b"labels": []},
    ],
)
def test_pickles_of_another_content_are_refused(cifar_dir, message, batch: object) -> None:
    root = cifar_dir("10-py")
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(batch, protocol=2))
    text = message(load_dataset, "cifar10", data_dir=root)
    assert "data_batch_3: is not a CIFAR batch" in text and "subsetopt download" in text


def test_real_cifar10_is_the_same_in_both_formats(real_data_dir: Path, tmp_path: Path) -> None:
    binary, python = (real_data_dir / f"cifar-10-batches-{kind}" for kind in ("bin", "py"))
    if not (binary.is_dir() and python.is_dir()):
        pytest.skip("CIFAR-10 is not there in both formats")
    first, second = (load_dataset("cifar10", data_dir=folder, validation_fraction=0) for folder in (binary, python))
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert torch.equal(first.train.targets, second.train.targets)
    assert torch.bincount(first.train.targets).tolist() == [5000] * 10
    assert first.class_names == second.class_names and first.class_names[0] == "airplane"
