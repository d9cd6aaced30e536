"""Text files with separated columns (CSV, TSV): encoding, separator, comments and header are found, nothing is guessed.

Whatever does not fit - a line with another number of fields, a quote that is not closed - is refused by its line.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import os
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from subsetopt.data.names import shown
from subsetopt.data.tables.reading import Cells, Numbers, cells_of
from subsetopt.data.tables.table import Table, repeated
from subsetopt.errors import DataError

_PIECE = 20_480  # rows that are converted at a time, a multiple of a predictor's chunk
_MARGIN = 1.03  # of the rows foreseen, so that a few more than that need no other place
_CELLS = 32_768  # cells that are in memory as text of their own
_BAR_BYTES = 2**24  # from this size on, reading shows a bar
_SEPARATORS = (",", ";", "\t", "|")
_LONGEST_CELL = 2**24


def read_delimited(path: Path, separator: str | None = None, numbers: Numbers | None = None) -> Table:
    """Return the table of a text file whose first line names its columns; `separator` None: found in that line.

    Columns of text take some 70 bytes for each different cell, those of `numbers` 8.
    Lines before the header that begin with # are comments. Files in UTF-8 (with or without a byte order mark), UTF-16
    with one, and otherwise Windows-1252. Raises `DataError` in one line.
    """
    name = shown(path)
    start = _beginning(path, name)
    utf16 = start[:2] in (b"\xff\xfe", b"\xfe\xff")
    if not utf16 and b"\0" in start:
        raise DataError(f"{name}: is no text file; give a .csv file, or one with the ending of its format")
    try:
        return _read(path, name, separator, "utf-16" if utf16 else "utf-8-sig", (), numbers)
    except UnicodeDecodeError:
        if utf16:
            raise DataError(f"{name}: is damaged UTF-16; save it as UTF-8") from None
        note = f"{name}: is not UTF-8, read as Windows-1252"
        return _read(path, name, separator, "cp1252", (note,), numbers)


def delimited_pieces(path: Path, separator: str | None = None) -> Iterator[Table]:
    """Yield the table that `read_delimited` returns in pieces of some thousand rows; raises as it does."""
    name, start = shown(path), _beginning(path, shown(path))
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start:
        yield read_delimited(path, separator)
        return
    try:
        with _text(path, "utf-8-sig", "strict") as file:
            while file.read(2**20):
                pass
    except UnicodeDecodeError:
        yield read_delimited(path, separator)
        return
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name}: cannot be unpacked ({error}); pack it anew") from None
    yield from _tables(path, name, separator, "utf-8-sig", (), whole=False)


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


def _read(
    path: Path, name: str, separator: str | None, encoding: str, notes: tuple[str, ...], numbers: Numbers | None
) -> Table:
    """Return the whole table; columns in which words come after numbers are read a second time."""
    late: set[str] = set()
    table = next(_tables(path, name, separator, encoding, notes, whole=True, numbers=numbers, late=late))
    if not late:
        return table
    again = next(_tables(path, name, separator, encoding, notes, whole=True, only=late))
    columns = {column: again.columns[column] if column in late else own for column, own in table.columns.items()}
    return replace(table, columns=columns)


def _tables(
    path: Path,
    name: str,
    separator: str | None,
    encoding: str,
    notes: tuple[str, ...],
    whole: bool,
    numbers: Numbers | None = None,
    late: set[str] | None = None,
    only: Collection[str] | None = None,
) -> Iterator[Table]:
    """Yield one table of all rows, or pieces of it; of the columns `only`, where given.

    `late` is told the columns of `numbers` that turned out to be words, which are empty.
    """
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
            rows, empty = _rows(reader, len(header), name, skipped), True
            while empty or not whole:
                taken = rows if whole else itertools.islice(rows, _PIECE)
                cells = cells_of(header, numbers)
                lines_of = _take_in(taken, header, cells, only, file, bar)
                if not len(lines_of):
                    break
                empty = False
                by_name = {column: own.column() for column, own in zip(header, cells, strict=True)}
                if late is not None:
                    late.update(column for column, own in zip(header, cells, strict=True) if own.late)
                yield Table(name, by_name, len(lines_of), separator, lines_of, repeated(header), notes)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{name}: cannot be unpacked ({error}); pack it anew") from None
        except csv.Error as error:
            line = skipped + reader.line_num
            raise DataError(f"{name}: line {line} cannot be read ({error}); mend its quotes") from None
    if empty:
        raise DataError(f"{name}: has a header and no rows; fill it")


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


def _take_in(
    rows: Iterator[tuple[int, list[str]]],
    header: Sequence[str],
    cells: Sequence[Cells],
    only: Collection[str] | None,
    file: IO[str],
    bar: Any,
) -> NDArray[np.int64]:
    """Fill `cells` with the columns of the rows, and return the line numbers of these."""
    numbers: list[NDArray[np.int64]] = []
    size = max(1, min(_PIECE, _CELLS // len(header)))
    while piece := list(itertools.islice(rows, size)):
        if not numbers:
            for own in cells:
                own.expected = _expected(len(piece), file, bar.total)
        numbers.append(np.fromiter((line for line, _ in piece), np.int64, len(piece)))
        for name, own, column in zip(header, cells, zip(*(fields for _, fields in piece), strict=True), strict=True):
            if only is None or name in only:
                own.add(column)
        bar.update(min(file.buffer.tell(), bar.total) - bar.n)  # type: ignore[attr-defined]  # a text file has a buffer
    return np.concatenate(numbers) if numbers else np.empty(0, dtype=np.int64)


def _expected(rows: int, file: IO[str], size: int) -> int:
    """Return about how many rows a file of `size` bytes has, by where it was left after the first `rows`."""
    binary: Any = file.buffer  # type: ignore[attr-defined]  # a text file has a buffer
    read = getattr(binary, "fileobj", binary).tell()  # of a packed file the packed bytes
    return int(rows * size / max(read, 1) * _MARGIN)


def _bar(path: Path) -> Any:
    size = os.path.getsize(path)  # noqa: PTH202 (one stat either way)
    small = None if size >= _BAR_BYTES else True  # None: a bar on a terminal alone
    return tqdm(total=size, unit="B", unit_scale=True, desc=f"reading {path.name}", leave=False, disable=small)
