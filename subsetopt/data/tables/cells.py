"""What the text of a cell means: a missing value, a number in one of several notations, a date, a truth value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

_MISSING = frozenset({"", "?", "na", "n/a", "#n/a", "<na>", "nan", "nat", "null", "none", "nil", "-", "--"})
_NO_LABEL = frozenset({"", "?", "na", "n/a", "#n/a", "<na>", "nan", "nat", "null"})
_PLAIN = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_PLAIN_LINES = re.compile(rf"(?:{_PLAIN.pattern}\n)*+")
_GROUPS = r"[+-]?[1-9][0-9]{0,2}(?:%s[0-9]{3})+(?:%s[0-9]*)?"
_INFINITE = frozenset({"inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"})
_EPOCH = datetime(1970, 1, 1)
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].*)?")
_DAY_FIRST, _MONTH_FIRST = ("%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y"), ("%m/%d/%Y", "%m.%d.%Y", "%m-%d-%Y")
_TRUTHS = (("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"), ("off", "on"))


class AmbiguousError(ValueError):
    """Cells that can be read in two ways; `str(error)` says which."""


def is_missing(text: str) -> bool:
    """Return whether the cell of an input says that there is no value."""
    return text.casefold() in _MISSING


def is_no_label(text: str) -> bool:
    """Return whether the cell of a target says that there is no value; None and - may be the names of classes."""
    return text.casefold() in _NO_LABEL


def plain_numbers(cells: Sequence[str], is_gone: Callable[[str], bool]) -> NDArray[np.float64] | None:
    """Return cells that are all plain finite numbers, such as -1.5e3, or gone (NaN); None where any is not."""
    lines = "\n".join(cells) + "\n"
    if _PLAIN_LINES.fullmatch(lines) and lines.count("\n") == len(cells):
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    else:
        known: dict[str, float] = {}
        for cell in set(cells):
            text = cell.strip()
            if not _PLAIN.fullmatch(text) and not is_gone(text):
                return None
            known[cell] = math.nan if is_gone(text) else float(text)
        values = np.fromiter((known[cell] for cell in cells), np.float64, len(cells))
    return None if np.isinf(values).any() else values


@dataclass(frozen=True)
class NumberFormat:
    """How a column writes numbers: decimal point, separator of thousands, a sign before and one after."""

    decimal: str = "."
    thousands: str = ""
    prefix: str = ""
    suffix: str = ""

    def parse(self, text: str) -> float | None:
        """Return the number, None where the text is none in this notation."""
        sign, body = ("-", text[1:]) if text[:1] == "-" and self.prefix else ("", text)
        if self.prefix and not body.startswith(self.prefix):
            return None
        if self.suffix and not body.endswith(self.suffix):
            return None
        body = sign + body.removeprefix(self.prefix).removesuffix(self.suffix).strip()
        if self.thousands and self.thousands in body:
            if not re.fullmatch(_GROUPS % (re.escape(self.thousands), re.escape(self.decimal)), body):
                return None
            body = body.replace(self.thousands, "")
        if self.decimal != ".":
            if "." in body:
                return None
            body = body.replace(self.decimal, ".")
        # A number with so many digits that it is infinite is none that can be learnt from.
        return number if _PLAIN.fullmatch(body) and math.isfinite(number := float(body)) else None

    def described(self) -> str:
        """Return in words what is unusual, such as `1,234`; nothing for plain numbers."""
        if self == NumberFormat():
            return ""
        return f" written like {self.prefix}1{self.thousands}234{self.decimal}5{self.suffix}"


def number_format(texts: Iterable[str], separator: str | None) -> tuple[NumberFormat, float]:
    """Return the notation that reads most of `texts`, and the share that it reads.

    `separator` is that of the file's columns. Raises `AmbiguousError` where 1,234 may be a thousand or one.
    """
    kept = list(texts)
    heads = {text.removeprefix("-")[:1] for text in kept}
    prefix = heads.pop() if len(heads) == 1 and heads <= set("$€£¥") else ""
    suffix = "%" if kept and all(text.endswith("%") for text in kept) else ""
    pairs = ((".", ""), (".", ","), (".", " "), (".", "'"), (",", ""), (",", "."), (",", " "), (",", "'"))
    best, share = NumberFormat(), -1.0
    for decimal, thousands in pairs:
        form = NumberFormat(decimal, thousands, prefix, suffix)
        found = sum(form.parse(text) is not None for text in kept) / max(1, len(kept))
        if found > share:
            best, share = form, found
        if share == 1:
            break
    if share == 1 and best.thousands == "," and separator not in (",", None):
        other = NumberFormat(",", "", prefix, suffix)
        if all(other.parse(text) is not None for text in kept):
            example = next(text for text in kept if "," in text)
            raise AmbiguousError(f"{example!r} may have a separator of thousands or a decimal comma")
    return best, max(share, 0.0)


def is_infinite(text: str) -> bool:
    """Return whether the cell is the word for an infinite number."""
    return text.casefold() in _INFINITE


def date_format(texts: Iterable[str]) -> str | None:
    """Return the notation of dates that reads all of `texts`: "iso" or one of `strptime`; None where none does.

    Raises `AmbiguousError` where day and month cannot be told apart.
    """
    kept = list(texts)

    def fits(form: str) -> bool:
        return all(days_of(text, form) is not None for text in kept)

    if fits("iso"):
        return "iso"
    if fits("%Y/%m/%d"):
        return "%Y/%m/%d"
    for day, month in zip(_DAY_FIRST, _MONTH_FIRST, strict=True):
        first, second = fits(day), fits(month)
        if first and second and "." not in day and len(set(kept)) > 1:
            raise AmbiguousError(f"{kept[0]!r} may have the day or the month first")
        if first or second:
            return day if first else month
    return None


def days_of(text: str, form: str) -> float | None:
    """Return days since 1970-01-01 (UTC where a zone is given), None where the text is no date in this notation."""
    try:
        if form != "iso":
            moment = datetime.strptime(text, form)
        elif _ISO.fullmatch(text):
            moment = datetime.fromisoformat(text)
        else:
            return None
    except ValueError:
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return (moment - _EPOCH).total_seconds() / 86400


def truth_words(texts: Iterable[str]) -> tuple[str, str] | None:
    """Return the pair (false, true) of words, in lower case, that `texts` are; None where they are other words."""
    found = {text.casefold() for text in texts}
    return next((pair for pair in _TRUTHS if found == set(pair)), None)
