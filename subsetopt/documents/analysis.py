"""What `subsetopt verify` and `subsetopt ratio` print with `--json`."""

from __future__ import annotations

from typing import Literal

from subsetopt.documents.base import Count, Document, Entry, Measured
from subsetopt.documents.run import Purpose


class AnalysedPhase(Entry):
    """The phase whose last parameters are examined; `index` counts from 0."""

    index: Count
    role: str
    method: str
    data: str
    stop_reason: str


class AnalysisCost(Entry):
    """The cost of an analysis; `prices` are those of a forward, backward and product, in epoch-equivalents."""

    epoch_equivalents: Measured
    by_purpose: dict[str, Purpose]
    prices: dict[str, Measured] | None = None
    seconds: Measured


class GradientEntry(Entry):
    """max|g|, ||g||, and the test max|g| <= gtol x loss_scale."""

    max: Measured
    l2_norm: Measured
    loss_scale: Measured
    gtol: Measured
    stationary: bool


class BoundedEntry(Entry):
    """A number in [lower, upper], and the best guess at it."""

    value: Measured
    lower: Measured
    upper: Measured
    residual: Measured


class HessianEntry(Entry):
    """Extreme eigenvalues, with the L2 term; outer bounds fail with `failure_probability` over the random start."""

    smallest: BoundedEntry
    largest: BoundedEntry
    smallest_without_l2: Measured
    condition: BoundedEntry | None
    exact: bool
    failure_probability: Measured
    products: Count


class EstimateEntry(Entry):
    """An estimate with the half-width of its 95 % interval; no probes where it was computed exactly."""

    value: Measured
    error: Measured
    probes: Count


class DimensionEntry(EstimateEntry):
    """tr(H (H + damping)^-1), H without the L2 term."""

    damping: Measured


class VerificationDocument(Document):
    """Whether a phase ended in a minimum; K samples, M outputs, P parameters, ratio Q = K M / P."""

    verdict: Literal["minimum", "saddle", "not stationary", "undecided"]
    phase: AnalysedPhase
    dtype: str
    samples: Count
    outputs: Count
    parameters: Count
    loss: Measured
    l2: Measured
    gradient: GradientEntry
    hessian: HessianEntry
    distance: Measured | None
    ratio: Measured
    effective_dimension: DimensionEntry | None
    effective_ratio: Measured | None
    notes: list[str]
    cost: AnalysisCost


class LeaveOneOutEntry(Entry):
    """Effective parameters by leaving out each of `rows` samples."""

    value: Measured
    error: Measured
    rows: Count


class EffectiveParametersEntry(Entry):
    """p, the effective parameters, and what it was computed by."""

    value: Measured
    error: Measured
    by: Literal["trace", "leave-one-out"]


class FullMinimumEntry(Entry):
    """The objective at the full minimum; `observed` where the run found it."""

    value: Measured
    observed: bool


class PredictionEntry(Entry):
    """The predicted excess of a subset minimum's objective on the full set."""

    samples: Count
    fraction: Measured
    effective_ratio: Measured | None
    excess: Measured
    excess_error: Measured
    relative_excess: Measured
    optimism: Measured
    excess_by_trace: Measured


class TargetEntry(Entry):
    """The subset that is enough for a wanted excess."""

    relative_excess: Measured
    excess: Measured
    samples: Count
    fraction: Measured


class ObservedEntry(Entry):
    """What the run itself shows of the predictions; None where it cannot be seen."""

    loss_full: Measured
    optimism: Measured | None
    held_out_optimism: Measured | None
    full_minimum: Measured | None
    full_reached: Measured | None
    excess: Measured | None
    excess_at_least: Measured | None


class EffectiveRatioDocument(Document):
    """What `subsetopt ratio --effective RUN` found; K samples of `samples_full`, P parameters."""

    phase: AnalysedPhase
    samples: Count
    samples_full: Count
    outputs: Count
    parameters: Count
    ratio: Measured
    l2: Measured
    loss: Measured
    hessian: str
    trace: EstimateEntry
    trace_within_classes: EstimateEntry | None
    leave_one_out: LeaveOneOutEntry | None
    effective_parameters: EffectiveParametersEntry
    effective_ratio: Measured | None
    full_minimum: FullMinimumEntry
    predicted: PredictionEntry
    asked: PredictionEntry | None
    target: TargetEntry | None
    observed: ObservedEntry
    notes: list[str]
    cost: AnalysisCost


class RatioTarget(Entry):
    """The subset that has a wanted overdetermination ratio; a fraction above 1 is more than all data."""

    ratio: Measured
    samples: Count
    fraction: Measured


class RatioDocument(Document):
    """Q = K M / P of a subset and of the full training set."""

    parameters: Count
    samples: Count
    outputs: Count
    ratio: Measured
    samples_full: Count
    ratio_full: Measured
    verdict: str
    target: RatioTarget | None = None
