"""Files written whole or not at all, and documents that tell when they were changed after they were written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from subsetopt.errors import RunDirectoryError, UserError, given

DIGEST = "digest"
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError, RecursionError)
"""What code that trusts a document raises where the document is not as it was written."""

_TEMPORARY = re.compile(r"^\..+\.\d+\.tmp$")
# File systems that cannot sync a folder say so in one of these ways; the file itself is safe by then.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def replace_file(target: Path, content: bytes, remedy: str = "make room") -> Path:
    """Write `target` so that a reader, or a crash, sees the old content or the new, and return it.

    Temporary file in the same folder, fsync, rename, fsync of the folder. Raises `RunDirectoryError` with `remedy`.
    """
    return replace_file_by(target, (content,), remedy)


def replace_file_by(target: Path, pieces: Iterable[bytes | memoryview], remedy: str = "make room") -> Path:
    """Write `target` as `replace_file` does, piece by piece: no more than one of them need be in memory."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise RunDirectoryError(cannot_be_written(target, error, remedy)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return target


def cannot_be_written(target: Path, error: OSError, remedy: str) -> str:
    """Return in one line why a file cannot be written, and `remedy`, unless its folder is gone."""
    if isinstance(error, FileNotFoundError) and not target.parent.exists():
        remedy = "its folder was removed or renamed meanwhile: put it back, or go on where it is now"
    elif isinstance(error, IsADirectoryError):
        remedy = "remove that folder, then go on"
    elif error.errno in _NOT_WRITABLE:
        remedy = remedy.replace("make room", "make its folder writable")
    return f"output = {str(target)!r}: cannot be written ({reason(error)}); {remedy}"


def check_writable(folder: Path, names: tuple[str, ...], setting: str = "output") -> None:
    """Raise `RunDirectoryError` where one of the files could not be written later: better now than after hours."""
    for name in names:
        if _blocked(folder / name):
            raise RunDirectoryError(f"{given(setting, folder)}: {name} is no regular file; remove it, then go on")
    probe = folder / f".writable.{os.getpid()}.tmp"
    try:
        with probe.open("wb") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunDirectoryError(
            f"{given(setting, folder)}: cannot be written to ({reason(error)}); make room and make it writable"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _blocked(path: Path) -> bool:
    """Return whether something that is no file stands where one is to be written."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno == errno.ELOOP  # what cannot be looked at for another reason, the probe tells


def remove_temporary(folder: Path) -> None:
    """Remove what a killed process left of `replace_file`; call it where no other process writes."""
    for path in folder.iterdir():
        if _TEMPORARY.match(path.name) and path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()


def read_document(path: Path, subject: str, remedy: str, *, unchanged: bool = True) -> dict[str, Any]:
    """Return the content of a JSON object; constants that JSON does not have (NaN) are None.

    Raises `RunDirectoryError` in one line, beginning with `subject`, where there is no such file, where it holds
    anything else, and with `unchanged` where it was changed after `sealed` had been written.
    """
    try:
        if not path.is_file():
            raise RunDirectoryError(
                f"{subject}: {f'{path.name} is no regular file' if path.exists() else f'has no {path.name}'}; {remedy}"
            )
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{subject}: {path.name} cannot be read ({reason(error)}); {remedy}") from None
    if not isinstance(content, dict):
        raise RunDirectoryError(f"{subject}: {path.name} holds no JSON object; {remedy}")
    said = content.get(DIGEST)
    if unchanged and said is not None and said != digest_of(content):
        raise RunDirectoryError(f"{subject}: {path.name} was changed after it was written (digest differs); {remedy}")
    return content


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with the digest by which `read_document` knows it; for numbers that JSON has."""
    return {**_bare(document), DIGEST: digest_of(document)}


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the sha256 of a JSON-able mapping but its digest, in hexadecimal digits; the order of entries counts."""
    return hashlib.sha256(json.dumps(_bare(document)).encode("ascii")).hexdigest()


def reason(error: BaseException) -> str:
    """Return in a few words on one line what went wrong."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = " ".join(str(text).split())
    return line if len(line) <= 160 else line[:157] + "..."


def _bare(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != DIGEST}


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> str | None:
    """Return the SHA-256 of a file's content, None for what is no file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holder_of(lock: Path) -> int | None:
    """Return the number of the process that holds a lock on a file; None where the system does not tell.

    Linux lists locks in /proc/locks by the file's device and inode; a process of another machine has no number there.
    """
    try:
        file = lock.stat()
        listed = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return None
    place = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    numbers = [fields[4] for fields in listed if len(fields) > 5 and fields[5] == place and fields[1] != "->"]
    return next((int(number) for number in numbers if number.isdecimal() and int(number) > 0), None)
