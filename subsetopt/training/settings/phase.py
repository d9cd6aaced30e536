"""The settings of one phase, and what phases and runs share. Imports no torch, so that `--help` stays instant."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from subsetopt.errors import FORMER_NAMES, SettingsConflictError, on_command_line, setting, was_typed
from subsetopt.training.phases.first_order.inline_arguments import joined, split_arguments
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.phases.methods import METHODS, is_stream
from subsetopt.training.settings.declaration import declared, old_names
from subsetopt.training.splits import SplitName

StopAt = Literal["minimum", "noise", "validation"]
Select = Literal["auto", "validation", "train"]
Schedule = Literal["constant", "linear", "cosine", "one-cycle", "wsd"]
_HANDOFF = declared("Hand-off", "shared", "handoff")


def _not_finite(table: Mapping[Any, Any]) -> Any:
    """Return the first key under which a number is NaN or infinite, None where all are finite."""
    return next((key for key, value in table.items() if not _all_finite(value, 8)), None)


def _all_finite(value: Any, depth: int) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, (Mapping, list, tuple)):
        items = value.values() if isinstance(value, Mapping) else value
        return depth > 0 and all(_all_finite(item, depth - 1) for item in items)
    return True


def _auto_or_int(value: Any) -> Any:
    return None if value == "auto" else value


ChunkSize = Annotated[Annotated[int, Field(ge=1)] | Literal["tune"] | None, BeforeValidator(_auto_or_int)]


def _height_and_width(value: Any) -> Any:
    """Take N for a square, (H, W), and `N`, `H,W` or `HxW` as the command line has them."""
    if value is None:
        return None
    parts = value.lower().replace("x", ",").split(",") if isinstance(value, str) else value
    parts = list(parts) if isinstance(parts, (list, tuple)) else [parts]
    sides = [int(part) if isinstance(part, str) and part.strip().isdecimal() else part for part in parts]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides)
    if not whole or len(sides) not in (1, 2):
        raise ValueError("must be one or two whole numbers from 1 (height, width)")
    return (sides[0], sides[-1])


def _names(value: Any) -> Any:
    """Split A,B as a command line has it; a name with a comma stands in double quotes."""
    if not isinstance(value, str):
        return value
    try:
        return tuple(name for name in next(csv.reader([value], skipinitialspace=True, strict=True), []) if name)
    except csv.Error as error:
        raise ValueError(f"is no list of names ({error})") from None


def _strengths(value: Any) -> Any:
    """Take one number, or several as `X,X,...` or a list, which become a tuple from the strongest to the weakest."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        numbers = [float(part) for part in parts if not (isinstance(part, str) and not part.strip())]
    except (TypeError, ValueError):
        raise ValueError("must be a number, or several separated by commas") from None
    if not numbers or not all(0 <= number < math.inf for number in numbers):
        raise ValueError("must be finite numbers from 0")
    different = tuple(sorted(set(numbers), reverse=True))
    if len(different) < len(numbers):
        raise ValueError("has a strength twice")
    if len(different) > MOST_STRENGTHS:
        raise ValueError(f"has {len(different)} strengths, {MOST_STRENGTHS} are the most")
    return different if len(different) > 1 else different[0]


MOST_STRENGTHS = 100
Strengths = Annotated[float | tuple[float, ...], BeforeValidator(_strengths)]
ColumnNames = Annotated[tuple[str, ...], BeforeValidator(_names)]
ImageSize = Annotated[tuple[int, int] | None, BeforeValidator(_height_and_width)]


@dataclass(frozen=True)
class Choices:
    """The words that a setting takes, looked up when they are asked for; the command line offers them."""

    words: Callable[[], tuple[str, ...]]

    def check(self, value: str) -> str:
        """Return `value`; raises `ValueError` where it is none of the words."""
        if value not in self.words():
            close = difflib.get_close_matches(value, self.words(), n=1)
            hint = f", did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"must be one of {', '.join(self.words())}{hint}")
        return value


class OptimizerChoices(Choices):
    """Names of optimizers, and besides the words listed anything of the form `package.module:Class`, with arguments."""

    def check(self, value: str) -> str:
        """Return `value`; raises `ValueError` where it is neither, or its arguments cannot be read."""
        if value in self.words():
            return value
        name, _ = split_arguments(value)
        if name in OPTIMIZERS:
            return value
        try:
            return super().check(name)
        except ValueError as error:
            raise ValueError(f"{error}, or package.module:Class") from None


_OPTIMIZER = OptimizerChoices(lambda: OPTIMIZERS.names)
_WARMUP = OptimizerChoices(lambda: ("none", *OPTIMIZERS.names))
OptimizerName = Annotated[str, AfterValidator(_OPTIMIZER.check), _OPTIMIZER]
WarmupName = Annotated[str, AfterValidator(_WARMUP.check), _WARMUP]


