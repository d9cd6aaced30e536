"""Files are replaced whole: a failed write leaves the old content and no temporary file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from subsetopt.errors import RunDirectoryError
from subsetopt.files import replace_file


def test_content_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    assert replace_file(target, b"one") == target
    replace_file(target, b"two")
    assert target.read_bytes() == b"two" and list(tmp_path.iterdir()) == [target]


def test_a_full_disk_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = replace_file(tmp_path / "a.json", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunDirectoryError, match=r"No space left on device.*make room"):
        replace_file(target, b"new")
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]
