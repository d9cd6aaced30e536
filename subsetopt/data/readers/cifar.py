"""CIFAR-10 and CIFAR-100 in both formats of their publisher: binary records and python pickles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.catalog import DATASETS, Query, RawData, RawSplit, not_found, read_bytes
from subsetopt.data.names import printable
from subsetopt.data.readers.plain_pickle import load_plain
from subsetopt.errors import DataError

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Format:
    """One of the formats. A binary record is `label_bytes` label bytes, the last of them ours, and the pixels."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    label_bytes: int = 0
    label_key: bytes = b""
    names_key: bytes = b""


_CIFAR10 = (
    _Format(
        "cifar-10-batches-bin",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        ("test_batch.bin",),
        "batches.meta.txt",
        label_bytes=1,
    ),
    _Format(
        "cifar-10-batches-py",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        ("test_batch",),
        "batches.meta",
        label_key=b"labels",
        names_key=b"label_names",
    ),
)
_CIFAR100 = (
    _Format("cifar-100-binary", ("train.bin",), ("test.bin",), "fine_label_names.txt", label_bytes=2),
    _Format("cifar-100-python", ("train",), ("test",), "meta", label_key=b"fine_labels", names_key=b"fine_label_names"),
)


@DATASETS.register("cifar10", "colour photographs, 32x32, 10 classes, 50000 + 10000 (Krizhevsky)")
def read_cifar10(query: Query) -> RawData:
    """Read DATA/cifar-10-batches-bin or DATA/cifar-10-batches-py; DATA may also be that folder itself."""
    return _read("cifar10", _CIFAR10, query.root, n_classes=10)


@DATASETS.register("cifar100", "colour photographs, 32x32, 100 fine classes, 50000 + 10000 (Krizhevsky)")
def read_cifar100(query: Query) -> RawData:
    """Read DATA/cifar-100-binary or DATA/cifar-100-python with the fine labels."""
    return _read("cifar100", _CIFAR100, query.root, n_classes=100)


def _read(dataset: str, formats: tuple[_Format, ...], root: Path, n_classes: int) -> RawData:
    places = [(kind, folder) for kind in formats for folder in (root / kind.folder, root)]
    for kind, folder in places:
        if (folder / kind.train[0]).is_file():
            train = _split(folder, kind, kind.train, dataset)
            test = _split(folder, kind, kind.test, dataset)
            return RawData(train, test, n_classes=n_classes, class_names=_class_names(folder, kind, n_classes))
    first = " or ".join(kind.train[0] for kind in formats)
    raise not_found(dataset, first, [root / kind.folder for kind in formats] + [root], root)


def _split(folder: Path, kind: _Format, names: tuple[str, ...], dataset: str) -> RawSplit:
    parts = []
    for name in names:
        path = folder / name
        if not path.is_file():
            raise not_found(dataset, name, [folder], folder.parent)
        parts.append(_binary(path, kind.label_bytes) if kind.label_bytes else _pickled(path, kind.label_key))
    inputs = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, *_SHAPE)
    return RawSplit(inputs, np.concatenate([labels for _, labels in parts]))


def _binary(path: Path, label_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content, record = read_bytes(path), label_bytes + _PIXELS
    if not content or len(content) % record:
        raise DataError(
            f"{path}: holds {len(content)} bytes, not a whole number of {record}-byte records; "
            "delete it and download it again (`subsetopt download`)"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, label_bytes:], records[:, label_bytes - 1].astype(np.int64)


def _pickled(path: Path, label_key: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = load_plain(path)
    problem = f"{path}: is not a CIFAR batch (needs b'data', uint8 (n, {_PIXELS}), and b'{label_key.decode()}'); "
    remedy = "delete it and download it again (`subsetopt download`)"
    if not isinstance(batch, dict):
        raise DataError(problem + remedy)
    pixels, labels = batch.get(b"data"), batch.get(label_key)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
        raise DataError(problem + remedy)
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(label) is int for label in labels):
        raise DataError(problem + remedy)
    if any(not 0 <= label < 2**31 for label in labels):
        raise DataError(f"{path}: has labels beyond its classes; {remedy}")
    return np.asarray(pixels), np.asarray(labels, np.int64)


def _class_names(folder: Path, kind: _Format, n_classes: int) -> tuple[str, ...]:
    """Return the names beside the data, or none where the file is missing or has another number of them."""
    path = folder / kind.meta
    if not path.is_file():
        return ()
    if kind.label_bytes:
        names: list[Any] = read_bytes(path).decode("utf-8", "replace").split()
    else:
        meta = load_plain(path)
        found = meta.get(kind.names_key) if isinstance(meta, dict) else None
        listed = found if isinstance(found, list) else []
        names = [name.decode("utf-8", "replace") for name in listed if isinstance(name, bytes)]
    return tuple(printable(name) for name in names) if len(names) == n_classes else ()