class Settings(BaseModel):
    """Settings that refuse unknown names, numbers that are not finite, and switches for numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Enter former names, by which messages call a setting that was typed so."""
        FORMER_NAMES.update({present: former for former, present in old_names(cls).items()})

    @model_validator(mode="before")
    @classmethod
    def _present_names(cls, given: Any) -> Any:
        """Take settings by the names that they had in former versions."""
        return present_names(cls, given)[0] if isinstance(given, Mapping) else given

    @field_validator("*", mode="after")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        """Refuse what pydantic does not look at: numbers in tables of a model's or a solver's settings."""
        if isinstance(value, Mapping) and (key := _not_finite(value)) is not None:
            raise ValueError(f"{key} = {value[key]} must hold finite numbers, and tables within tables at most 8 deep")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse True and False, also in a list, where pydantic would take them for 1 and 0."""
        values = value if isinstance(value, list | tuple) else (value,)
        switched = next((item for item in values if isinstance(item, bool)), None)
        if switched is not None and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"{switched} is no value of this setting")
        return value


def present_names(model: type[BaseModel], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return `given` with former names of settings replaced, and {present: former} for those that it had.

    Raises `SettingsConflictError` where a setting is given by both names.
    """
    former = {old: new for old, new in old_names(model).items() if old in given}
    for old, new in former.items():
        if new in given:
            raise SettingsConflictError(
                f"{setting(new, given[new])} and {setting(old, given[old])} are the same setting", f"leave {old} out"
            )
    return {former.get(name, name): value for name, value in given.items()}, {new: old for old, new in former.items()}


class StoppingSettings(Settings):
    """What ends a solve: settings that a run and its phases have by the same names."""

    gtol: float = Field(
        4e-6,
        gt=0,
        description="minimum reached when max|g| <= gtol x the loss's scale",
        examples=[1e-5],
        json_schema_extra=declared("Solve", "shared", "solve", "full"),
    )
    stop_at: StopAt = Field(
        "minimum",
        description="end of the subset solve: gradient test, sampling noise, or held-out loss",
        json_schema_extra=declared("Solve", "method", "solve", "stream"),
    )
    noise_theta: float = Field(
        0.1,
        gt=0,
        description="sampling noise is reached when ||g||^2 <= theta tr(cov g_i)/K",
        examples=[0.1],
        json_schema_extra=declared("Solve", "method", "solve"),
    )


