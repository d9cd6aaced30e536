"""What one column is, learnt from its training values: numbers, dates, truth values, words, or nothing of use."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from subsetopt.data.names import shown
from subsetopt.data.tables.cells import (
    AmbiguousError,
    NumberFormat,
    date_format,
    is_infinite,
    is_missing,
    number_format,
    truth_words,
)
from subsetopt.data.tables.columns import ColumnEncoding, numbers_of, texts_of, wrong_value
from subsetopt.data.tables.table import Column, Table
from subsetopt.errors import DataError, setting

MOST_WORDS = 64
"""Words that a column has columns for; of more, the most frequent ones have, and all others share one."""

_NAME_OF_IDS = re.compile(r"(.*[_ .-])?(id|ids|uuid|guid)|.*[a-z]I[dD]|index|idx|row|row[_ ]?(no|nr|num|number|id)")
_UNIQUE, _FEW = 0.9, 10  # from this share of different words among more than so many rows on, they name the rows
_NUMBERS, _MANY_NUMBERS = 0.9, 50  # a column with this share of numbers, too many for words, is one with mistakes
_RARE = 2  # words that occur less often have no vector of their own: a new word is one of them


def learn_column(table: Table, name: str, column: Column, embed: int | None = None) -> ColumnEncoding:
    """Return the encoding of a column by its training values; raises `DataError` for values of mixed meaning.

    Words of more than `embed` kinds are embedded.
    """
    if column.dtype.kind in "iuf":
        return _learnt_number(table, name, column)
    if column.dtype.kind == "M":
        return _learnt(table, ColumnEncoding(name, "date", date="iso"), column)
    cells = texts_of(column)
    counts = Counter(cell for cell in cells if not is_missing(cell))
    missing, different = len(cells) - counts.total(), list(counts)
    if not counts:
        return ColumnEncoding(name, "unused", reason="no values")
    if len(different) == 1 and not missing:
        return ColumnEncoding(name, "unused", reason=f"always {shown(different[0])}")
    truths = truth_words(different)
    if truths is not None:
        return _learnt(table, ColumnEncoding(name, "boolean", truths=truths), column)
    try:
        form, share = number_format(different, table.separator)
        if share == 1:
            return _learnt_number(table, name, column, form)
        _refuse_mistakes(table, name, column, form, share * len(different), len(different))
        dates = date_format(different)
    except AmbiguousError as error:
        raise DataError(f"{table.name}: column {shown(name)!r}: {error}; {_remedy(name)}") from None
    if dates is not None:
        return _learnt(table, ColumnEncoding(name, "date", date=dates), column)
    if counts.total() > _FEW and len(different) >= _UNIQUE * counts.total():
        reason = f"{len(different)} different words in {counts.total()} rows"
        return ColumnEncoding(name, "unused", reason=reason)
    if embed is not None and len(counts) > embed:
        words = tuple(sorted(word for word, count in counts.items() if count >= _RARE))
        return ColumnEncoding(
            name, "embedded", missing=missing, categories=words, other=len(counts) > len(words), words=len(counts)
        )
    kept = counts.most_common(MOST_WORDS - 1 if len(counts) > MOST_WORDS else None)
    words = tuple(sorted(word for word, _ in kept))
    return ColumnEncoding(
        name, "words", missing=missing, categories=words, other=len(counts) > len(words), words=len(counts)
    )


def _learnt_number(table: Table, name: str, column: Column, form: NumberFormat | None = None) -> ColumnEncoding:
    draft = ColumnEncoding(name, "number", form=form or NumberFormat())
    values = numbers_of(table, draft, column)
    kept = values[~np.isnan(values)]
    if not len(kept):
        return ColumnEncoding(name, "unused", reason="no values")
    if len(kept) == len(values) and (kept == kept[0]).all():
        return ColumnEncoding(name, "unused", reason=f"always {kept[0]:g}")
    whole = bool((kept == np.round(kept)).all())
    if whole and len(kept) > _FEW and len(np.unique(kept)) == len(kept) and _NAME_OF_IDS.fullmatch(_known(name)):
        return ColumnEncoding(name, "unused", reason="numbers that name the rows")
    return _learnt(table, draft, column)


def _known(name: str) -> str:
    """Return the name as `_NAME_OF_IDS` knows it: pandas writes the index as Unnamed: 0, or without a name."""
    bare = "index" if re.fullmatch(r"Unnamed: [0-9]+|column 1", name) else name
    return bare if re.search(r"[a-z]I[dD]$", bare) else bare.lower()


def _learnt(table: Table, draft: ColumnEncoding, column: Column) -> ColumnEncoding:
    """Return the encoding with what takes the place of missing values: the median, or the more frequent truth value."""
    values = numbers_of(table, draft, column)
    gone = np.isnan(values)
    if gone.all():
        return ColumnEncoding(draft.name, "unused", reason="no values")
    fill = float(np.median(values[~gone]))
    if draft.kind == "boolean":
        fill = float(fill > 0.5)
    return ColumnEncoding(
        draft.name, draft.kind, int(gone.sum()), fill, form=draft.form, date=draft.date, truths=draft.truths
    )


def _refuse_mistakes(table: Table, name: str, column: Column, form: NumberFormat, good: float, total: int) -> None:
    """Raise `DataError` for numbers with a few other things among them, too many to be the names of categories."""
    infinite = [cell for cell in set(texts_of(column)) if is_infinite(cell)]
    if not infinite and (total <= _MANY_NUMBERS or good < _NUMBERS * total):
        return
    if infinite and good + len(infinite) < _NUMBERS * total:
        return
    wrong = wrong_value(table, ColumnEncoding(name, "number", form=form), column, form.parse)
    raise DataError(f"{wrong}, or leave the column out with {setting('drop', name)}")


def _remedy(name: str) -> str:
    return f"write it unmistakably, or leave the column out with {setting('drop', name)}"
