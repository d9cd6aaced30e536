"""The restricted unpickler: published arrays pass as numpy itself reads them, payloads are refused unrun."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from subsetopt.data.readers import plain_pickle
from subsetopt.data.readers.plain_pickle import load_plain


class _Call:
    def __init__(self, function: object, *arguments: object) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self._reduced


def _write(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["u1", "<i4", ">i4", "<f8", "?"])
def test_arrays_and_containers_come_back_as_pickled(tmp_path: Path, protocol: int, dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    content = {b"data": array, b"turned": np.asfortranarray(array), b"labels": [1, 2], b"more": (None, 1.5, True)}
    found = load_plain(_write(tmp_path / "batch", content, protocol))
    for key in (b"data", b"turned"):
        assert np.array_equal(np.asarray(found[key]), array) and found[key].dtype == array.dtype.newbyteorder("=")
    assert found[b"labels"] == [1, 2] and found[b"more"] == (None, 1.5, True)


def test_a_python_2_pickle_gives_bytes(tmp_path: Path) -> None:
    """{'data': array([[1, 2]], dtype=uint8)} as Python 2 wrote it: byte strings, the module name numpy.core."""
    path = tmp_path / "batch"
    path.write_bytes(
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01K\x02\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x01\x02tbs."
    )
    assert load_plain(path)[b"data"].tolist() == [[1, 2]]


def test_a_malicious_pickle_is_refused_before_it_runs(tmp_path: Path, message) -> None:
    marker = tmp_path / "run"
    for function, arguments in (
        (os.system, (f"touch {marker}",)),
        (eval, (f"open({str(marker)!r}, 'w')",)),
        (os.mkdir, (str(marker),)),
        (np.save, (str(marker), np.zeros(1))),
        (__import__, ("antigravity",)),
    ):
        text = message(load_plain, _write(tmp_path / "batch", {b"data": _Call(function, *arguments)}))
        assert "batch: refused, the pickle asks for" in text and "subsetopt download" in text
    assert not list(tmp_path.glob("run*"))


@pytest.mark.parametrize(
    "content",
    [
        np.array([{}], dtype=object),
        np.zeros(2, dtype=[("a", "i4")]),
        np.array(["text"]),
        _Call(np.ndarray, (2**40,)),
        _Call(np.dtype, "O"),
        {1, 2},
        Path("/"),
    ],
)
def test_objects_structures_and_sets_are_refused(tmp_path: Path, message, content: object) -> None:
    assert "refused" in message(load_plain, _write(tmp_path / "batch", content))


def test_a_dtype_state_cannot_forge_item_sizes(tmp_path: Path) -> None:
    """`numpy.dtype.__setstate__` would take the item size 64 from this pickle; ours keeps one byte."""
    plain = pickle.dumps(np.zeros(4, np.uint8), protocol=2)
    forged = plain.replace(b"NNNJ\xff\xff\xff\xff", b"NNNJ\x40\x00\x00\x00")
    assert forged != plain
    (tmp_path / "batch").write_bytes(forged)
    assert load_plain(tmp_path / "batch").dtype.itemsize == 1


@pytest.mark.parametrize("cut", [0, 1, 5, 40, -1, -20])
def test_truncated_and_malformed_pickles_are_one_line(tmp_path: Path, message, cut: int) -> None:
    path = _write(tmp_path / "batch", {b"data": np.zeros((2, 8), np.uint8)})
    path.write_bytes(path.read_bytes()[:cut])
    assert "batch: not a complete pickle" in message(load_plain, path)
    path.write_bytes(b"\x00\xff garbage" * 10)
    assert "batch: not a complete pickle" in message(load_plain, path)


def _deep(opener: bytes, closer: bytes, depth: int) -> bytes:
    return b"\x80\x02" + opener * depth + closer * depth


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f0N.",  # a memo index of 2^31: Python's unpickler takes 16 GB for it
        b"\x80\x02Nr\xff\xff\xff\x04.",
        b"\x80\x02}" + b")" + b"\x85" * 500_000 + b"Ns.",  # a key of 500 000 nested tuples: hashing it is a crash
        b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
        b"\x80\x02cnumpy\ndtype\n}U\x04nameU\x01xsb.",  # BUILD on a shared function
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x03foo}sb.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n.",
        b"\x80\x02]]cnumpy\ndtype\naa.",
        b"\x80\x02]q\x00h\x00a" + b"h\x00\x85" * 10 + b".",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
        b"(" * 10 + b".",
        b"L" + b"9" * 100_000 + b"L\n.",
    ],
)
def test_bombs_are_one_line_in_bounded_time_and_memory(tmp_path: Path, message, content: bytes) -> None:
    (tmp_path / "batch").write_bytes(content)
    tracemalloc.start()
    text = message(load_plain, tmp_path / "batch")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "batch: " in text and peak < 64 * 2**20


def test_states_change_nothing_that_is_shared(tmp_path: Path, message) -> None:
    message(load_plain, tmp_path / "none")
    before = dict(vars(plain_pickle._reconstruct)), dict(vars(plain_pickle._Dtype))
    (tmp_path / "batch").write_bytes(b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x03fooU\x03barsb.")
    assert "refused" in message(load_plain, tmp_path / "batch")
    assert before == (dict(vars(plain_pickle._reconstruct)), dict(vars(plain_pickle._Dtype)))


def test_nested_lists_are_read_and_freed(tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    assert isinstance(load_plain(tmp_path / "batch")[0][0], list)