class PhaseConfig(StoppingSettings):
    """One phase: a method on some data until a stop. `subsetopt train` makes the list from its flags."""

    method: str = Field(description="name of a solver, strategy or optimizer (`subsetopt list`)", examples=["lbfgs"])
    data: Literal["subset", "full"] = Field("subset", description="what the phase trains on")
    role: Literal["warmup", "grow", "solve", "handoff"] = Field("solve", description="how the report names this phase")
    share: float | None = Field(
        None, gt=0, le=1, description="share of the training data in the phase's own subset [default: the run's subset]"
    )
    skip: float = Field(0.0, ge=0, lt=1, description="share of the training data drawn before the phase's own subset")
    subsets: int = Field(1, ge=1, description="disjoint subsets, each solved from the same start", examples=[4])
    subsets_then: Literal["average", "best", "together"] = Field(
        "average", description="hand on their minima's average or the best of them; or solve them as one"
    )
    subsets_select: Select = Field("auto", description="data on which the best minimum is chosen")
    l2_path: tuple[float, ...] = Field((), description="L2 strengths from strong to weak, to choose from")
    draw: Literal["uniform", "residual"] = Field(
        "uniform", description="residual: solve in rounds on samples drawn by their residuals, then on all"
    )
    draw_share: float | None = Field(
        None, gt=0, le=1, description="share of the samples drawn in the first round [default: 0.25, or 500 samples]"
    )
    draw_evaluations: int | None = Field(None, ge=1, description="evaluations in a round [default: 12 to 16]")
    draw_uniform: float = Field(0.05, gt=0, le=1, description="part of each chance to be drawn that all samples share")
    carry: bool = Field(False, description="start with the curvature that the phase before has learnt")
    cumulative: bool = Field(False, description="epochs and seconds count from the start of the run")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="settings of the solver, or arguments of the optimizer"
    )
    max_iterations: int | None = Field(None, ge=1, description="iterations at most", examples=[500])
    epochs: float | None = Field(None, gt=0, description="cost at most, in epoch-equivalents", examples=[10])
    seconds: float | None = Field(None, gt=0, description="wall-clock seconds at most", examples=[60])
    sampler: str = Field("full", description="how a first-order phase draws its batches", examples=["srs"])
    sampler_settings: dict[str, Any] = Field(default_factory=dict, description="settings of the sampler")
    lr: float | None = Field(
        None,
        gt=0,
        description="learning rate of the first-order optimizer",
        examples=[0.01],
        json_schema_extra=declared("Hand-off", "method", "warmup", "handoff"),
    )
    batch_size: int = Field(
        64, ge=1, description="samples per first-order step", examples=[64], json_schema_extra=_HANDOFF
    )
    schedule: Schedule | None = Field(
        None,
        description="learning-rate schedule over the planned steps [default: cosine; schedule-free: constant]",
        examples=["wsd"],
        json_schema_extra=_HANDOFF,
    )
    wsd_warmup: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="share of the wsd schedule that rises",
        examples=[0.02],
        json_schema_extra=_HANDOFF,
    )
    wsd_decay: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the wsd schedule that falls to zero",
        examples=[0.2],
        json_schema_extra=_HANDOFF,
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd", examples=[0.9], json_schema_extra=_HANDOFF)
    nesterov: bool = Field(False, description="Nesterov momentum for sgd", json_schema_extra=_HANDOFF)
    weight_decay: float | None = Field(
        None,
        ge=0,
        description="weight decay [default: the L2 strength; decoupled: 0.01]",
        examples=[1e-4],
        json_schema_extra=_HANDOFF,
    )
    coupled_l2: bool = Field(
        False,
        description="adamw, muon: the run's L2 penalty in the gradient, and no decoupled decay unless given",
        json_schema_extra=_HANDOFF,
    )
    clip_norm: float | None = Field(
        None, gt=0, description="clip first-order gradients to this norm", examples=[1.0], json_schema_extra=_HANDOFF
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="label smoothing of first-order steps", examples=[0.1], json_schema_extra=_HANDOFF
    )
    augmentation: str = Field(
        "none",
        description="batch augmentation (`subsetopt list augmentations`)",
        examples=["standard"],
        json_schema_extra=_HANDOFF,
    )
    amp: bool = Field(False, description="bfloat16 autocast in first-order steps", json_schema_extra=_HANDOFF)

    @property
    def first_order(self) -> bool:
        """True when a mini-batch optimizer runs this phase, false for a full-batch solver."""
        return self.method in OPTIMIZERS

    @property
    def split(self) -> SplitName:
        """What the phase trains on: the subset, or all training data."""
        return SplitName.trained_on(self.data)

    @property
    def streaming(self) -> bool:
        """True when fresh subsets stream past, one step on each."""
        return is_stream(self.method)

    @model_validator(mode="before")
    @classmethod
    def _optimizer_arguments(cls, given: Any) -> Any:
        """Take `NAME(KEY=VALUE, ...)` apart, and what the phase itself sets out of the optimizer's arguments."""
        method = given.get("method") if isinstance(given, Mapping) else None
        if not isinstance(method, str) or method not in OPTIMIZERS:
            return given
        name, arguments = split_arguments(method)
        settings = given.get("settings", {})
        if not isinstance(settings, Mapping):
            return given
        settings, phase = joined(settings, arguments), {**given}
        for key in OPTIMIZERS.get(name).of_phase:
            if key in settings:
                own, default = phase.get(key), cls.model_fields[key].default
                phase[key] = settings.pop(key)
                if own not in (None, default, phase[key]):
                    raise ValueError(f"{key} is given twice, as {own!r} and {phase[key]!r}; leave one out")
        return {**phase, "method": name, "settings": settings}

    def _called(self, name: str) -> str:
        """Return the name of a setting; of a phase that flags made, its flag."""
        own = f"{self.role}_{name}"
        return setting(own) if was_typed(own, getattr(self, name)) else name

    @model_validator(mode="after")
    def _planned(self) -> Self:
        if self.schedule == "wsd" and self.wsd_warmup + self.wsd_decay > 1:
            names = " and ".join(self._called(name) for name in ("wsd_warmup", "wsd_decay"))
            raise ValueError(f"{names} are shares of one schedule and add up to 1 at most")
        if (self.streaming or self.first_order) and self.epochs is None and self.seconds is None:
            asked = f": give {setting('solver_epochs', 1)}" if self.role == "solve" and on_command_line() else ""
            raise ValueError(f"a phase of {self.method} needs epochs (or seconds), what it may spend{asked}")
        if self.first_order and self.stop_at == "noise":
            raise ValueError(
                f"a phase of {self.method} has no full gradient to test for noise; use stop_at = validation"
            )
        if (self.first_order or self.method in METHODS) and self.subsets > 1:
            raise ValueError(f"a phase of {self.method} minimises nothing whose minima could be joined; use a solver")
        fits = self.data == "full" and self.subsets == 1 and (self.role == "warmup" or not self.first_order)
        if self.draw == "residual" and not fits:
            raise ValueError("draw = residual is for a full-batch solver with data = full, and no subsets of its own")
        if self.nesterov and self.method == "sgd" and self.momentum == 0:
            raise ValueError(f"Nesterov momentum needs {self._called('momentum')} above 0, for example 0.9")
        return self
