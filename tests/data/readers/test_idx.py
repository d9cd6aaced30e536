"""The idx reader against files written by the published format."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from subsetopt.data import PUBLISHED, load_dataset
from subsetopt.data.readers.idx import read_idx

TRAIN = "train-images-idx3-ubyte.gz"


def test_images_and_labels_are_those_written(mnist_dir: Path) -> None:
    data = load_dataset("mnist", data_dir=mnist_dir, validation_fraction=0)
    assert (data.in_shape, data.n_outputs, data.task, data.validation) == ((1, 4, 5), 10, "classification", None)
    assert data.train.inputs.dtype == torch.uint8 and data.train.targets.dtype == torch.int64
    assert data.train.inputs[7].unique().tolist() == [7] and data.train.targets.tolist() == [*range(10)] * 2
    assert data.test is not None and data.test.inputs[:, 0, 0, 0].tolist() == [*range(6)]


def test_idx_bytes_written_by_hand_are_read_in_row_order(tmp_path: Path) -> None:
    path = tmp_path / "two-by-three"
    path.write_bytes(bytes.fromhex("0000080200000002000000030102030405ff"))
    assert read_idx(path, n_axes=2).tolist() == [[1, 2, 3], [4, 5, 255]]


@pytest.mark.parametrize("layout", ["mnist", "."])
def test_uncompressed_files_and_other_folders_are_found(mnist_dir: Path, tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "other" / layout
    folder.mkdir(parents=True)
    for path in (mnist_dir / "MNIST" / "raw").iterdir():
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    data = load_dataset("mnist", data_dir=tmp_path / "other")
    assert len(data.train) + len(data.validation or []) == 20


def test_the_data_directory_may_come_from_the_environment(mnist_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBSETOPT_DATA", str(mnist_dir))
    assert len(load_dataset("mnist", validation_fraction=0).train) == 20


def test_missing_files_are_named_with_the_remedy(mnist_dir: Path, tmp_path: Path, message) -> None:
    text = message(load_dataset, "mnist", data_dir=tmp_path / "none")
    for part in (TRAIN, "none/MNIST/raw", "subsetopt download mnist --data-dir", "--data-dir", "SUBSETOPT_DATA"):
        assert part in text
    (mnist_dir / "MNIST/raw/t10k-labels-idx1-ubyte.gz").unlink()
    assert "t10k-labels-idx1-ubyte.gz not found" in message(load_dataset, "mnist", data_dir=mnist_dir)
    assert ".cache/subsetopt" in message(load_dataset, "mnist")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: gzip.compress(raw)[:-20], "gzip"),
        (lambda raw: b"not gzip at all", "gzip"),
        (lambda raw: gzip.compress(raw)[:40] + b"\xff" * 20 + gzip.compress(raw)[60:], "gzip"),
        (lambda raw: gzip.compress(raw[:-1]), "399 bytes, its header says 400"),
        (lambda raw: gzip.compress(raw + b"\0"), "more than the 400 bytes that its header says"),
        (lambda raw: gzip.compress(b"\0\0\x0d\x03" + raw[4:]), "begins with 00000d03"),
        (lambda raw: gzip.compress(raw[:9]), "idx file with 00000803"),
        (lambda raw: gzip.compress(raw[:4] + b"\xff" * 12), "header says"),
        (lambda raw: b"", "gzip|begins"),
    ],
)
def test_damaged_files_are_one_line(mnist_dir: Path, message, damage, words: str) -> None:
    path = mnist_dir / "MNIST" / "raw" / TRAIN
    path.write_bytes(damage(gzip.decompress(path.read_bytes())))
    text = message(load_dataset, "mnist", data_dir=mnist_dir)
    assert TRAIN in text and any(word in text for word in words.split("|")) and "subsetopt download mnist" in text


def test_labels_above_nine_and_unequal_lengths_are_refused(mnist_dir: Path, message) -> None:
    path = mnist_dir / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:-2] + bytes([10, 11])))
    text = message(load_dataset, "mnist", data_dir=mnist_dir)
    assert "mnist: y_train: 2 labels out of range 0 to 9, first 10 at row 18" in text
    path.write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x13" + raw[8:-1]))
    assert "20 rows, y_train 19" in message(load_dataset, "mnist", data_dir=mnist_dir)


def test_real_mnist_has_the_published_counts_and_loads_quickly(real_data_dir: Path) -> None:
    """Class counts of the training set as published; contents have the checksums the downloader expects."""
    import hashlib

    start = time.process_time()
    data = load_dataset("mnist", data_dir=real_data_dir, validation_fraction=0)
    seconds = time.process_time() - start
    published = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(data.train.targets).tolist() == published
    assert data.test is not None and len(data.test) == 10000
    assert data.normalization is not None  # 0.1307 and 0.3081 are the statistics in everybody's recipes
    assert np.isclose(data.normalization.mean[0] / 255, 0.1307, atol=5e-5)
    assert np.isclose(data.normalization.std[0] / 255, 0.3081, atol=5e-5)
    for source in PUBLISHED["mnist"]:
        content = gzip.decompress((real_data_dir / source.folder / source.name).read_bytes())
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == source.contents_md5
    assert seconds < 6  # about 1 s on an idle core


def test_headers_are_read_before_anything_is_unpacked(mnist_dir: Path, message) -> None:
    """A gzip file of 100 KB that unpacks to 100 MB, and says so or not."""
    path = mnist_dir / "MNIST" / "raw" / TRAIN
    zeros = bytes(100 * 2**20)
    magic = b"\0\0\x08\x03"
    for header in (magic + b"\xff" * 12, magic + bytes([0, 0, 0, 20, 0, 0, 0, 4, 0, 0, 0, 5]), zeros[:16]):
        path.write_bytes(gzip.compress(header + zeros, 1))
        tracemalloc.start()
        assert "subsetopt download mnist" in message(load_dataset, "mnist", data_dir=mnist_dir)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
        tracemalloc.stop()
