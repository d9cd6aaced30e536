"""Unpack a downloaded tar archive: complete files or none, and never outside the folder."""

from __future__ import annotations

import tarfile
import tempfile
import zlib
from pathlib import Path

from subsetopt.errors import DataError


def extract(archive: Path, folder: Path) -> None:
    """Unpack `archive` into `folder`; a file appears there only when it is complete.

    Raises `DataError` for a damaged archive and for members that would land outside (absolute paths, `..`, links).
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
        except tarfile.FilterError as error:
            raise DataError(f"{archive}: refused, an unsafe member ({_one_line(error)}); delete the archive") from error
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise DataError(f"{archive}: cannot be unpacked ({_one_line(error)}); delete it and try again") from error
        for path in Path(temporary).rglob("*"):
            if path.is_file():
                destination = folder / path.relative_to(temporary)
                destination.parent.mkdir(parents=True, exist_ok=True)
                path.replace(destination)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
