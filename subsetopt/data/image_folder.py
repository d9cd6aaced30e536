"""A user's own images: one subfolder per class under train/, test/ and, where there is one, val/."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.catalog import DATASETS, Query, RawData, RawSplit
from subsetopt.data.image_cache import cached_images
from subsetopt.errors import DataError, SettingError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
_SPLITS = {"train": "train", "test": "test", "val": "validation"}
_GREY_MODES = frozenset({"1", "L"})
_DEEP_MODES = ("I", "F")


@dataclass(frozen=True)
class _Listing:
    """The image files of one split in a fixed order, with their classes."""

    files: tuple[Path, ...]
    labels: NDArray[np.int64]


@DATASETS.register("image-folder", "your own images in class subfolders of DATA/train, DATA/test (and DATA/val)")
def read_image_folder(query: Query) -> RawData:
    """Decode every image once to uint8 (n, C, H, W), C = 1 when all are grey, and keep the result in a cache file.

    The folder is `data_file` where given, else the data directory. All images need one size unless `image_size` is
    set, to which they are then resized (bilinear). Rows follow the sorted class and file names.
    """
    folder = query.root if query.data_file is None else query.data_file
    if not (folder / "train").is_dir():
        raise DataError(
            f"{folder / 'train'}: no such folder; image-folder needs train/CLASS/IMAGE files, name the folder that "
            "has train/ with --data-dir"
        )
    class_names = _class_names(folder / "train")
    listings = {
        split: _listing(folder / name, class_names) for name, split in _SPLITS.items() if (folder / name).is_dir()
    }
    files = [path for listing in listings.values() for path in listing.files]
    key = _fingerprint(folder, files, query.image_size)
    images = cached_images(folder, key, lambda: decode(files, query.image_size))
    splits, start = {}, 0
    for split, listing in listings.items():
        stop = start + len(listing.files)
        splits[split], start = RawSplit(images[start:stop], listing.labels), stop
    test, validation = splits.get("test"), splits.get("validation")
    uses = ("data_file", "image_size")
    return RawData(splits["train"], test, validation, n_classes=len(class_names), class_names=class_names, uses=uses)


def decode(files: Sequence[Path], image_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Return the images as (n, C, H, W), in the order of `files`; raises `DataError` naming a file it cannot use."""
    pillow = _pillow()
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
        headers = list(pool.map(lambda path: _header(pillow, path), files))
        size = image_size or _common_size(files, headers)
        grey = all(mode in _GREY_MODES for _, mode in headers)
        images = np.empty((len(files), 1 if grey else 3, *size), np.uint8)

        def fill(row: int) -> None:
            images[row] = _pixels(pillow, files[row], size, grey)

        list(pool.map(fill, range(len(files))))
    return images


def _header(pillow: ModuleType, path: Path) -> tuple[tuple[int, int], str]:
    """Return ((height, width), mode) without decoding the pixels."""
    try:
        with pillow.open(path) as image:
            width, height = image.size
            mode = str(image.mode)
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    if mode.startswith(_DEEP_MODES):
        raise DataError(f"{path}: has more than 8 bits per channel (mode {mode}); convert it to 8 bits, or use npz")
    return (height, width), mode


def _common_size(files: Sequence[Path], headers: Sequence[tuple[tuple[int, int], str]]) -> tuple[int, int]:
    size = headers[0][0]
    for path, (other, _) in zip(files, headers, strict=True):
        if other != size:
            raise DataError(
                f"{path}: is {other[1]}x{other[0]} pixels, {files[0].name} is {size[1]}x{size[0]}; "
                "make all images one size or set image_size"
            )
    return size


def _pixels(pillow: ModuleType, path: Path, size: tuple[int, int], grey: bool) -> NDArray[np.uint8]:
    height, width = size
    try:
        with pillow.open(path) as image:
            pixels = image.convert("L" if grey else "RGB")
            if pixels.size != (width, height):
                pixels = pixels.resize((width, height), pillow.Resampling.BILINEAR)
            return np.asarray(pixels, np.uint8).reshape(height, width, -1).transpose(2, 0, 1)
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:120]
    return DataError(f"{path}: cannot be read as an image ({reason}); remove or replace it")


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        remedy = "install it with pip install 'subsetopt[vision]'"
        raise SettingError("dataset", "image-folder", "needs Pillow, which is not installed", remedy) from error
    return Image


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: has no class subfolders; image-folder needs {folder.name}/CLASS/IMAGE files")
    return tuple(names)


def _listing(folder: Path, class_names: tuple[str, ...]) -> _Listing:
    files: list[Path] = []
    labels: list[int] = []
    for name in _class_names(folder):
        if name not in class_names:
            raise DataError(f"{folder / name}: the class {name!r} is not among those of train/; add or remove it")
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in EXTENSIONS)
        if not found and folder.name == "train":
            raise DataError(f"{folder / name}: has no images ({', '.join(sorted(EXTENSIONS))}); add some or remove it")
        files += found
        labels += [class_names.index(name)] * len(found)
    if not files:
        raise DataError(f"{folder}: has no images; fill it or remove it")
    return _Listing(tuple(files), np.asarray(labels, np.int64))


def _fingerprint(folder: Path, files: Sequence[Path], image_size: tuple[int, int] | None) -> str:
    """Return a key that changes when a file is added, removed, renamed or rewritten, or the size setting changes."""
    digest = hashlib.sha256(f"1 {image_size}".encode())
    for path in files:
        status = path.stat()
        digest.update(f"\0{path.relative_to(folder).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]
