"""MNIST in the idx format of its publishers, gzipped or not."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.bounded import damaged_as, read_exactly, require_no_bomb
from subsetopt.data.catalog import DATASETS, Query, RawData, RawSplit, not_found
from subsetopt.errors import DataError

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_UNSIGNED_BYTE = 0x08
_MOST_DEFLATED = 1032  # the limit of the deflate format
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
    header = 4 + 4 * n_axes
    magic = bytes((0, 0, _UNSIGNED_BYTE, n_axes))
    packed = path.suffix == ".gz"
    kind = "gzip file" if packed else "idx file"
    with damaged_as(f"{path}: not a complete {kind}", _REMEDY), gzip.open(path) if packed else path.open("rb") as file:
        start = file.read(header)
        if start[:4] != magic or len(start) < header:
            raise DataError(f"{path}: begins with {start[:4].hex()}, an idx file with {magic.hex()}; {_REMEDY}")
        shape = tuple(int(length) for length in np.frombuffer(start, ">u4", n_axes, 4))
        size, on_disk = math.prod(shape), path.stat().st_size
        if not packed and on_disk - header != size:
            raise DataError(f"{path}: holds {on_disk - header} bytes, its header says {size} {shape}; {_REMEDY}")
        if packed and size > _MOST_DEFLATED * on_disk:
            raise DataError(f"{path}: its header says {size} {shape}, more than {on_disk} bytes unpack to; {_REMEDY}")
        require_no_bomb(size, on_disk)
        return np.frombuffer(read_exactly(file, size), np.uint8).reshape(shape)


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
