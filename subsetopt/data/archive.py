"""Unpack a downloaded tar archive: complete files or none, and never outside the folder."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from subsetopt.errors import DataError


def extract(archive: Path, folder: Path) -> None:
    """Unpack the files in `archive` into `folder`; a file appears there only when it is complete.

    Raises `DataError` for a damaged archive and for members that are no plain files or would land outside (absolute
    paths, `..`, links). Not by `tarfile`'s own filters, which Python 3.11.0 to 3.11.3 lack.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
        try:
            with tarfile.open(archive) as tar:
                members = tar.getmembers()
                for member in members:
                    _require_safe(member, archive)
                for member in members:
                    _write(tar, member, Path(temporary))
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(f"{archive}: cannot be unpacked ({_one_line(error)}); delete it and try again") from error
        for path in Path(temporary).rglob("*"):
            if path.is_file():
                destination = folder / path.relative_to(temporary)
                destination.parent.mkdir(parents=True, exist_ok=True)
                path.replace(destination)


def _require_safe(member: tarfile.TarInfo, archive: Path) -> None:
    path = PurePosixPath(member.name)
    outside = path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name
    if outside or not (member.isfile() or member.isdir()):
        problem = "lies outside the folder" if outside else "is no plain file"
        raise DataError(f"{archive}: refused, an unsafe member ({member.name!r} {problem}); delete the archive")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    source = tar.extractfile(member)
    if source is None:
        return
    target = folder / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("wb") as file:
        shutil.copyfileobj(source, file)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
