"""Download the published data sets: resumable, verified before anything is put in place."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import ssl
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from subsetopt.data.archive import extract
from subsetopt.data.publishers import PUBLISHED, PublishedFile
from subsetopt.errors import DataError, setting, unknown_name

Progress = Callable[[int, int | None], None]

_BLOCK = 2**18
_TIMEOUT_SECONDS = 30.0
_ATTEMPTS = 4
_YOUR_OWN = {
    "npz": ("a file", "data_file", "FILE.npz"),
    "table": ("a file", "data_file", "FILE.csv"),
    "image-folder": ("a folder", "data_dir", "FOLDER"),
}


def download(
    name: str,
    data_dir: str | Path,
    *,
    sources: Sequence[PublishedFile] | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Fetch the data set `name` (see `PUBLISHED`) into `data_dir`, where `load_dataset` finds it; returns its files.

    What is already complete, by checksum, is left alone. A transfer that breaks off leaves FILE.part, and the next
    call goes on from there. `progress(done, total)` is told bytes of the file at hand (total None where the server
    does not say). `sources` replaces the publishers.

    Raises `SettingError` for an unknown name and `DataError`, in one line, for an unreachable host, a file that is
    not there, a wrong checksum, a full disk or an archive that would write outside `data_dir`.
    """
    if sources is None:
        if name == "digits":
            raise DataError("digits: nothing to download, they are embedded in scikit-learn")
        if name in _YOUR_OWN:
            what, keyword, example = _YOUR_OWN[name]
            raise DataError(f"{name}: nothing to download, it is {what} of your own, {setting(keyword, example)}")
        if name not in PUBLISHED:
            raise unknown_name("dataset", name, PUBLISHED)
        sources = PUBLISHED[name]
    root = Path(data_dir).expanduser()
    report = progress or (lambda done, total: None)
    try:
        return [path for source in sources for path in _provide(source, root, report)]
    except OSError as error:
        where = error.filename or root
        raise DataError(
            f"{where}: cannot be written ({error.strerror}); free space or choose another {setting('data_dir')}"
        ) from error


def _provide(source: PublishedFile, root: Path, progress: Progress) -> list[Path]:
    """Return the files that `source` stands for, fetching and unpacking only what is missing."""
    members = [root / member for member in source.members]
    if members and all(member.is_file() for member in members):
        return members
    target = root / source.folder / source.name
    if not _is_complete(target, source):
        target.parent.mkdir(parents=True, exist_ok=True)
        _fetch(source, target, progress)
    if not members:
        return [target]
    extract(target, root)
    for member in members:
        if not member.is_file():
            raise DataError(f"{target}: the archive has no {member.relative_to(root)}; report this to the publisher")
    return members


def _is_complete(path: Path, source: PublishedFile) -> bool:
    if not path.is_file():
        return False
    if _md5(path) == source.md5:
        return True
    if not source.contents_md5:
        return False
    try:
        with gzip.open(path) as file:
            return _digest(file) == source.contents_md5
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return False


def _fetch(source: PublishedFile, target: Path, progress: Progress) -> None:
    """Download to `target`.part from the first mirror that delivers the right bytes, then rename."""
    part = target.with_name(target.name + ".part")
    failures = []
    for url in source.urls:
        # A part left over, perhaps by another mirror or version, is worth one try; a fresh one is worth a second.
        for fresh in (False, True):
            resumed = part.exists()
            try:
                _transfer(url, part, progress, source.most_bytes)
            except _TransferError as error:
                failures.append(f"{url}: {error}")
                break
            if _md5(part) == source.md5:
                part.replace(target)
                return
            part.unlink()
            if fresh or not resumed:
                failures.append(f"{url}: wrong checksum, expected MD5 {source.md5}")
                break
    raise DataError(
        f"{source.name}: download failed ({'; '.join(failures)}); check the connection and run the same command again"
    )


class _TransferError(Exception):
    """Why a mirror did not deliver, in words for the user."""


def _transfer(url: str, part: Path, progress: Progress, most_bytes: int) -> None:
    """Append to `part` what it lacks, reconnecting while that brings new bytes."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            total = _request(url, part, progress, most_bytes)
        except urllib.error.HTTPError as error:
            raise _TransferError(f"HTTP {error.code} {_reason(error.reason)}") from error
        except urllib.error.URLError as error:
            raise _TransferError(f"cannot be reached ({_reason(error.reason)})") from error
        except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
            total, reason = None, _reason(error)
        except (ValueError, TypeError) as error:  # an address that is none, also after a redirection
            raise _TransferError(f"leads to no address ({_reason(error)})") from error
        else:
            if total is None or part.stat().st_size >= total:
                return
            reason = "the connection closed early"
        if attempt == _ATTEMPTS:
            done = part.stat().st_size if part.exists() else 0
            raise _TransferError(f"{reason} after {done} of {total or 'unknown'} bytes")


def _request(url: str, part: Path, progress: Progress, most_bytes: int) -> int | None:
    """Make one request, from the end of `part` on; returns the size of the whole file where the server says it.

    A body that would make more than `most_bytes` ends the transfer, and the part with it.
    """
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "subsetopt", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return have  # nothing lies beyond the part: the checksum tells whether it is the file
        raise
    with response:
        if response.status != http.client.PARTIAL_CONTENT or not _starts_at(response, have):
            have = 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
        with part.open("ab" if have else "wb") as file:
            for block in _blocks(response) if (total or 0) <= most_bytes else ():
                have += len(block)
                if have > most_bytes:
                    break
                file.write(block)
                progress(have, total)
    if max(have, total or 0) > most_bytes:
        part.unlink()
        raise _TransferError(f"sends more than {most_bytes} bytes, which are no file of this publisher")
    return total


def _starts_at(response: http.client.HTTPResponse, offset: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _blocks(file: IO[bytes] | gzip.GzipFile | http.client.HTTPResponse) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: IO[bytes] | gzip.GzipFile) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()


def _reason(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__
