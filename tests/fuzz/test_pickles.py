"""Pickles that nobody wrote: damaged batches of CIFAR, and sequences of opcodes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subsetopt.data.readers.cifar import _pickled
from subsetopt.data.readers.plain_pickle import load_plain

from .damage import EXAMPLES, MANY, damaged, examples, read_or_refuse

_BATCH = {b"data": np.zeros((2, 3072), np.uint8)[:, :16], b"labels": [1, 2], b"names": (b"a", "b", 1.5, None)}
DAMAGED = st.sampled_from([pickle.dumps(_BATCH, protocol) for protocol in range(5)]).flatmap(damaged)
_PIECES = [
    b"(",
    b")",
    b"]",
    b"}",
    b"N",
    b"\x88",
    b"K\x01",
    b"M\xff\xff",
    b"J\xff\xff\xff\x7f",
    b"U\x01a",
    b"X\x01\0\0\0b",
    b"C\x01c",
    b"q\x00",
    b"r\xff\xff\xff\x7f",
    b"h\x00",
    b"j\xff\xff\xff\x7f",
    b"\x85",
    b"\x86",
    b"\x87",
    b"t",
    b"l",
    b"d",
    b"a",
    b"e",
    b"s",
    b"u",
    b"b",
    b"R",
    b"0",
    b"1",
    b"2",
    b"\x81",
    b"\x8f",
    b"\x94",
    b"cnumpy\ndtype\n",
    b"cnumpy\nndarray\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"c_codecs\nencode\n",
    b"cos\nsystem\n",
    b"\x93",
    b"i__main__\nx\n",
    b"P1\n",
    b"U\x02u1",
    b"U\x02O8",
    b"I01\n",
    b"L9L\n",
    b"F1e400\n",
    b"S'x'\n",
    b"Vx\n",
    b"\x8a\x01\x05",
    b"G" + bytes(8),
    b".",
]
PROGRAMS = st.lists(st.sampled_from(_PIECES), max_size=60).map(lambda pieces: b"\x80\x02" + b"".join(pieces) + b".")


def _both(tmp_path: Path, content: bytes, program: bytes) -> None:
    path = tmp_path / "batch"
    for raw in (content, program):
        path.write_bytes(raw)
        read_or_refuse(lambda: load_plain(path), tmp_path)
        read_or_refuse(lambda: _pickled(path, b"labels"), tmp_path)


@examples(EXAMPLES)
@given(content=DAMAGED, program=PROGRAMS)
def test_damaged_pickles(tmp_path: Path, content: bytes, program: bytes) -> None:
    _both(tmp_path, content, program)


@pytest.mark.slow
@examples(MANY)
@given(content=DAMAGED, program=PROGRAMS)
def test_many(tmp_path: Path, content: bytes, program: bytes) -> None:
    _both(tmp_path, content, program)
