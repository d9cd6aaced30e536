"""Decoded pixels against those that were drawn: orientation, transparency, depth, frames and sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from subsetopt.data.readers.image_decoding import decode, suffixes
from subsetopt.errors import command_line

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 4), np.uint8)
COLOUR = RNG.integers(0, 256, (6, 4, 3), np.uint8)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_as_exif_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    """The eight orientations of EXIF 2.3, table 6, as numpy operations on what is stored."""
    stored = {
        1: COLOUR,
        2: COLOUR[:, ::-1],
        3: COLOUR[::-1, ::-1],
        4: COLOUR[::-1],
        5: COLOUR.transpose(1, 0, 2),
        6: np.rot90(COLOUR, 1),
        7: COLOUR[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(COLOUR, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a{suffix}", exif=exif, **lossless)
    found = decode([tmp_path / f"a{suffix}"])
    assert np.array_equal(found.images[0].transpose(1, 2, 0), COLOUR)
    assert bool(found.notes) == (orientation > 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white_and_opaque_ones_as_drawn(tmp_path: Path, mode: str) -> None:
    drawing = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    drawing.paste((60, 60, 60, 255), (0, 0, 2, 4))
    drawing.convert(mode).save(tmp_path / "a.png")
    found = decode([tmp_path / "a.png"])
    pixels = found.images[0]
    assert (pixels[:, :, 2:] == 255).all() and (abs(pixels[:, :, :2].astype(int) - 60) <= 1).all()
    assert "1 images are transparent, laid on white: a.png" in found.notes


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("RGB", 3), ("P", 3), ("CMYK", 3), ("YCbCr", 3)])
def test_every_8_bit_mode_is_read(tmp_path: Path, mode: str, channels: int) -> None:
    image = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    path = tmp_path / ("a.png" if mode in ("1", "L", "RGB", "P") else "a.jpg")
    image.save(path)
    found = decode([path])
    assert found.images.shape == (1, channels, 8, 8) and int(found.images.min()) >= 254 and found.notes == ()


def test_sixteen_bits_are_refused(tmp_path: Path, message) -> None:
    for name, array in (("a.png", np.full((4, 4), 1000, np.uint16)), ("b.tif", np.full((4, 4), 0.5, np.float32))):
        Image.fromarray(array).save(tmp_path / name)
        assert f"{name}: has more than 8 bits per channel" in message(decode, [tmp_path / name])


def test_of_films_the_first_frame_is_taken_and_that_is_said(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (10, 20, 30)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    found = decode([tmp_path / "a.tif"])
    assert (found.images == 10).all() and "1 images are of several frames" in found.notes[0]


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"GIF89a", b"text"])
def test_files_that_are_no_images_are_counted(tmp_path: Path, message, content: bytes) -> None:
    Image.fromarray(GREY).save(tmp_path / "good.png")
    for name in ("a.jpg", "b.gif"):
        (tmp_path / name).write_bytes(content)
    text = message(decode, [tmp_path / name for name in ("good.png", "a.jpg", "b.gif")])
    assert "a.jpg: cannot be read as an image" in text and "(2 files in all are such)" in text


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_truncated_files_are_one_line(tmp_path: Path, message, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    Image.fromarray(RNG.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"a.{kind}: cannot be read as an image" in message(decode, [path])


def test_sizes_are_made_one_by_the_setting_of_each_face(tmp_path: Path, message) -> None:
    for name, shape in (("a.png", (8, 8)), ("b.png", (8, 8)), ("c.png", (8, 16))):
        Image.fromarray(np.full(shape, 40, np.uint8)).save(tmp_path / name)
    files = sorted(tmp_path.iterdir())
    text = message(decode, files)
    assert "c.png: is 16x8 pixels, a.png is 8x8 (2 sizes in all)" in text and text.endswith("with image_size=8")
    with command_line(["train"]):
        assert message(decode, files).endswith("with --image-size 8")
        assert message(decode, [files[2], files[2], files[0]]).endswith("with --image-size 8,16")
    found = decode(files, (4, 4))
    assert found.images.shape == (3, 1, 4, 4) and (found.images == 40).all()
    assert "1 images are of another shape, stretched to image_size: c.png" in found.notes[0]


def test_suffixes_are_those_that_pillow_decodes() -> None:
    assert {".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".gif", ".tif", ".webp", ".pgm", ".tga"} <= suffixes()
    assert not {".pdf", ".eps", ".h5", ".mpg", ".txt"} & suffixes()
