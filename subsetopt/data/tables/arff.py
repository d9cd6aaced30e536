"""ARFF, the format of Weka: dense and sparse rows, quoted names and values, nominal, text and date attributes.

After Weka's description of the format (waikato.github.io/weka-wiki/formats_and_processing/arff_stable). In a sparse row
what is left out is 0, of a nominal attribute its first value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from subsetopt.data.names import shown
from subsetopt.data.tables.cells import is_missing
from subsetopt.data.tables.table import Column, Table, repeated
from subsetopt.errors import DataError

_ATTRIBUTE = re.compile(
    r"""@attribute\s+('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s{]+)\s*(.*)""", re.IGNORECASE | re.DOTALL
)
# A quoted value, or one without quotes up to the separator.
_VALUE = re.compile(r"""\s*(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|((?:[^'",][^,]*?)?))\s*(,|$)""", re.DOTALL)
_ENTRY = re.compile(
    r"""\s*([0-9]+)\s+(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|((?:[^'",][^,]*?)?))\s*(,|$)""", re.DOTALL
)
_NUMBERS = ("numeric", "real", "integer")


@dataclass(frozen=True)
class Attribute:
    """A column: its name, whether it has numbers, and the values of a nominal one."""

    name: str
    number: bool
    values: tuple[str, ...] = ()

    @property
    def zero(self) -> str:
        """What a sparse row leaves out."""
        return self.values[0] if self.values else "0"


def read_arff(path: Path) -> Table:
    """Return the table of an ARFF file; raises `DataError` in one line that names the file's line."""
    name = shown(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = path.read_text(encoding="cp1252", errors="backslashreplace")
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}); check its permissions") from None
    lines = _lines(text)
    attributes = _attributes(lines, name)
    rows, numbers = [], []
    for number, line in lines:
        rows.append(_row(line, attributes, f"{name}: line {number}"))
        numbers.append(number)
    if not rows:
        raise DataError(f"{name}: has no rows; fill it")
    names = [attribute.name for attribute in attributes]
    columns = {
        attribute.name: _column(attribute, cells, numbers, name)
        for attribute, cells in zip(attributes, zip(*rows, strict=True), strict=True)
    }
    return Table(name, columns, len(rows), lines=np.array(numbers, dtype=np.int64), repeated=repeated(names))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that say something, with their numbers from 1."""
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare and not bare.startswith("%"):
            yield number, bare


def _attributes(lines: Iterator[tuple[int, str]], name: str) -> list[Attribute]:
    """Read up to @data."""
    found: list[Attribute] = []
    for number, line in lines:
        word = line.split(maxsplit=1)[0].lower()
        if word == "@data":
            break
        if word == "@attribute":
            found.append(_attribute(line, f"{name}: line {number}"))
        elif word != "@relation":
            raise DataError(f"{name}: line {number} is none of @relation, @attribute and @data; mend it")
    else:
        raise DataError(f"{name}: has no @data; it is no ARFF file, or cut off")
    if not found:
        raise DataError(f"{name}: has no @attribute before @data; name its columns")
    return found


def _attribute(line: str, where: str) -> Attribute:
    match = _ATTRIBUTE.fullmatch(line)
    if match is None:
        raise DataError(f"{where}: an attribute needs a name and a type; mend it")
    name, kind = _unquoted(match[1]), match[2].strip()
    word = kind.split(maxsplit=1)[0].lower() if kind else ""
    if kind.startswith("{"):
        if not kind.endswith("}"):
            raise DataError(f"{where}: the values of {shown(name)!r} are not closed by }}; mend it")
        return Attribute(name, False, tuple(value for value in _values(kind[1:-1], where) if value is not None))
    if word in _NUMBERS:
        return Attribute(name, True)
    if word in ("string", "date"):
        return Attribute(name, False)
    raise DataError(
        f"{where}: the type of {shown(name)!r} is none of numeric, {{...}}, string and date; mend it, or save as .csv"
    )


def _row(line: str, attributes: list[Attribute], where: str) -> list[str]:
    """Return the cells of a row, "" for a missing value."""
    if line.startswith("{"):
        return _sparse(line, attributes, where)
    cells = _values(line, where)
    if len(cells) == len(attributes) + 1 and re.search(r",\s*\{[^}]*\}$", line):
        cells = cells[:-1]  # the weight of a row
    if len(cells) != len(attributes):
        raise DataError(f"{where} has {len(cells)} values for {len(attributes)} attributes; mend it")
    return ["" if cell is None else cell for cell in cells]


def _sparse(line: str, attributes: list[Attribute], where: str) -> list[str]:
    body = line[1 : line.rfind("}")] if "}" in line else None
    if body is None:
        raise DataError(f"{where}: a sparse row is not closed by }}; mend it")
    cells, at = [attribute.zero for attribute in attributes], 0
    while body.strip() and at < len(body):
        match = _ENTRY.match(body, at)
        if match is None or int(match[1]) >= len(attributes):
            raise DataError(f"{where}: {shown(body[at : at + 40])!r} is no entry of a sparse row; mend it")
        cells[int(match[1])] = _read(match[2], match[3], match[4]) or ""
        at = match.end()
    return cells


def _values(text: str, where: str) -> list[str | None]:
    """Return the values between commas; None for ?."""
    found, at = [], 0
    while True:
        match = _VALUE.match(text, at)
        if match is None:
            raise DataError(f"{where}: {shown(text[at : at + 40])!r} cannot be read; mend its quotes")
        found.append(_read(match[1], match[2], match[3]))
        at = match.end()
        if match[4] != ",":
            return found


def _read(single: str | None, double: str | None, bare: str | None) -> str | None:
    quoted = single if single is not None else double
    if quoted is not None:
        return re.sub(r"\\(.)", r"\1", quoted)
    return None if bare in (None, "", "?") else bare


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[:1] in ("'", '"') else text


def _column(attribute: Attribute, cells: tuple[str, ...], numbers: list[int], name: str) -> Column:
    """Return one column; raises `DataError` for a value that its attribute does not have."""
    if attribute.number:
        values = np.empty(len(cells))
        for row, cell in enumerate(cells):
            try:
                values[row] = np.nan if is_missing(cell) else float(cell)
            except ValueError:
                values[row] = np.inf
            if np.isinf(values[row]):
                raise _wrong(attribute, cell, numbers[row], name, "finite number")
        return values
    allowed = {"", *attribute.values}
    for row, cell in enumerate(cells):
        if attribute.values and cell not in allowed:
            raise _wrong(attribute, cell, numbers[row], name, "value of it")
    texts = np.empty(len(cells), dtype=object)
    texts[:] = [cell.strip() for cell in cells]
    return texts


def _wrong(attribute: Attribute, cell: str, line: int, name: str, wanted: str) -> DataError:
    problem = f"{shown(cell)!r} in line {line} is no {wanted}"
    return DataError(f"{name}: column {shown(attribute.name)!r}: {problem}; correct it, or write ?")
