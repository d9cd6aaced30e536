"""Unpack a downloaded tar archive: complete files or none, and never outside the folder."""

from __future__ import annotations

import errno
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from subsetopt.data.bounded import MOST_PACKED, SUSPECT_BYTES
from subsetopt.errors import DataError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)
_LONGEST_NAME = 200


def extract(archive: Path, folder: Path) -> None:
    """Unpack the files in `archive` into `folder`; a file appears there only when it is complete.

    Raises `DataError` for a damaged archive and for members that are no plain files or would land outside (absolute
    paths, `..`, links). Not by `tarfile`'s own filters, which Python 3.11.0 to 3.11.3 lack.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
        try:
            with tarfile.open(archive) as tar:
                members, total = [], 0
                for member in tar:
                    _require_safe(member, archive)
                    members.append(member)
                    total += member.size
                    _require_room(total, archive, folder)
                for member in members:
                    _write(tar, member, Path(temporary))
        except DataError:
            raise
        except Exception as error:  # tar readers raise anything on bytes that nobody wrote
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise
            raise DataError(f"{archive}: cannot be unpacked ({_one_line(error)}); delete it and try again") from error
        for path in Path(temporary).rglob("*"):
            if path.is_file():
                destination = folder / path.relative_to(temporary)
                destination.parent.mkdir(parents=True, exist_ok=True)
                path.replace(destination)


def _require_safe(member: tarfile.TarInfo, archive: Path) -> None:
    path = PurePosixPath(member.name)
    outside = path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name
    plain = member.isdir() or (member.isfile() and not member.issparse())
    odd = not member.name.isprintable() or len(member.name) > _LONGEST_NAME
    if outside or odd or not plain:
        problem = "lies outside the folder" if outside else "has no usable name" if odd else "is no plain file"
        raise DataError(f"{archive}: refused, an unsafe member ({member.name!r:.60} {problem}); delete the archive")


def _require_room(total: int, archive: Path, folder: Path) -> None:
    """Refuse before anything is written what is a bomb, or does not fit on the disk."""
    packed = archive.stat().st_size
    if total > SUSPECT_BYTES and total > MOST_PACKED * packed:
        problem = f"{packed} bytes that unpack to {total}, more than {MOST_PACKED} times as many"
        raise DataError(f"{archive}: refused, {problem}; delete the archive")
    free = shutil.disk_usage(folder).free
    if total > free:
        raise OSError(errno.ENOSPC, f"{total} bytes are needed, {free} free", str(folder))


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
