"""Columns kept as numbers while a file is read: the same data as from its text, in a fraction of the memory."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from subsetopt.data import load_dataset
from subsetopt.data.digest import dataset_digest
from subsetopt.data.tables import delimited
from subsetopt.data.tables.delimited import read_delimited
from subsetopt.data.tables.encoding import learn_encoding
from subsetopt.data.tables.reading import Numbers
from subsetopt.data.tables.target import labelled, read_target
from subsetopt.errors import DataError

N = 60
ROWS = range(N)
COLUMNS = {
    "plain": [f"{i * 0.37:.4f}" for i in ROWS],
    "signs": [f"{'+' if i % 2 else '-'}{i}.5e-{i % 4}" for i in ROWS],
    "gaps": ["" if i % 5 == 0 else "NA" if i % 7 == 0 else f" {i}.25 " for i in ROWS],
    "late words": [str(i) if i < 50 else "many" if i % 2 else "few" for i in ROWS],
    "codes": ["007" if i % 3 else "7" for i in ROWS],
    "constant": ["3.0"] * N,
    "empty": [""] * N,
    "grouped": [f'"{i + 1},{i:03d}.5"' for i in ROWS],
    "per cent": [f"{i}%" for i in ROWS],
    "large": [str(2**60 + i) for i in ROWS],
    "customer_id": [str(1000 + i) for i in ROWS],
    "truth": ["yes" if i % 3 else "no" for i in ROWS],
    "date": [f"2020-01-{i % 28 + 1:02d}" for i in ROWS],
}
TARGETS = {
    "quantity": [f"{i % 7}.5" for i in ROWS],
    "class": [str(i % 3) for i in ROWS],
    "class with gaps": ["" if i % 9 == 0 else str(i % 3) for i in ROWS],
    "code": [f"0{i % 3}" for i in ROWS],
    "late name": [str(i % 3) if i < 50 else "none" for i in ROWS],
    "large": [str(2**60 + i % 3) for i in ROWS],
    "mixed": [str(i % 3) if i % 2 else f"{i}.25" for i in ROWS],
}


def _written(path: Path, target: str) -> Path:
    lines = [",".join([*COLUMNS, "y"])]
    lines += [",".join([*(column[i] for column in COLUMNS.values()), TARGETS[target][i]]) for i in ROWS]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("target", TARGETS)
def test_numbers_kept_while_reading_are_those_of_the_text(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "_CELLS", 8 * (len(COLUMNS) + 1))  # eight rows in a piece: words come late
    path = _written(tmp_path / "a.csv", target)
    tables = [read_delimited(path, None, numbers) for numbers in (None, Numbers(None, "y"))]
    kept = {name for name, column in tables[1].columns.items() if column.dtype.kind in "fi"}
    assert kept >= {"plain", "signs", "gaps", "constant", "customer_id", "large"}
    assert not kept & {"late words", "grouped", "per cent", "truth", "date"}
    found = []
    for whole in tables:
        table, rows, notes = labelled(whole, "y")
        encoding = learn_encoding(table.take(np.arange(len(rows) - 3)), "y", ("late words",))
        found.append((encoding.document(), encoding.encode(table)[0], rows, notes, read_target(table, "y", None)))
    for text, numbers in zip(*found, strict=True):
        if isinstance(text, np.ndarray):
            assert text.dtype == numbers.dtype
            np.testing.assert_array_equal(numbers, text)
        elif isinstance(text, dict):
            for old, new in zip(text["columns"], numbers["columns"], strict=True):
                assert {**new, "reason": ""} == {**old, "reason": ""}
        else:
            assert numbers == text


def test_a_table_is_read_in_three_times_the_memory_of_its_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of the cells alone was 60 bytes for 8."""
    monkeypatch.setattr(delimited, "_CELLS", 2048)
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(12_000, 4))
    text = "a,b,c,y\n" + "".join(f"{a:.6f},{b:.6f},{c:.6f},{y:.6f}\n" for a, b, c, y in numbers.tolist())
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode(), 1))
    load_dataset("table", data_file=_written(tmp_path / "warm.csv", "quantity"), target_column="y", drop=["late words"])
    digests = set()
    for name in ("a.csv", "a.csv.gz"):
        tracemalloc.start()
        data = load_dataset("table", data_file=tmp_path / name, target_column="y")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert data.validation is not None
        arrays = sum(part.inputs.nbytes + part.targets.nbytes for part in (data.train, data.validation))
        constant = 60 * 2 * delimited._CELLS + 2**19  # the text of a piece, and what a module leaves behind
        assert peak < 3 * arrays + constant
        digests.add(dataset_digest(data))
        expected = np.round(numbers[data.train.rows.numpy(), :3], 6)
        np.testing.assert_array_equal(data.train.inputs.numpy(), expected)
    assert len(digests) == 1


def test_what_is_wrong_is_named_by_line_and_column(tmp_path: Path) -> None:
    lines = ["a,y", *(f"{i}.5,{i}.25" for i in range(100))]
    for line, text, said in (
        (71, "1e39,0.5", r"'a': 1e\+39 in line 71 is too large"),
        (93, "inf,0.5", "'inf' in line 93"),
    ):
        path = tmp_path / "a.csv"
        path.write_text("\n".join([*lines[: line - 1], text, *lines[line:]]))
        with pytest.raises(DataError, match=said):
            load_dataset("table", data_file=path, target_column="y")


def test_a_notation_that_was_learnt_reads_later_files(tmp_path: Path) -> None:
    """1.234 is a thousand and more where training wrote 1.234,5, also where all look like plain numbers."""
    train, test = tmp_path / "a.csv", tmp_path / "b.csv"
    train.write_text("a;y\n" + "".join(f"1.{i:03d},5;{i}.5\n" for i in range(100, 140)))
    test.write_text("a;y\n1.234;0.5\n1.235;0.25\n")
    data = load_dataset("table", data_file=train, target_column="y", test_file=test, validation_fraction=0)
    assert data.test is not None
    np.testing.assert_array_equal(data.test.inputs[:, 0].numpy(), [1234.0, 1235.0])
