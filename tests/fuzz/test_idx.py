"""idx files, plain and gzipped, that nobody wrote."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subsetopt.data.readers.idx import read_idx

from .damage import EXAMPLES, MANY, damaged, examples, read_or_refuse

_CONTENT = bytes([0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6]) + bytes(range(120))
PLAIN = damaged(_CONTENT)
PACKED = st.one_of(damaged(gzip.compress(_CONTENT)), PLAIN.map(gzip.compress))


def _both(tmp_path: Path, plain: bytes, packed: bytes) -> None:
    for name, content in (("images", plain), ("images.gz", packed)):
        (tmp_path / name).write_bytes(content)
        read_or_refuse(lambda name=name: read_idx(tmp_path / name, 3), tmp_path)


@examples(EXAMPLES)
@given(plain=PLAIN, packed=PACKED)
def test_damaged_files(tmp_path: Path, plain: bytes, packed: bytes) -> None:
    _both(tmp_path, plain, packed)


@pytest.mark.slow
@examples(MANY)
@given(plain=PLAIN, packed=PACKED)
def test_many(tmp_path: Path, plain: bytes, packed: bytes) -> None:
    _both(tmp_path, plain, packed)
