"""A user's own arrays in a `.npz` file."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.catalog import DATASETS, Query, RawData, RawSplit
from subsetopt.errors import DataError, SettingError

MAPPED_BYTES = 256 * 2**20
"""Arrays from this size on are mapped into memory, not read, where the file holds them uncompressed."""

_NAMES = ("x_train", "y_train", "x_test", "y_test")


@DATASETS.register("npz", "your own --data-file FILE.npz with x_train, y_train and, where there are, x_test, y_test")
def read_npz(query: Query) -> RawData:
    """Read the file; nothing is ever unpickled. Integer y means classification, floating y regression.

    Large arrays that `numpy.savez` wrote (not `savez_compressed`) stay in the file and are read when they are used.
    """
    if query.data_file is None:
        raise SettingError(
            "data_file", None, "the data set npz is a file of yours", "name it with --data-file FILE.npz"
        )
    path = query.data_file
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a .npz file with --data-file")
    arrays = _arrays(path)
    for name, partner in (("x_train", "y_train"), ("y_train", "x_train"), ("x_test", "y_test"), ("y_test", "x_test")):
        if name not in arrays and (name.endswith("train") or partner in arrays):
            raise DataError(f"{path}: has no array {name}; numpy.savez(FILE, x_train=..., y_train=...) makes one")
    test = RawSplit(arrays["x_test"], arrays["y_test"]) if "x_test" in arrays else None
    return RawData(RawSplit(arrays["x_train"], arrays["y_train"]), test)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    name = "the file"
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: is a single array, not a .npz file; write it with numpy.savez")
        arrays = {}
        with archive:
            for name in _NAMES:
                if name in archive.files:
                    mapped = _mapped(path, archive.zip, f"{name}.npy")
                    arrays[name] = archive[name] if mapped is None else mapped
        return arrays
    except DataError:
        raise
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if "allow_pickle" in str(error) and name != "the file":
            raise DataError(f"{path}: {name} holds Python objects, not numbers; convert it to one dtype") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        if "pickle" in reason:
            reason = "it does not begin like one"
        raise DataError(f"{path}: {name} cannot be read as .npz ({reason}); write it with numpy.savez") from error


def _mapped(path: Path, archive: zipfile.ZipFile | None, member: str) -> NDArray[Any] | None:
    """Return a large uncompressed member as a memory map, private to this process; None for any other."""
    info = archive.getinfo(member) if archive is not None and member in archive.namelist() else None
    if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size < MAPPED_BYTES:
        return None
    with path.open("rb") as file:
        # A local file header has 30 bytes, its last four the lengths of the name and the extra field that follow.
        file.seek(info.header_offset + 26)
        file.seek(info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))))
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject:
            return None
        return np.memmap(path, dtype, "c", file.tell(), shape, "F" if fortran else "C")
