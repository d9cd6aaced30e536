"""Image files that nobody wrote, under names that nobody would choose."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from subsetopt.data import load_dataset

from .damage import EXAMPLES, MANY, damaged, examples, read_or_refuse


def _image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


KINDS = {".png": "PNG", ".jpg": "JPEG", ".gif": "GIF", ".bmp": "BMP", ".tif": "TIFF", ".webp": "WEBP", ".ppm": "PPM"}
FILES = st.sampled_from(sorted(KINDS)).flatmap(
    lambda suffix: damaged(_image(KINDS[suffix])).map(lambda content: (suffix, content))
)
NAMES = st.binary(min_size=1, max_size=12).map(lambda name: name.translate(None, b"/\0").lstrip(b".") or b"x")


def _load(tmp_path: Path, file: tuple[str, bytes], names: tuple[bytes, bytes], size: int | None) -> None:
    folder = tmp_path / "mine"
    shutil.rmtree(folder, ignore_errors=True)
    suffix, content = file
    for name in dict.fromkeys(names):
        place = os.fsencode(folder) + b"/train/" + name
        os.makedirs(place, exist_ok=True)  # noqa: PTH103 - names of bytes
        for number in range(2):
            Path(os.fsdecode(place), f"{number}.png").write_bytes(_GOOD)
    Path(os.fsdecode(os.fsencode(folder) + b"/train/" + names[0]), f"damaged{suffix}").write_bytes(content)
    read_or_refuse(lambda: load_dataset("image-folder", data_dir=folder, image_size=size), folder, PEAK_BYTES)


_GOOD = _image("PNG")
PEAK_BYTES = 2**30  # Pillow's own limit on what a header may claim is 179 million pixels
PAIRS = st.tuples(NAMES, NAMES)
SIZES = st.sampled_from([None, 4, 8])


@examples(EXAMPLES)
@given(file=FILES, names=PAIRS, size=SIZES)
def test_damaged_images(tmp_path: Path, file: tuple[str, bytes], names: tuple[bytes, bytes], size: int | None) -> None:
    _load(tmp_path, file, names, size)


@pytest.mark.slow
@examples(MANY)
@given(file=FILES, names=PAIRS, size=SIZES)
def test_many(tmp_path: Path, file: tuple[str, bytes], names: tuple[bytes, bytes], size: int | None) -> None:
    _load(tmp_path, file, names, size)
