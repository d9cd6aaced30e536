"""`summary.json` of a representativeness study: how far subset minima stand for the full set, by subset fraction."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from subsetopt.documents.base import Count, Document, Entry, Finite, Number
from subsetopt.documents.comparison import Interval, Many, Metric


class Measure(Entry):
    """Mean, 95 % interval and range of one figure."""

    mean: Finite
    interval: Interval = None
    low: Finite = None
    high: Finite = None


class FractionResult(Entry):
    """Figures of the minima on one fraction of the training set; 1 is the full set. Objectives have their L2 term.

    `ratio` is Q = K M / P, `excess` F/F*; a measure is None where the data have no test split or it was not finite.
    """

    fraction: Annotated[float, Field(gt=0, le=1)]
    samples: Count
    ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    n: Count = 0
    converged: Count = 0
    epoch_equivalents: Number = 0.0
    subset_objective: Measure | None = None
    full_objective: Measure | None = None
    excess: Measure | None = None
    train_loss: Measure | None = None
    test_loss: Measure | None = None
    test_metric: Measure | None = None


class RepresentativenessDocument(Document):
    """The content of `summary.json` of `subsetopt study representativeness`; P parameters, M outputs."""

    kind: Literal["representativeness"]
    title: str = "How far subset minima stand for the full set"
    dataset: str = ""
    model: str = ""
    parameters: Annotated[int, Field(ge=1, le=2**63)]
    outputs: Annotated[int, Field(ge=1, le=2**63)]
    l2: Number = 0.0
    solver: str = ""
    metric: Metric
    seeds: list[int] = Field(default_factory=list)
    repeats: Count = 0
    interval_over: str = "seeds"
    results: Annotated[list[FractionResult], Field(min_length=1)]
    verdict: Many[str] = Field(default_factory=list)
    command: list[str] = Field(default_factory=list)
    digest: str | None = None

    @model_validator(mode="after")
    def _full_set_is_last(self) -> Self:
        if [row.fraction for row in self.results].count(1.0) != 1 or self.results[-1].fraction != 1.0:
            raise ValueError("results: the last must be those of the full set, fraction 1")
        return self

    @property
    def full(self) -> FractionResult:
        """The figures of the full minimum."""
        return self.results[-1]

    @property
    def subsets(self) -> list[FractionResult]:
        """The figures of all proper subsets, smallest first."""
        return self.results[:-1]
