"""Reads the files of a study directory: `summary.json` for the answers, `curves.csv` for the lines.

What is missing or malformed ends in one line that names the file, the entry and the remedy. Entries that a study may
lack (ranks, time to target, tuning) default to empty and are left out of the report.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from subsetopt.documents.base import Document, problem
from subsetopt.documents.comparison import ComparisonDocument
from subsetopt.documents.representativeness import RepresentativenessDocument
from subsetopt.errors import DataError
from subsetopt.files import read_document

SUMMARY, CURVES, STUDY = "summary.json", "curves.csv", "study.toml"
_CURVE_COLUMNS = ("method", "budget", "seed", "epoch_equivalents", "seconds", "loss", "kind")
_METRIC = "validation_metric"
_Kind = TypeVar("_Kind", bound=Document)


@dataclass(frozen=True)
class CurvePoint:
    """One recorded value of one run; cost in epoch-equivalents, time in seconds.

    `kind` is that of `curves.csv` for a loss, "metric" for the held-out accuracy or MSE beside it.
    """

    method: str
    budget: float
    seed: int
    cost: float
    seconds: float
    value: float
    kind: str


def is_study(directory: Path) -> bool:
    """Return whether `directory` holds a study, finished or not."""
    return (directory / SUMMARY).is_file() or (directory / STUDY).is_file()


def study_kind(directory: Path) -> str:
    """Return what a study asks, "compare" where it does not say; raises `RunDirectoryError` as `read_study` does."""
    return str(_content(directory).get("kind", "compare"))


def read_study(directory: Path) -> ComparisonDocument:
    """Read `summary.json` of a comparison.

    Raises `RunDirectoryError` when the study has none or it cannot be read, `DataError` when an entry is malformed.
    """
    return _read(directory, ComparisonDocument)


def read_representativeness(directory: Path) -> RepresentativenessDocument:
    """Read `summary.json` of a representativeness study; raises as `read_study` does."""
    return _read(directory, RepresentativenessDocument)


def _read(directory: Path, kind: type[_Kind]) -> _Kind:
    try:
        return kind.read(_content(directory))
    except ValidationError as error:
        raise DataError(f"{directory / SUMMARY}: {problem(error)}; run the study's command again") from None


def _content(directory: Path) -> Mapping[str, object]:
    return read_document(directory / SUMMARY, f"study = {str(directory)!r}", "finish the study: run its command again")


def read_curves(directory: Path) -> list[CurvePoint]:
    """Read `curves.csv`; an absent file is an empty list, values that are not finite are left out.

    Raises `DataError` naming the file and the line when it is malformed.
    """
    path = directory / CURVES
    if not path.exists():
        return []
    if not path.is_file():
        raise DataError(f"{path}: is no regular file; run the study's command again")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(_curve_points(path, csv.DictReader(file)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); run the study's command again") from None


def _curve_points(path: Path, reader: csv.DictReader[str]) -> Iterator[CurvePoint]:
    missing = [name for name in _CURVE_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{path}: has no column {missing[0]!r}; run the study's command again")
    for row in reader:
        try:
            points = [_curve_point(row, row["loss"], row["kind"])]
            if row.get(_METRIC):
                points.append(_curve_point(row, row[_METRIC], "metric"))
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}; run the study's command again") from None
        yield from (point for point in points if math.isfinite(point.value))


def _curve_point(row: Mapping[str, str], value: str, kind: str) -> CurvePoint:
    return CurvePoint(
        method=row["method"],
        budget=float(row["budget"]),
        seed=int(row["seed"]),
        cost=float(row["epoch_equivalents"]),
        seconds=float(row["seconds"]),
        value=float(value or "nan"),
        kind=kind,
    )
