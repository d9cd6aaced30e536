"""Reads the files of a study directory: `summary.json` for the answers, `curves.csv` for the lines.

The renderer trusts no file: what is missing or malformed ends in one line that names the file, the entry and the
remedy. Parts that a study may lack (ranks, time to target, tuning) default to empty and are left out of the report.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from subsetopt.errors import DataError
from subsetopt.files import read_document

SUMMARY, CURVES, STUDY = "summary.json", "curves.csv", "study.toml"
_CURVE_COLUMNS = ("method", "budget", "seed", "epoch_equivalents", "seconds", "loss", "kind")
_METRIC = "validation_metric"

_T = TypeVar("_T")


def _none_to_empty(value: object) -> object:
    return [] if value is None else value


Number = Annotated[float, Field(allow_inf_nan=False)] | None
Interval = tuple[Number, Number] | None
Many = Annotated[list[_T], BeforeValidator(_none_to_empty)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class MethodEntry(_Part):
    """One contender: its name as typed, what it is, and how its learning rate was found."""

    name: str
    description: str = ""
    lr: Any = None
    tuning: Any = None


class Result(_Part):
    """The test figures of one method at one budget, over the seeds."""

    method: str
    budget: float
    metric: str
    mean: Number = None
    interval: Interval = None
    n: int = 0
    values: Many[Number] = []
    loss_mean: Number = None
    loss_interval: Interval = None
    seconds_mean: Number = None
    cost_mean: Number = None
    cost_including_tuning: Number = None
    objective_mean: Number = None


class TimeToTarget(_Part):
    """What a method paid until its held-out loss first fell to a target; None where it never did."""

    method: str
    target: float
    cost_mean: Number = None
    seconds_mean: Number = None
    reached: int | None = None
    of: int | None = None


class ComparisonEntry(_Part):
    """One paired difference, a minus b, with its test."""

    a: str
    b: str
    budget: float
    metric: str
    difference: Number = None
    interval: Interval = None
    p: Number = None
    p_adjusted: Number = None
    detectable: Number = None
    verdict: Literal["better", "worse", "no difference"]


class Failure(_Part):
    """A cell that did not finish."""

    cell: str
    error: str


class ObjectiveEntry(_Part):
    """What the methods minimise: one function ("same"), or each with a regularisation that it tuned ("tuned")."""

    kind: Literal["same", "tuned"]
    l2: Number = None
    text: str = ""


class Friedman(_Part):
    """The test at one budget that all methods rank alike."""

    budget: float
    p: Number = None


class StudyDocument(_Part):
    """The content of `summary.json`."""

    kind: Literal["compare"] = "compare"
    title: str = "Comparison of training methods"
    dataset: str = ""
    model: str = ""
    metric: Literal["accuracy", "mse"]
    higher_is_better: bool = True
    budgets: list[float]
    budget_unit: str = "epoch-equivalents"
    seeds: int | list[int] = 0
    methods: Annotated[list[MethodEntry], Field(min_length=1)]
    results: list[Result]
    time_to_target: Many[TimeToTarget] = []
    ranks: Any = None
    baseline: str | None = None
    objective: ObjectiveEntry | None = None
    friedman: Many[Friedman] = []
    comparisons: Many[ComparisonEntry] = []
    verdict: Many[str] = []
    failures: Many[Failure] = []
    command: str | list[str] = ""
    versions: Any = None
    machine: Any = None

    @model_validator(mode="after")
    def _methods_are_known(self) -> Self:
        known = set(self.names)
        used = [*(row.method for row in self.results), *(row.method for row in self.time_to_target)]
        for name in used:
            if name not in known:
                raise ValueError(f"method {name!r} is not listed under methods")
        return self

    @property
    def seed_count(self) -> int:
        """The number of seeds, given as a number or as a list."""
        return self.seeds if isinstance(self.seeds, int) else len(self.seeds)

    @property
    def names(self) -> list[str]:
        """The method names in the order of the study."""
        return [method.name for method in self.methods]


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
    return str(_read_summary(directory).get("kind", "compare"))


def read_study(directory: Path) -> StudyDocument:
    """Read `summary.json`.

    Raises `RunDirectoryError` when the study has none or it cannot be read, `DataError` when an entry is malformed.
    """
    try:
        return StudyDocument.model_validate(_read_summary(directory))
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(str(part) for part in first["loc"]) or "the document"
        problem = first["msg"].removeprefix("Value error, ")
        problem = problem[:1].lower() + problem[1:]
        raise DataError(f"{directory / SUMMARY}: {entry}: {problem}; run the study's command again") from None


def _read_summary(directory: Path) -> dict[str, Any]:
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
