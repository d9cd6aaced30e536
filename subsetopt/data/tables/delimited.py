"""Text files with separated columns (CSV, TSV): encoding, separator, comments and header are found, nothing is guessed.

Whatever does not fit - a line with another number of fields, a quote that is not closed - is refused by its line.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from subsetopt.data.names import shown
from subsetopt.data.tables.table import Column, Table, repeated
from subsetopt.errors import DataError

_PIECE = 20_000  # rows that are converted at a time
_BAR_BYTES = 2**24  # from this size on, reading shows a bar
_SEPARATORS = (",", ";", "\t", "|")
_LONGEST_CELL = 2**24


def read_delimited(path: Path, separator: str | None = None) -> Table:
    """Return the table of a text file whose first line names its columns; `separator` None: found in that line.

    Lines before the header that begin with # are comments. Files in UTF-8 (with or without a byte order mark), UTF-16
    with one, and otherwise Windows-1252. Raises `DataError` in one line.
    """
    name = shown(path)
    start = _beginning(path, name)
    utf16 = start[:2] in (b"\xff\xfe", b"\xfe\xff")
    if not utf16 and b"\0" in start:
        raise DataError(f"{name}: is no text file; give a .csv file, or one with the ending of its format")
    try:
        return _read(path, name, separator, "utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        if utf16:
            raise DataError(f"{name}: is damaged UTF-16; save it as UTF-8") from None
        note = f"{name}: is not UTF-8, read as Windows-1252"
        return _read(path, name, separator, "cp1252", (note,))


def _beginning(path: Path, name: str) -> bytes:
    try:
        with gzip.open(path) if _packed(path) else path.open("rb") as file:
            return file.read(4096)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name}: cannot be unpacked ({error}); pack it anew") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}); check its permissions") from None


def _packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _text(path: Path, encoding: str, errors: str) -> IO[str]:
    if _packed(path):
        return gzip.open(path, "rt", encoding=encoding, errors=errors, newline="")
    return path.open(encoding=encoding, errors=errors, newline="")


def _read(path: Path, name: str, separator: str | None, encoding: str, notes: tuple[str, ...] = ()) -> Table:
    csv.field_size_limit(_LONGEST_CELL)
    errors = "backslashreplace" if encoding == "cp1252" else "strict"
    with _text(path, encoding, errors) as file, _bar(path) as bar:
        skipped, comment, first = _to_header(file)
        if not first:
            raise DataError(f"{name}: is empty; its first line must name the columns")
        if separator is None:
            separator = max(_SEPARATORS, key=_outside_quotes(first).count)
        if comment is not None and _names_columns(comment, first, separator):
            first, lines, skipped = comment, itertools.chain([comment, first], file), skipped - 1
        else:
            lines = itertools.chain([first], file)
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
        try:
            header = [text.strip() or f"column {number}" for number, text in enumerate(next(reader), 1)]
            columns, numbers = _columns(_rows(reader, len(header), name, skipped), len(header), file, bar)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{name}: cannot be unpacked ({error}); pack it anew") from None
        except csv.Error as error:
            line = skipped + reader.line_num
            raise DataError(f"{name}: line {line} cannot be read ({error}); mend its quotes") from None
    if not len(numbers):
        raise DataError(f"{name}: has a header and no rows; fill it")
    by_name = dict(zip(header, columns, strict=True))
    return Table(name, by_name, len(numbers), separator, np.array(numbers, dtype=np.int64), repeated(header), notes)


def _to_header(file: IO[str]) -> tuple[int, str | None, str]:
    """Return the number of lines before the header, the last comment among them, and the header ("" where none)."""
    skipped, comment = 0, None
    for line in file:
        if line.lstrip().startswith("#"):
            comment = line.lstrip().lstrip("#").lstrip()
        elif line.strip():
            return skipped, comment, line
        skipped += 1
    return skipped, None, ""


def _names_columns(comment: str, first: str, separator: str) -> bool:
    """Return whether a comment is the header, as numpy.savetxt writes it, of numbers that begin in the line `first`."""
    try:
        values = [float(text) for text in first.split(separator)]
    except ValueError:
        return False
    return len(comment.split(separator)) == len(values)


def _outside_quotes(line: str) -> str:
    return "".join(line.split('"')[::2])


def _rows(reader: Any, width: int, name: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and fields; blank lines and comments that are no rows are left out."""
    begin = reader.line_num + 1
    for fields in reader:
        line, begin = skipped + begin, reader.line_num + 1
        if len(fields) == width and (width > 1 or fields[0].strip()):
            yield line, fields
        elif any(text.strip() for text in fields) and not fields[0].startswith("#"):
            raise DataError(
                f"{name}: line {line} has {len(fields)} fields, the header {width}; mend the line, or quote fields "
                "that hold the separator"
            )


def _columns(
    rows: Iterator[tuple[int, list[str]]], width: int, file: IO[str], bar: Any
) -> tuple[list[Column], list[int]]:
    pieces: list[list[Column]] = [[] for _ in range(width)]
    known: dict[str, str] = {}  # the same text is one object, however often it occurs
    numbers: list[int] = []
    while piece := list(itertools.islice(rows, _PIECE)):
        numbers += [line for line, _ in piece]
        for column, cells in enumerate(zip(*(fields for _, fields in piece), strict=True)):
            texts = np.empty(len(cells), dtype=object)
            texts[:] = [known.setdefault(cell, cell.strip()) for cell in cells]
            pieces[column].append(texts)
        bar.update(min(file.buffer.tell(), bar.total) - bar.n)  # type: ignore[attr-defined]  # a text file has a buffer
    return [np.concatenate(column) if column else np.empty(0, dtype=object) for column in pieces], numbers


def _bar(path: Path) -> Any:
    size = os.path.getsize(path)  # noqa: PTH202 (one stat either way)
    small = None if size >= _BAR_BYTES else True  # None: a bar on a terminal alone
    return tqdm(total=size, unit="B", unit_scale=True, desc=f"reading {path.name}", leave=False, disable=small)
