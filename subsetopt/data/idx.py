"""MNIST in the idx format of its publishers, gzipped or not."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.catalog import DATASETS, Query, RawData, RawSplit, not_found, read_bytes
from subsetopt.errors import DataError

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_UNSIGNED_BYTE = 0x08
_REMEDY = "delete it and run `subsetopt download mnist`"


@DATASETS.register("mnist", "handwritten digits, 28x28 grey, 60000 + 10000 (LeCun, Cortes, Burges)")
def read_mnist(query: Query) -> RawData:
    """Read DATA/MNIST/raw (torchvision's layout), DATA/mnist or DATA itself."""
    splits = {}
    folder = _find_folder(query.root)
    for split, (images, labels) in _FILES.items():
        inputs = read_idx(_existing(folder, images), n_axes=3)
        targets = read_idx(_existing(folder, labels), n_axes=1)
        splits[split] = RawSplit(inputs[:, None], targets)
    return RawData(splits["train"], splits["test"], n_classes=10, class_names=tuple("0123456789"))


def read_idx(path: Path, n_axes: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes with `n_axes` axes; raises `DataError` for anything else.

    Layout: two zero bytes, the type code 0x08, the number of axes, one big-endian uint32 per axis, the bytes.
    """
    content = read_bytes(path)
    if path.suffix == ".gz":
        content = _decompressed(content, path)
    header = 4 + 4 * n_axes
    magic = bytes((0, 0, _UNSIGNED_BYTE, n_axes))
    if content[:4] != magic or len(content) < header:
        raise DataError(f"{path}: begins with {content[:4].hex()}, an idx file with {magic.hex()}; {_REMEDY}")
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", n_axes, 4))
    if len(content) - header != math.prod(shape):
        found = len(content) - header
        raise DataError(f"{path}: holds {found} bytes, its header says {math.prod(shape)} {shape}; {_REMEDY}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _decompressed(content: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a complete gzip file ({error}); {_REMEDY}") from error


def _find_folder(root: Path) -> Path:
    folders = [root / "MNIST" / "raw", root / "mnist", root]
    first = _FILES["train"][0]
    for folder in folders:
        if _variants(folder, first):
            return folder
    raise not_found("mnist", f"{first}.gz", folders, root)


def _existing(folder: Path, name: str) -> Path:
    found = _variants(folder, name)
    if not found:
        raise not_found("mnist", f"{name}.gz", [folder], folder)
    return found[0]


def _variants(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
