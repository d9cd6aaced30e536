"""A user's own images: one subfolder per class under train/, test/ and, where there is one, val/."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from subsetopt.data.catalog import DATASETS, Query, RawData, RawSplit
from subsetopt.data.readers.image_cache import cached_images
from subsetopt.data.readers.image_decoding import decode, suffixes
from subsetopt.data.readers.image_listing import list_images

_VERSION = 2
"""Part of the cache's key: raise it when the same files become other pixels."""


@DATASETS.register("image-folder", "your own images in class subfolders of DATA/train, DATA/test (and DATA/val)")
def read_image_folder(query: Query) -> RawData:
    """Decode every image once to uint8 (n, C, H, W), C = 1 when all are grey, and keep the result in a cache file.

    The folder is `data_file` where given, else the data directory. All images need one size unless `image_size` is
    set, to which they are then stretched (bilinear). Rows follow the sorted class and file names.
    """
    folder = query.root if query.data_file is None else query.data_file
    listings, class_names, skipped = list_images(folder, suffixes())
    files = [path for listing in listings.values() for path in listing.files]
    key = _fingerprint(folder, files, query.image_size)
    decoded = cached_images(folder, key, lambda: decode(files, query.image_size))
    splits, start = {}, 0
    for split, listing in listings.items():
        stop = start + len(listing.files)
        splits[split], start = RawSplit(decoded.images[start:stop], listing.targets), stop
    return RawData(
        splits["train"],
        splits.get("test"),
        splits.get("validation"),
        n_classes=len(class_names),
        class_names=class_names,
        notes=(*skipped, *decoded.notes),
        uses=("data_file", "image_size"),
    )


def _fingerprint(folder: Path, files: Sequence[Path], image_size: tuple[int, int] | None) -> str:
    """Return a key that changes when a file is added, removed, renamed or rewritten, or the size setting changes."""
    digest = hashlib.sha256(f"{_VERSION} {image_size}".encode())
    for path in files:
        status = path.stat()
        name = os.fsencode(path.relative_to(folder).as_posix())
        digest.update(b"\0" + name + f"\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]
