"""Archives that nobody wrote: read, or refused in one line."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from subsetopt.data import dataset_from_arrays, load_dataset

from .damage import EXAMPLES, MANY, damaged, examples, read_or_refuse


def _archive(compression: int) -> bytes:
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, array in (("x_train", rng.normal(size=(12, 3))), ("y_train", np.arange(12) % 3)):
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"{name}.npy", member.getvalue())
    return buffer.getvalue()


ARCHIVES = st.sampled_from([_archive(zipfile.ZIP_STORED), _archive(zipfile.ZIP_DEFLATED)]).flatmap(damaged)
# The text of a header between its braces: Python literals, nearly.
HEADERS = st.text("{}()[],:'<>|=-0123456789.eLfiuOcMmVUSTrueFalsehapdcrotn_ \n", max_size=120)
DTYPES = st.sampled_from(["f8", "f4", "i8", "u1", "?", "U3", "S3", "O", "M8[s]", "c8", "V4", "f2", "u8"])


def _read(path: Path) -> object:
    return load_dataset("npz", data_file=path, seed=0)


def _damaged_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    read_or_refuse(lambda: _read(path), tmp_path)


def _odd_header(tmp_path: Path, text: str, shape: tuple[int, ...], descr: str) -> None:
    path = tmp_path / "mine.npz"
    told = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    for header in (text, told):
        raw = header.encode()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x_train.npy", b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw + bytes(64))
        read_or_refuse(lambda: _read(path), tmp_path)


def _odd_arrays(tmp_path: Path, x: np.ndarray, y: np.ndarray, task: str | None) -> None:
    read_or_refuse(lambda: dataset_from_arrays(x, y, task=task), tmp_path)
    read_or_refuse(lambda: dataset_from_arrays(x, y, x, np.flip(y), task=task), tmp_path)


SHAPES = st.lists(st.sampled_from([0, 1, 2, 8, -1, -8, 2**31, 2**63, 10**30]), max_size=40).map(tuple)
OBJECTS = st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3), st.booleans())
ODD = st.one_of(
    st.sampled_from(["f8", "f4", "f2", "i1", "i8", "u8", "?", "U2", "S2", "c8", "M8[s]"]).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    ),
    st.lists(OBJECTS, max_size=8).map(lambda items: np.array([*items, None], dtype=object)[:-1]),
)
TASKS = st.sampled_from([None, "classification", "regression"])


@examples(EXAMPLES)
@given(content=ARCHIVES)
def test_damaged_archives(tmp_path: Path, content: bytes) -> None:
    _damaged_archive(tmp_path, content)


@examples(EXAMPLES)
@given(text=HEADERS, shape=SHAPES, descr=DTYPES)
def test_odd_headers(tmp_path: Path, text: str, shape: tuple[int, ...], descr: str) -> None:
    _odd_header(tmp_path, text, shape, descr)


@examples(EXAMPLES)
@given(x=ODD, y=ODD, task=TASKS)
def test_odd_arrays(tmp_path: Path, x: np.ndarray, y: np.ndarray, task: str | None) -> None:
    _odd_arrays(tmp_path, x, y, task)


@pytest.mark.slow
@examples(MANY)
@given(content=ARCHIVES, text=HEADERS, shape=SHAPES, descr=DTYPES, x=ODD, y=ODD, task=TASKS)
def test_many_of_each(tmp_path, content, text, shape, descr, x, y, task) -> None:
    _damaged_archive(tmp_path, content)
    _odd_header(tmp_path, text, shape, descr)
    _odd_arrays(tmp_path, x, y, task)
