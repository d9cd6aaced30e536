"""Files with a table: text with separators (also compressed by gzip), Parquet, ARFF."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from subsetopt.data.names import listed, shown
from subsetopt.data.tables.arff import read_arff
from subsetopt.data.tables.delimited import delimited_pieces, read_delimited
from subsetopt.data.tables.reading import Numbers
from subsetopt.data.tables.table import Table, column_of, repeated
from subsetopt.errors import DataError, setting

_PIECE = 65_536
_BAR_ROWS = 500_000


def read_table(
    path: Path, keyword: str = "data_file", drop: Sequence[str] = (), numbers: Numbers | None = None
) -> Table:
    """Return the table of a file by its ending; `keyword` is the setting that named it. Raises `DataError`.

    Columns in `drop` may hold what no column of a table can; they are empty. Of text files the columns of `numbers`
    may be kept as numbers.
    """
    packed = path.suffix.lower() == ".gz"
    ending = path.with_suffix("").suffix.lower() if packed else path.suffix.lower()
    reader = _READERS.get(ending) if not packed or ending in _TEXTS else None
    if not os.path.isfile(path):  # noqa: PTH113 (false, where Path.is_file raises on a NUL or a long name)
        what = "is a folder" if os.path.isdir(path) else "no such file"  # noqa: PTH112
        raise DataError(f"{shown(path)}: {what}; name a {listed(_READERS)} file with {setting(keyword)}")
    if reader is None:
        endings = ", ".join([*_READERS, *(f"{text}.gz" for text in _TEXTS)])
        raise DataError(f"{shown(path)}: its ending is none of {endings}; convert it, or rename it to what it is")
    if ending in _TEXTS:
        return read_delimited(path, _separator(ending), numbers)
    return _parquet(path, drop) if ending == ".parquet" else reader(path)


def _separator(ending: str) -> str | None:
    return "\t" if ending == ".tsv" else None


def table_pieces(path: Path) -> Iterator[Table]:
    """Yield the table of a file, in pieces of some thousand rows where it is text; raises as `read_table`."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    ending = name.suffix.lower()
    if ending in _TEXTS and os.path.isfile(path):  # noqa: PTH113 (as above)
        yield from delimited_pieces(path, _separator(ending))
    else:
        yield read_table(path)


def _parquet(path: Path, drop: Sequence[str] = ()) -> Table:
    name = shown(path)
    try:
        import pyarrow.parquet  # an extra: a machine that reads CSV alone needs no hundred megabytes more
    except ImportError:
        raise DataError(f"{name}: Parquet needs pyarrow; pip install 'subsetopt[tables]', or save it as .csv") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = [str(text) for text in file.schema_arrow.names]
            total = file.metadata.num_rows
            pieces: list[list[Any]] = [[] for _ in names]
            small = None if total >= _BAR_ROWS else True
            with tqdm(total=total, unit="rows", desc=f"reading {path.name}", leave=False, disable=small) as bar:
                for batch in file.iter_batches(batch_size=_PIECE):
                    for place, column in enumerate(batch.columns):
                        pieces[place].append(_piece(column, names[place], name, drop))
                    bar.update(batch.num_rows)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{name}: cannot be read as Parquet ({reason}); write it anew") from None
    if not total:
        raise DataError(f"{name}: has no rows; fill it")
    columns = {text: _joined(parts, text, name) for text, parts in zip(names, pieces, strict=True)}
    return Table(name, columns, total, repeated=repeated(names))


def _piece(column: Any, own: str, name: str, drop: Sequence[str]) -> Any:
    """Return a part of a column, an empty one where it is left out."""
    if own in drop:
        return np.full(len(column), "", dtype=object)
    try:
        return column_of(column.to_numpy(zero_copy_only=False), own, name)
    except DataError as error:
        raise DataError(f"{error}, or leave the column out with {setting('drop', own)}") from None


def _joined(parts: list[Any], column: str, table: str) -> Any:
    """Return one column; a piece without missing values may be of another dtype than one with them."""
    kinds = {part.dtype.kind for part in parts}
    if "O" in kinds and len(kinds) > 1:
        return column_of(np.concatenate([part.astype(object) for part in parts]), column, table)
    return np.concatenate(parts)


_READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": read_delimited,
    ".tsv": lambda path: read_delimited(path, "\t"),
    ".txt": read_delimited,
    ".parquet": _parquet,
    ".arff": read_arff,
}
ENDINGS = tuple(_READERS)
_TEXTS = (".csv", ".tsv", ".txt")
