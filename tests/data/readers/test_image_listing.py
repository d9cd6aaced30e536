"""Folders as people have them: strays, pipes, links, odd names. What is skipped is counted and named."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from subsetopt.data import load_dataset


def _image(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), level, np.uint8)).save(path, format="PNG")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        for number in range(4):
            _image(tmp_path / "pets" / "train" / label / f"{number}.png", 10 * number)
    return tmp_path / "pets"


def _load(folder: Path):
    return load_dataset("image-folder", data_dir=folder, validation_fraction=0)


@pytest.mark.parametrize(
    ("stray", "note"),
    [
        ("train/.ipynb_checkpoints/0-checkpoint.png", "stray folders skipped: train/.ipynb_checkpoints/"),
        ("train/__MACOSX/._0.png", "stray folders skipped: train/__MACOSX/"),
        ("train/cat/.ipynb_checkpoints/0.png", "stray folders skipped: train/cat/.ipynb_checkpoints/"),
        ("train/cat/@eaDir/0.png", "stray folders skipped: train/cat/@eaDir/"),
        ("train/cat/._0.png", "1 hidden files skipped: train/cat/._0.png"),
        ("train/cat/notes.txt", "1 files skipped, they have no suffix of an image: train/cat/notes.txt"),
        ("train/cat/annotations.h5", "they have no suffix of an image"),
        ("train/0.png", "1 files of train/ skipped, they lie outside its class folders: 0.png"),
        ("extra/cat/0.png", "1 folders beside train/ skipped, they are no split: extra/"),
    ],
)
def test_strays_are_skipped_and_named(folder: Path, stray: str, note: str) -> None:
    _image(folder / stray)
    data = _load(folder)
    assert len(data.train) == 8 and data.class_names == ("cat", "dog")
    assert any(note in text for text in data.notes), data.notes


def test_nothing_is_said_of_a_clean_folder(folder: Path) -> None:
    assert _load(folder).notes == () == _load(folder).notes


def test_pipes_sockets_devices_and_broken_links_are_skipped_without_being_opened(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder / "train" / "cat")
    os.mkfifo("pipe.png")
    Path("gone.png").symlink_to("nowhere.png")
    Path("zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        data = _load(folder)
    assert len(data.train) == 8
    assert any("3 pipes, sockets or devices skipped" in note for note in data.notes)
    assert any("1 broken links skipped: train/cat/gone.png" in note for note in data.notes)


def test_linked_folders_are_followed_once(folder: Path) -> None:
    _image(folder.parent / "elsewhere" / "9.png")
    (folder / "train" / "cat" / "more").symlink_to(folder.parent / "elsewhere")
    (folder / "train" / "cat" / "again").symlink_to(folder / "train" / "cat")
    assert len(_load(folder).train) == 9


def test_names_that_are_no_text_are_read_and_shown_escaped(folder: Path) -> None:
    (folder / "train" / "cat" / "0.png").rename(folder / "train" / "cat" / os.fsdecode(b"\xc4\xe3.png"))
    (folder / "train" / "dog").rename(folder / "train" / os.fsdecode(b"\xb9\xb7"))
    data = _load(folder)
    assert data.class_names == ("cat", "\\xb9\\xb7") and len(data.train) == 8
    _load(folder).class_names[1].encode()


def test_a_class_has_one_name_in_both_unicode_forms(folder: Path, message) -> None:
    _image(folder / "train" / "\xe9meu" / "0.png")
    _image(folder / "test" / "e\u0301meu" / "0.png")
    data = _load(folder)
    assert data.class_names == ("cat", "dog", "\xe9meu") and data.test is not None and data.test.targets.tolist() == [2]
    _image(folder / "train" / "e\u0301meu" / "1.png")
    assert "'\\xe9meu'" in message(_load, folder) and "join them" in message(_load, folder)


def test_images_named_alike_in_two_unicode_forms_are_said(folder: Path) -> None:
    _image(folder / "train" / "cat" / "\xe9.png")
    _image(folder / "train" / "cat" / "e\u0301.png")
    data = _load(folder)
    assert len(data.train) == 10 and any("1 image names in two Unicode forms" in note for note in data.notes)


@pytest.mark.parametrize(("name", "part"), [("validation", "validation"), ("valid", "validation"), ("testing", "test")])
def test_splits_go_by_their_longer_names_too(folder: Path, message, name: str, part: str) -> None:
    _image(folder / name / "cat" / "0.png", 77)
    data = load_dataset("image-folder", data_dir=folder, validation_fraction=0.5)
    assert int(getattr(data, part).inputs.max()) == 77
    _image(folder / name.upper() / "cat" / "0.png")
    assert f"both {name.upper()}/ and {name}/ are there" in message(_load, folder)


def test_folders_of_another_layout_are_one_line(folder: Path, tmp_path: Path, message) -> None:
    _image(folder / "train" / "validation" / "cat" / "0.png")
    assert "train/validation: looks like a split" in message(_load, folder)
    _image(tmp_path / "one" / "train" / "cat" / "0.png")
    assert "a classifier needs two classes" in message(_load, tmp_path / "one")
    _image(tmp_path / "flat" / "train" / "0.png")
    assert "has no class subfolders, its 1 files lie flat" in message(_load, tmp_path / "flat")
    _image(tmp_path / "bare" / "cat" / "0.png")
    text = message(_load, tmp_path / "bare")
    assert "no such folder (it has the folders cat)" in text and "data_dir" in text
    (tmp_path / "file").touch()
    assert "Not a directory" in message(_load, tmp_path / "file")
    (folder / "train" / "ant").mkdir()
    (folder / "train" / "validation" / "cat" / "0.png").unlink()
    (folder / "train" / "validation" / "cat").rmdir()
    (folder / "train" / "validation").rmdir()
    assert "ant: has no images" in message(_load, folder)
