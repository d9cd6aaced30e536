"""The settings of one phase, and of what ends a solve. Imports no torch, so that `--help` stays instant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from subsetopt.errors import on_command_line, setting, was_typed
from subsetopt.training.phases.first_order.inline_arguments import joined, split_arguments
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.phases.methods import METHODS, is_stream
from subsetopt.training.settings.base import Settings, present_names
from subsetopt.training.settings.declaration import declared
from subsetopt.training.settings.values import (
    Choices,
    ChunkSize,
    ColumnNames,
    ImageSize,
    OptimizerChoices,
    OptimizerName,
    Schedule,
    Select,
    StopAt,
    Strengths,
    WarmupName,
)
from subsetopt.training.splits import SplitName

__all__ = [
    "Choices",
    "ChunkSize",
    "ColumnNames",
    "ImageSize",
    "OptimizerChoices",
    "OptimizerName",
    "PhaseConfig",
    "Schedule",
    "Select",
    "Settings",
    "StopAt",
    "StoppingSettings",
    "Strengths",
    "WarmupName",
    "present_names",
]
_HANDOFF = declared("Hand-off", "shared", "handoff")


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
