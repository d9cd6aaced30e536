"""Decoded images in one file, so that only the first run on a folder pays for decoding."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.catalog import default_data_dir

FOLDER = ".subsetopt-cache"


def cached_images(folder: Path, key: str, decode: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the images cached under `key`, or decode and cache them.

    The cache lies in `folder`/.subsetopt-cache, or under the default data directory where `folder` cannot be
    written; where neither can, or the disk is full, nothing is cached.
    """
    places = [folder / FOLDER, default_data_dir() / FOLDER]
    for place in places:
        images = _load(place / f"{key}.npz")
        if images is not None:
            return images
    images = decode()
    for place in places:
        with contextlib.suppress(OSError):
            _store(place / f"{key}.npz", images)
            break
    return images


def _load(path: Path) -> NDArray[np.uint8] | None:
    """Return the cached images, or None where there are none; a damaged cache is decoded again."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            images: NDArray[np.uint8] = archive["images"]
            return images
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _store(path: Path, images: NDArray[np.uint8]) -> None:
    """Write to a temporary file in the same folder, then rename: a reader never sees half a cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, images=images)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
