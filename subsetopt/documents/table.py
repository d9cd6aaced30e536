"""The encoding of a table as `result.json` keeps it: how each column became inputs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from subsetopt.documents.base import Count, Entry, Number


class NumberNotation(Entry):
    """Decimal point, separator of thousands, and signs before and after a number."""

    decimal: str = "."
    thousands: str = ""
    prefix: str = ""
    suffix: str = ""


class ColumnEntry(Entry):
    """One column; see `subsetopt.data.tables.columns.ColumnEncoding`."""

    name: str
    kind: Literal["number", "boolean", "date", "words", "embedded", "unused"]
    missing: Count = 0
    fill: Number = 0.0
    categories: list[str] = Field(default_factory=list)
    other: bool = False
    words: Count = 0
    form: NumberNotation = NumberNotation()
    date: str = ""
    truths: list[str] = Field(default_factory=list)
    reason: str = ""


class TableEntry(Entry):
    """The column to predict, and all others in the order of the training file."""

    target: str
    columns: list[ColumnEntry]
