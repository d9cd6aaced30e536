"""`learning_curve.json`: what more data are worth, from the minima of a representativeness study."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from subsetopt.documents.base import Count, Document, Entry, Finite, Number
from subsetopt.documents.comparison import Interval, Metric


class CurvePoint(Entry):
    """Minima on one share of the rows: the mean test error, and `lost` against all rows with its 95 % interval.

    Errors are shares of wrong predictions, or mean squared errors. `ratio` is Q = K M / P, `effective_ratio` K / p.
    """

    fraction: Annotated[float, Field(gt=0, le=1)]
    samples: Count
    ratio: Number
    effective_ratio: Finite = None
    n: Count
    error: Number
    lost: Finite = None
    lost_interval: Interval = None


class PowerLaw(Entry):
    """error = offset + scale (K / N)^-exponent, N all rows; intervals are 95 % of the resampled minima's."""

    offset: Number
    scale: Number
    exponent: Number
    exponent_interval: Interval = None
    doubling: Finite = None
    doubling_interval: Interval = None


class LearningCurveDocument(Document):
    """The curve, its law (None where errors do not fall with more rows), and the answer in sentences.

    `effective_parameters` is p = tr(H^-1 C) at a minimum of all rows. `band` has [K / N, error, low, high] of the law
    from the smallest share to four times all rows.
    """

    kind: Literal["learning-curve"]
    title: str
    metric: Metric
    measured_on: Literal["test", "held-out"] = "test"
    rows: Count
    parameters: Count
    outputs: Count
    effective_parameters: Finite = None
    points: Annotated[list[CurvePoint], Field(min_length=2)]
    law: PowerLaw | None = None
    band: list[list[Number]] = Field(default_factory=list)
    answer: list[str] = Field(default_factory=list)
