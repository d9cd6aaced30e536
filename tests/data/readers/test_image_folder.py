"""Image folders against the pixels they were made from."""

from __future__ import annotations

import builtins
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from subsetopt.data import load_dataset
from subsetopt.data.readers import image_cache, image_folder


def _make(folder: Path, split: str, label: str, name: str, pixels: np.ndarray) -> Path:
    path = folder / split / label / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, six training images each and one test image each; every pixel tells class and number."""
    for label, base in (("cat", 0), ("dog", 100)):
        for number in range(6):
            _make(tmp_path / "pets", "train", label, f"{number}.png", np.full((6, 5, 3), base + number, np.uint8))
        _make(tmp_path / "pets", "test", label, "a.png", np.full((6, 5, 3), base + 50, np.uint8))
    return tmp_path / "pets"


def test_images_classes_and_rows_follow_the_sorted_names(folder: Path) -> None:
    data = load_dataset("image-folder", data_dir=folder, validation_fraction=0)
    assert (data.in_shape, data.n_outputs, data.class_names) == ((3, 6, 5), 2, ("cat", "dog"))
    assert data.train.inputs[:, 0, 0, 0].tolist() == [*range(6), *range(100, 106)]
    assert data.train.targets.tolist() == [0] * 6 + [1] * 6
    assert data.test is not None and data.test.inputs[:, 2, 5, 4].tolist() == [50, 150]
    assert data.normalization is not None and data.train.inputs.dtype == torch.uint8


def test_channels_rows_and_columns_are_not_mixed_up(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 7, 3), np.uint8)
    for label in ("one", "two"):
        _make(tmp_path, "train", label, "0.png", pixels)
    data = load_dataset("image-folder", data_file=tmp_path, validation_fraction=0)
    assert np.array_equal(data.train.inputs[0].numpy(), pixels.transpose(2, 0, 1)) and data.test is None


def test_grey_images_have_one_channel_and_val_is_the_validation_split(tmp_path: Path) -> None:
    for split, n in (("train", 3), ("val", 2)):
        for number in range(n):
            _make(tmp_path, split, "ab"[number % 2], f"{number}.png", np.full((4, 4), 10 + number, np.uint8))
    data = load_dataset("image-folder", data_dir=tmp_path, validation_fraction=0.5)
    assert data.in_shape == (1, 4, 4) and len(data.train) == 3
    assert data.validation is not None and data.validation.inputs[:, 0, 0, 0].tolist() == [10, 11]


def test_the_second_load_decodes_nothing_and_a_changed_file_everything(folder: Path, monkeypatch) -> None:
    decoded: list[int] = []
    original = image_folder.decode
    monkeypatch.setattr(image_folder, "decode", lambda files, size: decoded.append(len(files)) or original(files, size))
    bitmap = _make(folder, "train", "cat", "0.bmp", np.full((6, 5, 3), 11, np.uint8))
    first, second = (load_dataset("image-folder", data_dir=folder) for _ in range(2))
    assert decoded == [15] and torch.equal(first.train.inputs, second.train.inputs)
    _make(folder, "train", "cat", "0.bmp", np.full((6, 5, 3), 77, np.uint8))  # the same size in bytes
    os.utime(bitmap, (1, 1))
    changed = load_dataset("image-folder", data_dir=folder, validation_fraction=0)
    assert decoded == [15, 15] and int(changed.train.inputs[0, 0, 0, 0]) == 77
    for cache in (folder / image_cache.FOLDER).iterdir():
        cache.write_bytes(cache.read_bytes()[:300])
    load_dataset("image-folder", data_dir=folder)
    assert decoded == [15, 15, 15] and not list((folder / image_cache.FOLDER).glob("*.part"))


def test_a_folder_that_cannot_be_written_is_cached_elsewhere_or_not_at_all(folder: Path, monkeypatch) -> None:
    (folder / image_cache.FOLDER).write_text("a file where the cache folder would be")
    load_dataset("image-folder", data_dir=folder)
    elsewhere = Path(os.environ["HOME"]) / ".cache" / "subsetopt" / image_cache.FOLDER
    assert len(list(elsewhere.iterdir())) == 1

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    _make(folder, "train", "cat", "new.png", np.zeros((6, 5, 3), np.uint8))
    assert len(load_dataset("image-folder", data_dir=folder, validation_fraction=0).train) == 13
    assert len(list(elsewhere.iterdir())) == 1


def test_unequal_sizes_are_refused_or_resized(folder: Path, message) -> None:
    _make(folder, "train", "dog", "9.png", np.full((12, 10, 3), 30, np.uint8))
    text = message(load_dataset, "image-folder", data_dir=folder)
    assert "dog/9.png: is 10x12 pixels, 0.png is 5x6" in text and "image_size" in text
    data = load_dataset("image-folder", data_dir=folder, image_size=(3, 4), validation_fraction=0)
    assert data.in_shape == (3, 3, 4) and data.train.inputs[-1].unique().tolist() == [30]


def test_bad_folders_and_files_are_one_line(folder: Path, tmp_path: Path, message) -> None:
    assert "train: no such folder" in message(load_dataset, "image-folder", data_dir=tmp_path / "none")
    bad = folder / "train" / "dog" / "7.png"
    bad.write_bytes((folder / "train" / "dog" / "1.png").read_bytes()[:50])
    assert "dog/7.png: cannot be read as an image" in message(load_dataset, "image-folder", data_dir=folder)
    bad.write_bytes(b"no image")
    assert "dog/7.png: cannot be read as an image" in message(load_dataset, "image-folder", data_dir=folder)
    Image.fromarray(np.full((6, 5), 1000, np.uint16)).save(bad)
    assert "more than 8 bits per channel" in message(load_dataset, "image-folder", data_dir=folder)
    bad.unlink()
    (folder / "test" / "cow").mkdir()
    assert "class 'cow' is not among those of train/" in message(load_dataset, "image-folder", data_dir=folder)
    (folder / "test" / "cow").rmdir()
    (folder / "train" / "ant").mkdir()
    assert "ant: has no images" in message(load_dataset, "image-folder", data_dir=folder)
    (tmp_path / "empty" / "train").mkdir(parents=True)
    assert "has no class subfolders" in message(load_dataset, "image-folder", data_dir=tmp_path / "empty")


def test_without_pillow_the_extra_is_named(folder: Path, message, monkeypatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *arguments: object, **settings: object) -> object:
        if name == "PIL":
            raise ImportError(name)
        return original(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert "pip install 'subsetopt[vision]'" in message(load_dataset, "image-folder", data_dir=folder)
