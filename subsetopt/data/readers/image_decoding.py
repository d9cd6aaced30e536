"""From image files to one array: upright, of one size, in 8-bit grey or colour."""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.names import listed, shown
from subsetopt.errors import DataError, SettingError, setting

_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_DEEP_MODES = ("I", "F")
# Formats that Pillow recognises without being able to decode them, or only with the help of another program.
_NO_PIXELS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
_FILMS = frozenset({"GIF", "TIFF", "WEBP", "PNG", "ICO", "ICNS", "FLI", "DCX"})


@dataclass(frozen=True)
class Decoded:
    """Images (n, C, H, W) and notes on what was converted."""

    images: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Header:
    """What a file tells without its pixels; `size` is (height, width) once it is upright."""

    size: tuple[int, int]
    mode: str
    turned: bool
    transparent: bool
    frames: int


class _Clamped(io.BufferedReader):
    """A file of which no more is asked than it has: Python allocates what a header claims before it reads."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes."""
        return super().read(size if size is None or size < 0 else min(size, self._size))


def pillow() -> ModuleType:
    """Import Pillow; raises `SettingError` where it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        remedy = "install it with pip install 'subsetopt[vision]'"
        raise SettingError("dataset", "image-folder", "needs Pillow, which is not installed", remedy) from error
    return Image


def suffixes() -> frozenset[str]:
    """Return the suffixes, with their dot and in lower case, of all formats that Pillow can decode."""
    image = pillow()
    known = image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind in image.OPEN and kind not in _NO_PIXELS)


def decode(files: Sequence[Path], image_size: tuple[int, int] | None = None) -> Decoded:
    """Return the images in the order of `files`, turned upright as EXIF says, with C = 1 when all are grey.

    Images of another size than `image_size` are stretched to it (bilinear), transparent ones laid on white; of films
    the first frame is taken. Raises `DataError` naming a file that cannot be used, and how many others there are.
    """
    image = pillow()
    with ThreadPoolExecutor() as pool, warnings.catch_warnings():  # Pillow decodes outside the interpreter lock
        warnings.simplefilter("ignore")  # of large images and of odd metadata; what cannot be decoded is an error
        headers = _all(pool, lambda path: _header(image, path), files)
        size = image_size or _common_size(files, headers)
        grey = all(header.mode in _GREY_MODES for header in headers)
        shape = (len(files), 1 if grey else 3, *size)
        try:
            images = np.empty(shape, np.uint8)
        except (MemoryError, ValueError) as error:
            remedy = f"make them smaller with {setting('image_size', min(64, *size))}"
            raise DataError(
                f"{len(files)} images of {size[1]}x{size[0]} pixels do not fit into memory; {remedy}"
            ) from error

        def fill(row: int) -> None:
            pixels = _pixels(image, files[row], grey, headers[row].transparent)
            if pixels.size != (size[1], size[0]):
                if image_size is None:  # the orientation of a PNG may follow its pixels
                    width, height = pixels.size
                    raise DataError(
                        f"{shown(files[row])}: is {width}x{height} pixels once upright; turn the file itself"
                    )
                pixels = pixels.resize((size[1], size[0]), image.Resampling.BILINEAR)
            images[row] = np.asarray(pixels, np.uint8).reshape(*size, -1).transpose(2, 0, 1)

        _all(pool, fill, range(len(files)))
    return Decoded(images, tuple(_notes(files, headers, image_size)))


def _all(pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Do `work` on every item; the first `DataError` is raised, with the number of the others."""

    def attempt(item: Any) -> Any:
        try:
            return work(item)
        except DataError as error:
            return error

    results = list(pool.map(attempt, items))
    errors = [result for result in results if isinstance(result, DataError)]
    if errors:
        more = f" ({len(errors)} files in all are such)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{more}")
    return results


