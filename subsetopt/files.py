"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from subsetopt.errors import RunDirectoryError


def replace_file(target: Path, content: bytes, remedy: str = "make room") -> Path:
    """Write `target` so that a reader, or a crash, sees the old content or the new, and return it.

    Temporary file in the same folder, fsync, rename, fsync of the folder. Raises `RunDirectoryError` with `remedy`.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise RunDirectoryError(f"output = {str(target)!r}: cannot be written ({error.strerror}); {remedy}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return target
