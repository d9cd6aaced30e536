"""Which files of a folder are images of which class; what is skipped is counted and named."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.names import listed, printable, same_to_the_eye, shown
from subsetopt.errors import DataError, setting

SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
_LITTER = frozenset({"__macosx", "__pycache__", "@eadir", "$recycle.bin", "lost+found", "system volume information"})


@dataclass
class Listing:
    """The image files of one split in a fixed order, with their classes."""

    files: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Class numbers, (n,)."""
        return np.asarray(self.labels, np.int64)


@dataclass
class Remarks:
    """Paths that something is to be said of, by what it is."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, path: Path | str) -> None:
        """Note one path."""
        self.found.setdefault(what, []).append(str(path))

    def notes(self) -> Iterator[str]:
        """Yield one sentence per kind: "3 hidden files skipped: ...", with the first few names."""
        for what, paths in sorted(self.found.items()):
            yield f"{len(paths)} {what}: {listed(sorted(paths))}"


def list_images(folder: Path, suffixes: frozenset[str]) -> tuple[dict[str, Listing], tuple[str, ...], tuple[str, ...]]:
    """Return the listings by split ("train", "test", "validation"), the class names, and notes on what was remarks.

    Classes are the folders in train/, in the order of their names; names that differ only in Unicode form are one.
    Raises `DataError` for a folder without train/, without two classes, and for classes that train/ does not have.
    """
    remarks = Remarks()
    splits = _split_folders(folder, remarks)
    classes = {part: _class_folders(path, remarks) for part, path in splits.items()}
    names = tuple(sorted(classes["train"]))
    listings = {}
    for part, path in splits.items():
        listings[part] = _listing(path, classes[part], names, folder, suffixes, remarks)
    return listings, tuple(printable(name) for name in names), tuple(remarks.notes())


def _split_folders(folder: Path, remarks: Remarks) -> dict[str, Path]:
    """Return train/ and where there are test/ and val/, also by their longer names."""
    found: dict[str, Path] = {}
    others = []
    for entry in _entries(folder):
        part = SPLITS.get(entry.name.lower())
        if not _is_folder(entry):
            continue
        if part is None:
            others.append(entry.name)
        elif part in found:
            raise DataError(f"{shown(folder)}: both {found[part].name}/ and {entry.name}/ are there; keep one of them")
        else:
            found[part] = entry
    visible = [name for name in others if not _is_litter(name)]
    if "train" not in found:
        has = f" (it has the folders {listed(sorted(visible))})" if visible else ""
        raise DataError(
            f"{shown(folder / 'train')}: no such folder{has}; image-folder needs train/CLASS/IMAGE files: move class "
            f"folders into train/, or name the folder that has train/ with {setting('data_dir')}"
        )
    for name in visible:
        remarks.add("folders beside train/ skipped, they are no split", f"{name}/")
    return {part: found[part] for part in ("train", "test", "validation") if part in found}


def _class_folders(split: Path, remarks: Remarks) -> dict[str, Path]:
    """Return the class folders of a split by the name of the class, in its composed Unicode form."""
    found: dict[str, Path] = {}
    flat = []
    for entry in _entries(split):
        name = same_to_the_eye(entry.name)
        if not _is_folder(entry):
            flat.append(entry)
        elif _is_litter(entry.name):
            remarks.add("stray folders skipped", f"{split.name}/{entry.name}/")
        elif name.lower() in SPLITS and any(_is_folder(inner) for inner in _entries(entry)):
            raise DataError(
                f"{shown(entry)}: looks like a split, not like a class; move it to {shown(split.parent / name)}, or "
                "rename it if it is a class"
            )
        elif name in found:
            pair = f"{found[name].name!a} and {entry.name!a}"
            raise DataError(
                f"{shown(split)}: the class folders {pair} differ only in spaces or Unicode form; join them"
            )
        else:
            found[name] = entry
    if not found:
        files = f", its {len(flat)} files lie flat" if flat else ""
        raise DataError(
            f"{shown(split)}: has no class subfolders{files}; image-folder needs {split.name}/CLASS/IMAGE files"
        )
    for entry in flat:
        if not entry.name.startswith("."):
            remarks.add(f"files of {split.name}/ skipped, they lie outside its class folders", entry.name)
    return found


def _listing(
    split: Path,
    classes: dict[str, Path],
    names: tuple[str, ...],
    root: Path,
    suffixes: frozenset[str],
    remarks: Remarks,
) -> Listing:
    listing = Listing()
    for name in sorted(classes):
        if name not in names:
            raise DataError(
                f"{shown(classes[name])}: the class {shown(name)!r} is not among those of train/ ({listed(names)}); "
                "add or remove it"
            )
        images = list(_images(classes[name], root, suffixes, remarks))
        if not images and split.name.lower() == "train":
            raise DataError(f"{shown(classes[name])}: has no images (.png, .jpg, ...); add some or remove the folder")
        images.sort(key=lambda path: [same_to_the_eye(part) for part in path.parts])
        listing.files += images
        listing.labels += [names.index(name)] * len(images)
        for twin in _twins(images):
            remarks.add("image names in two Unicode forms in one folder, both read", twin)
    if not listing.files:
        raise DataError(f"{shown(split)}: has no images; fill it or remove it")
    return listing


def _twins(images: list[Path]) -> Iterator[str]:
    for before, after in pairwise(images):
        if before.parent == after.parent and same_to_the_eye(before.name) == same_to_the_eye(after.name):
            yield after.name


def _images(folder: Path, root: Path, suffixes: frozenset[str], remarks: Remarks) -> Iterator[Path]:
    """Yield the image files in and below a class folder; linked folders are followed, but none twice."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in list(folders):
            if _is_litter(name):
                folders.remove(name)
                remarks.add("stray folders skipped", f"{(Path(place) / name).relative_to(root)}/")
        for name in files:
            path = Path(place) / name
            reason = _why_not(path, suffixes)
            if reason is None:
                yield path
            else:
                remarks.add(reason, path.relative_to(root))


def _why_not(path: Path, suffixes: frozenset[str]) -> str | None:
    """Return why a file is no image of ours, None where it may be one; it is not opened."""
    if path.name.startswith("."):
        return "hidden files skipped"
    if path.suffix.lower() not in suffixes:
        return "files skipped, they have no suffix of an image"
    try:
        mode = path.stat().st_mode
    except OSError:
        return "broken links skipped"
    return None if stat.S_ISREG(mode) else "pipes, sockets or devices skipped"


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(error) from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def _refuse(error: OSError) -> None:
    raise _unreadable(error) from error


def _unreadable(error: OSError) -> DataError:
    return DataError(f"{shown(error.filename)}: cannot be read ({error.strerror}); make it accessible or remove it")