def _header(image: ModuleType, path: Path) -> _Header:
    try:
        with _Clamped(path) as content, image.open(content) as file:
            (width, height), mode = file.size, str(file.mode)
            orientation = _orientation(file)
            frames = getattr(file, "n_frames", 1) if file.format in _FILMS else 1
            transparent = mode in _ALPHA_MODES or "transparency" in file.info
            if orientation in _SIDEWAYS:
                # Of a TIFF file some versions of Pillow tell the upright size at once, some when it is loaded.
                width, height = _upright(file).size if file.format == "TIFF" else (height, width)
    except Exception as error:  # decoders raise anything on bytes that nobody wrote
        raise _unreadable(path, error) from error
    if mode.startswith(_DEEP_MODES):
        problem = f"has more than 8 bits per channel (mode {mode})"
        raise DataError(f"{shown(path)}: {problem}; convert it to 8 bits, or use npz")
    return _Header((height, width), mode, orientation in range(2, 9), transparent, frames)


def _upright(file: Any) -> Any:
    """Return the decoded image, turned as its EXIF orientation says."""
    from PIL import ImageOps

    file.load()
    try:
        return ImageOps.exif_transpose(file)
    except Exception:  # metadata that nobody can read say nothing
        return file.copy()


def _common_size(files: Sequence[Path], headers: Sequence[_Header]) -> tuple[int, int]:
    sizes = Counter(header.size for header in headers)
    size = headers[0].size
    for path, header in zip(files, headers, strict=True):
        if header.size != size:
            found = f"{header.size[1]}x{header.size[0]} pixels, {shown(files[0].name)} is {size[1]}x{size[0]}"
            (height, width), _ = sizes.most_common(1)[0]
            wanted = setting("image_size", height if height == width else (height, width))
            raise DataError(
                f"{shown(path)}: is {found} ({len(sizes)} sizes in all); make all images one size, or have them "
                f"stretched to one, for example with {wanted}"
            )
    return size


def _orientation(file: Any) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none or it cannot be read."""
    if file.format == "PNG" and "exif" not in file.info:
        return 1  # Pillow would decode all pixels to see whether it follows them
    try:
        return int(file.getexif().get(_ORIENTATION, 1))
    except Exception:  # as in `_upright`
        return 1


def _pixels(image: ModuleType, path: Path, grey: bool, transparent: bool) -> Any:
    """Return the upright image of Pillow in mode L or RGB."""
    try:
        with _Clamped(path) as content, image.open(content) as file:
            pixels = _upright(file)
            if transparent:
                pixels = pixels.convert("RGBA")
                pixels = image.alpha_composite(image.new("RGBA", pixels.size, "white"), pixels)
            return pixels.convert("L" if grey else "RGB")
    except Exception as error:  # decoders raise anything on bytes that nobody wrote
        raise _unreadable(path, error) from error


def _notes(files: Sequence[Path], headers: Sequence[_Header], image_size: tuple[int, int] | None) -> Iterator[str]:
    for what, chosen in (
        ("turned upright as their EXIF orientation says", [header.turned for header in headers]),
        ("transparent, laid on white", [header.transparent for header in headers]),
        ("of several frames, of which the first is taken", [header.frames > 1 for header in headers]),
        ("of another shape, stretched to image_size", [_distorted(header, image_size) for header in headers]),
    ):
        names = [path.name for path, is_such in zip(files, chosen, strict=True) if is_such]
        if names:
            yield f"{len(names)} images are {what}: {listed(names)}"


def _distorted(header: _Header, image_size: tuple[int, int] | None) -> bool:
    """True where resizing changes the ratio of the sides by more than rounding."""
    if image_size is None:
        return False
    (height, width), (new_height, new_width) = header.size, image_size
    return abs(height * new_width - width * new_height) > max(height, width, new_height, new_width)


def _unreadable(path: Path, error: Exception) -> DataError:
    unknown = type(error).__name__ == "UnidentifiedImageError"
    reason = "it does not begin like one" if unknown else shown(" ".join(str(error).split()) or type(error).__name__)
    return DataError(f"{shown(path)}: cannot be read as an image ({reason}); remove or replace it")
