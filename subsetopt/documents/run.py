"""`result.json`: what a finished run found."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from subsetopt.documents.base import Count, Document, Entry, Finite, Number
from subsetopt.documents.table import TableEntry

Metrics = dict[str, dict[str, Finite]]
"""Split -> loss (without L2), accuracy or mse and r2, in the units of the data."""


class DatasetEntry(Entry):
    """The data set; sizes are numbers of samples."""

    name: str
    task: str
    in_shape: list[int] | dict[str, list[int]] = Field(default_factory=list)
    n_outputs: Count = 0
    train: Count
    validation: Count
    test: Count
    class_names: list[Any] | None = None
    embedded: bool = False
    columns: list[str] | None = None
    digest: str | None = None
    digests: dict[str, Any] | None = None
    encoding: TableEntry | None = None
    input_name: str | None = None


class Scaling(Entry):
    """Mean and standard deviation by which inputs or targets were standardised."""

    mean: list[Finite]
    std: list[Finite]


class Model(Entry):
    """The model, and P, the number of its trainable parameters."""

    name: str
    args: dict[str, Any] = Field(default_factory=dict)
    parameters: Count


class OwnLoss(Entry):
    """A loss that was given as an object; one that calls the model tells nothing of what its outputs are."""

    name: str
    calls_model: bool = False


class Ratio(Entry):
    """K, M and P of the subset, Q = K·M/P, and what they tell."""

    samples: Count
    outputs: Count
    parameters: Count
    ratio: Number
    ratio_full: Number | None = None
    drawn: Count | None = None
    augment_copies: Count = 0
    verdict: str


class GradientTest(Entry):
    """The test max|g| <= gtol x loss_scale."""

    gtol: Finite
    loss_scale: Finite


class MinimumEntry(Entry):
    """One of several subset minima, or their average: its objective on all training data, and held-out figures."""

    model_config = ConfigDict(extra="allow")

    loss: Finite = None
    objective_full: Finite = None
    validation_loss: Finite = None


class Joined(Entry):
    """Minima of several disjoint subsets, and what was handed on; `best` counts from 0."""

    model_config = ConfigDict(extra="allow")

    count: Count
    selected_by: str
    then: str
    minima: list[MinimumEntry]
    average: MinimumEntry
    average_beats: list[bool]
    best: Count


class LossOf(StrEnum):
    """What the loss is that a phase records: the phase knows, and readers need no list of methods."""

    OBJECTIVE = "objective"
    ONE_SUBSET = "one subset after the other"
    DRAWN = "objective, estimated on the samples drawn"
    MINI_BATCHES = "mini-batches, with L2"
    MINI_BATCHES_WITHOUT_DECAY = "mini-batches, without weight decay"
    L2_PATH = "objective of one L2 strength after the other"
    FRESH_BATCH = "fresh batch before its step"


class StrengthEntry(Entry):
    """The minimum of one L2 strength; `loss` is the objective with its L2 term, `held_out_loss` has none."""

    l2: Number
    loss: Finite = None
    held_out_loss: Finite = None
    gradient_norm: Finite = None
    stop_reason: str
    iterations: Count
    evaluations: Count
    products: Count = 0


class L2PathEntry(Entry):
    """Minima from the strongest penalty to the weakest; `best` counts from 0.

    All but the chosen one are solved to a gradient test `looser` times the run's.
    """

    chosen: Number
    strengths: list[Number]
    minima: Annotated[list[StrengthEntry], Field(min_length=1)]
    best: Count
    looser: Number


class PhaseEntry(Entry):
    """A finished phase. Beside these entries it has those of its own method, sampler or strategy.

    `loss_of` is one of `LossOf`, None in files of version 0.1.
    """

    model_config = ConfigDict(extra="allow")

    role: str
    method: str
    data: str
    samples: Count
    stop_reason: str
    converged: bool = False
    loss: Finite
    loss_of: str | None = None
    gradient_norm: Finite
    iterations: Count
    counts: dict[str, Count] = Field(default_factory=dict)
    epoch_equivalents: Number
    seconds: Number
    gradient_test: GradientTest | None = None
    subsets: Annotated[Joined | None, BeforeValidator(lambda joined: joined or None)] = None
    l2_path: L2PathEntry | None = None


class SolveEntry(PhaseEntry):
    """The last solve; `solver` is its method."""

    solver: str


class Assessment(Entry):
    """The constant predictions, alarms, and what is better than the last model; `split` is where it was judged."""

    split: str | None = None
    baseline: Metrics = Field(default_factory=dict)
    alarms: list[str] = Field(default_factory=list)
    better: str | None = None


class Models(Entry):
    """Files with the last parameters, and with better ones where the hand-off did harm."""

    last: str
    best: str | None = None


class Purpose(Entry):
    """The cost of one purpose of evaluations."""

    epoch_equivalents: Number
    samples: Number = 0
    calls: Number
    flops: Number = 0


def purposes(table: Mapping[str, Mapping[str, float]]) -> dict[str, Purpose]:
    """Return the entries of `Ledger.by_purpose()`."""
    return {name: Purpose(**row) for name, row in table.items()}


class Cost(Entry):
    """The cost of the run; evaluation of the finished model is not counted in `epoch_equivalents`."""

    epoch_equivalents: Number
    evaluation_epoch_equivalents: Number = 0.0
    seconds: Number
    by_purpose: dict[str, Purpose]
    prices: dict[str, Number] = Field(default_factory=dict)


class RunDocument(Document):
    """The content of `result.json`. Entries with a default are absent in files of earlier versions."""

    version: str = "unknown"
    status: Literal["done"] = "done"
    seed: int
    dataset: DatasetEntry
    normalization: Scaling | dict[str, Scaling] | None = None
    target_normalization: Scaling | None = None
    model: Model
    loss: OwnLoss | None = None
    overdetermination: Ratio
    phases: Annotated[list[PhaseEntry], Field(min_length=1)]
    solve: SolveEntry | None = None
    handoff: PhaseEntry | None = None
    metrics: Metrics
    objective: Finite = None
    """What all methods minimise: the loss on all training data with l2/2 ||w||^2, in the units of the training."""
    metrics_before_handoff: Metrics | None = None
    assessment: Assessment = Assessment()
    models: Models | None = None
    cost: Cost
    warnings: list[str] = Field(default_factory=list)
    digest: str | None = None

    @property
    def held_out_loss(self) -> float | None:
        """The loss on validation data at the end, None where there are none or it is not finite."""
        return self.metrics.get("validation", {}).get("loss")
