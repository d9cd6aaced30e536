"""`summary.json` of a comparison: the figures of every method at every budget, the tests, and how each was tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from subsetopt.documents.base import Count, Document, Entry, Finite, Number
from subsetopt.documents.run import DatasetEntry, Model

_T = TypeVar("_T")
Metric = Literal["accuracy", "mse"]
Judgement = Literal["better", "worse", "no difference"]
Many = Annotated[list[_T], BeforeValidator(lambda entries: [] if entries is None else entries)]
Interval = Annotated[
    tuple[Finite, Finite] | None, BeforeValidator(lambda ends: tuple(ends) if isinstance(ends, list) else ends)
]


class TuningTrial(Entry):
    """One value that was tried, and its mean validation loss over the tuning seeds (None: not finite).

    `decay` is the regularisation beside it, where that was searched too.
    """

    value: Finite
    decay: Finite = None
    score: Finite = None


class TuningSearch(Entry):
    """The search for one setting of one method at one budget; `value` was taken, None where nothing was tuned.

    `seed` is that of the comparison which the search is for, None in files that have one search for all;
    `decay_setting` ("l2" or "weight_decay") was searched beside the setting, and `decay` taken.
    """

    budget: Number
    seed: Count | None = None
    tuning_seeds: Many[int] = Field(default_factory=list)
    setting: str | None = None
    value: Finite = None
    decay_setting: str | None = None
    decay: Finite = None
    trials: Many[TuningTrial] = Field(default_factory=list)
    inside: bool = False
    epoch_equivalents: Number = 0.0
    seconds: Number = 0.0

    @model_validator(mode="before")
    @classmethod
    def _under_its_own_name(cls, content: Any) -> Any:
        """Read files of version 0.1, which have the values under the setting's name instead of `value`."""
        name = content.get("setting") if isinstance(content, Mapping) else None
        if not isinstance(name, str):
            return content
        return {**_renamed(content, name), "trials": [_renamed(trial, name) for trial in _list(content.get("trials"))]}


class MethodEntry(Entry):
    """A method: its name as typed, what it is, what was tuned, and the learning rate that all seeds took at a budget.

    `family` is "subset" (solves a subset), "stream" (`kfac-stream` in any phase), "solver" or "first-order".
    """

    name: str
    description: str = ""
    family: str = ""
    tuned: str = ""
    lr: dict[str, Finite] | None = None
    tuning: Many[TuningSearch] = Field(default_factory=list)


class ResultEntry(Entry):
    """The test figures of one method at one budget, over the seeds; costs in epoch-equivalents."""

    method: str
    budget: Number
    metric: str
    mean: Finite = None
    interval: Interval = None
    n: Count = 0
    values: Many[Finite] = Field(default_factory=list)
    loss_mean: Finite = None
    loss_interval: Interval = None
    objective_mean: Finite = None
    seconds_mean: Finite = None
    cost_mean: Finite = None
    cost_including_tuning: Finite = None
    seconds_of_tuning: Finite = None


class TimeToTarget(Entry):
    """What a method paid until its held-out loss first fell to a target, without tuning; None where it never did."""

    method: str
    target: Number
    cost_mean: Finite = None
    seconds_mean: Finite = None
    reached: Count | None = None
    of: Count | None = None


class MeanRank(Entry):
    """The mean rank (1 is best) of a method at one budget, over the n seeds that all methods have."""

    method: str
    budget: Number
    rank: Finite
    metric: str = ""
    n: Count = 0


class FriedmanTest(Entry):
    """Friedman's test at one budget that all methods rank alike."""

    budget: Number
    metric: str = ""
    n: Count = 0
    statistic: Finite = None
    p: Finite = None


class ComparisonEntry(Entry):
    """One paired difference, a minus b, with its test; `p_adjusted` has Holm's correction over its family.

    `detectable` is the difference that the study would have shown with the probability `power` of the document.
    """

    a: str
    b: str
    n: Count = 0
    difference: Finite = None
    interval: Interval = None
    p: Finite = None
    p_adjusted: Finite = None
    detectable: Finite = None
    verdict: Judgement
    budget: Number
    metric: str

    def reversed(self) -> ComparisonEntry:
        """Return the same as b minus a."""
        opposite: dict[Judgement, Judgement] = {"better": "worse", "worse": "better", "no difference": "no difference"}
        ends = self.interval
        return self.model_copy(
            update={
                "a": self.b,
                "b": self.a,
                "difference": None if self.difference is None else -self.difference,
                "interval": None if ends is None else (_minus(ends[1]), _minus(ends[0])),
                "verdict": opposite[self.verdict],
            }
        )


class FailedCell(Entry):
    """A run of the comparison that did not finish."""

    cell: str
    error: str


class Architecture(Model):
    """The model, its parameters, and the strength of L2."""

    l2: Number


class ObjectiveEntry(Entry):
    """What the methods minimise: one function ("same"), or each with a regularisation that it tuned ("tuned")."""

    kind: Literal["same", "tuned"]
    l2: Number
    text: str


Subject = BeforeValidator(lambda entry: entry or None)  # version 0.1 wrote {} where no run had finished


class ComparisonDocument(Document):
    """The content of `summary.json` of `subsetopt compare`. Entries with a default may be absent in a file."""

    kind: Literal["compare"] = "compare"
    title: str = "Comparison of training methods"
    dataset: str = ""
    model: str = ""
    data: Annotated[DatasetEntry | None, Subject] = None
    architecture: Annotated[Architecture | None, Subject] = None
    metric: Metric
    higher_is_better: bool = True
    budgets: Annotated[list[Number], Field(min_length=1)]
    budget_unit: str = "epoch-equivalents"
    seeds: Count | list[int] = 0
    tuning_seeds: Many[int] = Field(default_factory=list)
    tune: Many[str] = Field(default_factory=list)
    trials: Count = 0
    baseline: str | None = None
    power: Number = 0.8
    objective: ObjectiveEntry | None = None
    methods: Annotated[list[MethodEntry], Field(min_length=1)]
    results: list[ResultEntry]
    time_to_target: Many[TimeToTarget] = Field(default_factory=list)
    ranks: Many[MeanRank] = Field(default_factory=list)
    friedman: Many[FriedmanTest] = Field(default_factory=list)
    comparisons: Many[ComparisonEntry] = Field(default_factory=list)
    seconds_comparisons: Many[ComparisonEntry] = Field(default_factory=list)
    failures: Many[FailedCell] = Field(default_factory=list)
    command: str | list[str] = ""
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, str | int | None] = Field(default_factory=dict)
    verdict: Many[str] = Field(default_factory=list)
    digest: str | None = None

    @model_validator(mode="after")
    def _methods_are_known(self) -> Self:
        if len(set(self.names)) < len(self.names):
            raise ValueError("methods: two have the same name")
        used = [row.method for row in self.results]
        used += [row.method for row in self.time_to_target]
        used += [row.method for row in self.ranks]
        used += [name for row in (*self.comparisons, *self.seconds_comparisons) for name in (row.a, row.b)]
        for name in used:
            if name not in self.names:
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

    def rank_of(self, method: str, budget: float) -> float | None:
        """Return the mean rank of a method at a budget, None where there is none."""
        return next((row.rank for row in self.ranks if (row.method, row.budget) == (method, budget)), None)


def _renamed(entry: Any, name: str) -> Any:
    if not isinstance(entry, Mapping) or name not in entry or "value" in entry:
        return entry
    return {**{key: value for key, value in entry.items() if key != name}, "value": entry[name]}


def _list(entries: Any) -> list[Any]:
    return entries if isinstance(entries, list) else []


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
