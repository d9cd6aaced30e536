"""A user's own arrays in a `.npz` file."""

from __future__ import annotations

import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.bounded import ObjectsError, damaged_as, read_npy, read_npy_header
from subsetopt.data.catalog import DATASETS, Query, RawData, RawSplit
from subsetopt.data.names import listed, shown
from subsetopt.errors import DataError, SettingError, setting

MAPPED_BYTES = 256 * 2**20
"""Arrays from this size on are mapped into memory, not read, where the file holds them uncompressed."""

_ENCRYPTED = 0x1
_PARTS = ("train", "validation", "test")
_NAMES = tuple(f"{axis}_{part}" for part in _PARTS for axis in "xy")
_REMEDY = "write it with numpy.savez(FILE, x_train=..., y_train=...)"


@DATASETS.register(
    "npz", "your own arrays x_train, y_train and, where there are, x_test, y_test, in --data-file FILE.npz"
)
def read_npz(query: Query) -> RawData:
    """Read the file; nothing is ever unpickled. Whole numbers and words in y mean classification, floats regression.

    Besides x_train and y_train it may hold x_test, y_test and x_validation, y_validation. Large arrays that
    `numpy.savez` wrote (not `savez_compressed`) stay in the file and are read when they are used.
    """
    if query.data_file is None:
        remedy = f"name it with {setting('data_file', 'FILE.npz')}"
        raise SettingError(setting("data_file"), None, "the data set npz is a file of yours", remedy)
    path = query.data_file
    if not path.is_file():
        raise DataError(f"{shown(path)}: no such file; name a .npz file with {setting('data_file')}")
    arrays, others = _arrays(path)
    for name in _NAMES:
        partner = ("y" if name[0] == "x" else "x") + name[1:]
        if name not in arrays and (name.endswith("train") or partner in arrays):
            found = f" (it has {listed([*arrays, *others])})" if arrays or others else ""
            made = "numpy.savez(FILE, x_train=..., y_train=...) makes one"
            raise DataError(f"{shown(path)}: has no array {name}{found}; {made}")
    splits = {part: RawSplit(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in _PARTS if f"x_{part}" in arrays}
    notes = (f"{shown(path)}: not used: {listed(others)}",) if others else ()
    train, validation, test = (splits.get(part) for part in _PARTS)
    assert train is not None
    return RawData(train, test, validation, uses=("data_file",), notes=notes)


def _arrays(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Return the arrays that are ours, and the names of all other members."""
    where = f"{shown(path)}: the file"
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise DataError(f"{shown(path)}: is a single array, not a .npz file; {_REMEDY}")
    with damaged_as(f"{where} cannot be read as .npz", _REMEDY), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [info.filename.removesuffix(".npy") for info in members]
        arrays = {}
        for info, name in zip(members, names, strict=True):
            if name in _NAMES:
                with damaged_as(f"{shown(path)}: {name} cannot be read as .npz", _REMEDY):
                    if name in arrays:
                        raise ValueError("it is in there twice")
                    arrays[name] = _array(path, archive, info, name)
    return arrays, [name for name in names if name not in arrays]


def _array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> NDArray[Any]:
    if info.flag_bits & _ENCRYPTED:
        raise DataError(f"{shown(path)}: {name} is encrypted; unpack the archive with its password and {_REMEDY}")
    mapped = _mapped(path, info)
    if mapped is not None:
        return mapped
    try:
        with archive.open(info) as file:
            return read_npy(file, info.file_size, info.compress_size)
    except ObjectsError:
        raise DataError(f"{shown(path)}: {name} holds Python objects, not numbers; convert it to one dtype") from None


def _mapped(path: Path, info: zipfile.ZipInfo) -> NDArray[Any] | None:
    """Return a large uncompressed member as a memory map, private to this process; None for any other."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size < MAPPED_BYTES:
        return None
    with path.open("rb") as file:
        # A local file header has 30 bytes, its last four the lengths of the name and the extra field that follow.
        file.seek(info.header_offset + 26)
        file.seek(info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))))
        shape, fortran, dtype, header = read_npy_header(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != info.file_size - header:
            return None
        return np.memmap(path, dtype, "c", file.tell(), shape, "F" if fortran else "C")
