"""Decoded images in one file, so that only the first run on a folder pays for decoding."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.bounded import read_npy
from subsetopt.data.catalog import default_data_dir
from subsetopt.data.readers.image_decoding import Decoded

FOLDER = ".subsetopt-cache"


def cached_images(folder: Path, key: str, decode: Callable[[], Decoded]) -> Decoded:
    """Return the images cached under `key`, or decode and cache them.

    The cache lies in `folder`/.subsetopt-cache, or under the default data directory where `folder` cannot be
    written; where neither can, or the disk is full, nothing is cached.
    """
    places = [folder / FOLDER, default_data_dir() / FOLDER]
    for place in places:
        found = _load(place / f"{key}.npz")
        if found is not None:
            return found
    decoded = decode()
    for place in places:
        with contextlib.suppress(OSError):
            _store(place / f"{key}.npz", decoded)
            break
    return decoded


def _load(path: Path) -> Decoded | None:
    """Return the cached images, or None where there are none; a damaged cache is decoded again."""
    try:
        with zipfile.ZipFile(path) as archive:
            images, notes = (_member(archive, f"{name}.npy") for name in ("images", "notes"))
        if images.dtype != np.uint8 or images.ndim != 4 or notes.dtype.kind != "U":
            return None
        return Decoded(images, tuple(notes.tolist()))
    except Exception:  # zip readers raise anything on bytes that nobody wrote
        return None


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    info = archive.getinfo(name)
    with archive.open(info) as file:
        return read_npy(file, info.file_size, info.compress_size)


def _store(path: Path, decoded: Decoded) -> None:
    """Write to a temporary file in the same folder, then rename: a reader never sees half a cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, images=decoded.images, notes=np.asarray(decoded.notes, dtype=np.str_))
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
