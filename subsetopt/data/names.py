"""Names that come from data - classes, files, arrays - made fit for one line on a terminal."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePath

_LONGEST = 60
_LISTED = 5


def printable(name: str) -> str:
    """Return the name with bytes that are no text and characters that print nothing as backslash escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace") if _has_raw_bytes(name) else name
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def shown(name: object) -> str:
    """Return the printable name, shortened in the middle where it is long; a path is left whole."""
    text = printable(str(name))
    return (
        text
        if len(text) <= _LONGEST or isinstance(name, PurePath)
        else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 3 :]}"
    )


def listed(names: Iterable[object], count: int | None = None) -> str:
    """Return the first few of `names`, shown, and how many follow; `count` is their number where `names` is cut."""
    kept: Sequence[object] = list(names)
    total = len(kept) if count is None else count
    more = f" and {total - _LISTED} more" if total > _LISTED else ""
    return ", ".join(shown(name) for name in kept[:_LISTED]) + more


def same_to_the_eye(name: str) -> str:
    """Return the form that names differing only in Unicode composition or in spaces at their ends share."""
    return unicodedata.normalize("NFC", name).strip()


def _has_raw_bytes(name: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in name)
