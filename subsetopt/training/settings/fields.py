"""Every setting of a run: type, default, range, help text, and where it belongs; what is solved is in `problem`.

The descriptions are the help texts of `subsetopt train`; the examples are the remedies in error messages. Settings of
first-order phases, such as `handoff_lr`, come from `PhaseConfig`. This file imports neither torch nor any solver, so
that `subsetopt train --help` stays instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from subsetopt.training.settings.declaration import declared
from subsetopt.training.settings.growth import Mode
from subsetopt.training.settings.phase import PhaseConfig, StoppingSettings
from subsetopt.training.settings.problem import ProblemSettings
from subsetopt.training.settings.values import ChunkSize, OptimizerName, Select, WarmupName

__all__ = ["ProblemSettings", "RunFields"]


def _none_or_int(value: Any) -> Any:
    return None if value == "none" else value


class RunFields(StoppingSettings, ProblemSettings):
    """The settings of a run but those that its phases declare."""

    max_iterations: Annotated[int | None, BeforeValidator(_none_or_int)] = Field(
        500,
        ge=1,
        description="solver iterations on the subset at most",
        examples=[500],
        json_schema_extra=declared("Solve", "method", "solve"),
    )
    max_epochs: float | None = Field(
        None,
        gt=0,
        description="cost budget of the whole run in epoch-equivalents",
        examples=[20],
        json_schema_extra=declared("Solve", "study"),
    )
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="wall-clock budget of the whole run in seconds; not reproducible",
        examples=[60],
        json_schema_extra=declared("Run", "study"),
    )
    track_validation: float | None = Field(
        None,
        gt=0,
        description="record the held-out loss every so many epoch-equivalents; not counted in cost or seconds",
        examples=[0.1],
        json_schema_extra=declared("Run", "study", free=True),
    )
    grow: float | None = Field(
        None,
        gt=1,
        description="solve on subsets growing by this factor, each from the last one's end",
        examples=[2],
        json_schema_extra=declared("Strategy", "method"),
    )
    grow_start: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="share of the training data in the first growing subset",
        examples=[0.01],
        json_schema_extra=declared("Strategy", "method", "grow", key="share", old="start"),
    )
    grow_mode: Mode = Field(
        "nested",
        description="each contains the last, or holds other samples",
        json_schema_extra=declared("Strategy", "method"),
    )
    grow_stop: Literal["noise", "validation", "cost"] = Field(
        "noise",
        description="stopping test of all stages but the last: sampling noise, held-out loss, or --grow-epochs alone",
        json_schema_extra=declared("Strategy", "method", "grow", key="stop_at"),
    )
    grow_epochs: float | None = Field(
        None,
        gt=0,
        description="cost of each stage but the last in epoch-equivalents at most",
        examples=[0.5],
        json_schema_extra=declared("Strategy", "method", "grow", key="epochs"),
    )
    grow_carry: bool = Field(
        True,
        description="growing subsets keep the solver's curvature from one to the next",
        json_schema_extra=declared("Strategy", "method", "grow", key="carry", old="carry"),
    )
    subset_draw: Literal["uniform", "residual"] = Field(
        "uniform",
        description="residual: in rounds on samples drawn and weighted by their residuals, then on all",
        json_schema_extra=declared("Strategy", "method", "drawn", key="draw"),
    )
    draw_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the training data in the first draws [default: 0.25, 500 samples or half; under 200 all]",
        examples=[0.25],
        json_schema_extra=declared("Strategy", "method", "drawn"),
    )
    draw_evaluations: int | None = Field(
        None,
        ge=1,
        description="evaluations on the samples drawn until they are drawn anew [default: 12 to 16, by the share]",
        examples=[12],
        json_schema_extra=declared("Strategy", "method", "drawn"),
    )
    draw_uniform: float = Field(
        0.05,
        gt=0,
        le=1,
        description="part of each sample's chance to be drawn that does not depend on its residual",
        examples=[0.05],
        json_schema_extra=declared("Strategy", "method", "drawn"),
    )
    draw_start: float = Field(
        2.0,
        ge=0,
        description="epoch-equivalents of SGD before the first draw, where there is no --warmup",
        examples=[2],
        json_schema_extra=declared("Strategy", "method"),
    )
    subsets: int = Field(
        1,
        ge=1,
        description="solve this many disjoint subsets from a common start and join their minima",
        examples=[4],
        json_schema_extra=declared("Strategy", "method"),
    )
    subsets_then: Literal["average", "best", "resolve"] = Field(
        "average",
        description="go on from their average, from the best, or solve all together from the average",
        json_schema_extra=declared("Strategy", "method"),
    )
    subsets_select: Select = Field(
        "auto",
        description="loss by which the best is chosen; auto: held-out if there is any, else all training data",
        json_schema_extra=declared("Strategy", "method"),
    )
    warmup: WarmupName = Field(
        "none", description="first-order start on the subset", json_schema_extra=declared("Warm-up", "method")
    )
    warmup_args: dict[str, Any] = Field(
        default_factory=dict,
        description="arguments of the warm-up's optimizer, key=value",
        json_schema_extra=declared("Warm-up", "method", "warmup", key="settings"),
    )
    warmup_epochs: float = Field(
        0.5,
        gt=0,
        description="cost of the warm-up in epoch-equivalents",
        examples=[0.5],
        json_schema_extra=declared("Warm-up", "method", "warmup", key="epochs"),
    )
    handoff: str = Field(
        "sgd",
        description="what follows: none | full | an optimizer (`subsetopt list optimizers`, package.module:Class) | a "
        "sampler",
        examples=["full"],
        json_schema_extra=declared("Hand-off", "method"),
    )
    handoff_epochs: float = Field(
        5.0,
        gt=0,
        description="cost of the hand-off in epoch-equivalents at most",
        examples=[5],
        json_schema_extra=declared("Hand-off", "method", "handoff", "full", key="epochs"),
    )
    handoff_solver: str | None = Field(
        None,
        description="solver of --handoff full [default: --solver]",
        json_schema_extra=declared("Hand-off", "method"),
    )
    handoff_optimizer: OptimizerName = Field(
        "sgd", description="optimizer when a sampler is named", json_schema_extra=declared("Hand-off", "method")
    )
    handoff_optimizer_args: dict[str, Any] = Field(
        default_factory=dict,
        description="arguments of the optimizer, key=value",
        json_schema_extra=declared("Hand-off", "method", "handoff", key="settings"),
    )
    handoff_args: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of what --handoff names: sampler, optimizer, or solver of full, key=value",
        json_schema_extra=declared("Hand-off", "method"),
    )
    handoff_stop_at: Literal["minimum", "validation"] = Field(
        "minimum",
        description="end of the hand-off before its cost is spent: gradient test (solvers), or held-out loss",
        json_schema_extra=declared("Hand-off", "shared", "handoff", "full", key="stop_at"),
    )
    seed: int = Field(
        0, ge=0, description="seed of every random stream", examples=[0], json_schema_extra=declared("Run", "study")
    )
    dtype: Literal["float32", "float64"] = Field(
        "float32", description="precision of parameters and gradients", json_schema_extra=declared("Run")
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="where to compute", json_schema_extra=declared("Run", free=True)
    )
    chunk_size: ChunkSize = Field(
        None,
        description="samples per forward pass, auto, or tune: the fastest found by timing",
        examples=["auto"],
        json_schema_extra=declared("Run"),
    )
    compile: bool = Field(
        False, description="full-batch losses and gradients through torch.compile", json_schema_extra=declared("Run")
    )
    cuda_graphs: bool = Field(
        False, description="CUDA graphs for full-batch gradients of small models", json_schema_extra=declared("Run")
    )
    rank_timeout: float = Field(
        300.0,
        gt=0,
        description="several processes: seconds after which one that does not answer ends the run",
        examples=[300],
        json_schema_extra=declared("Run", free=True),
    )
    checkpoint_seconds: float = Field(
        10.0,
        ge=0,
        description="least seconds between checkpoints, which take at most 2 % of the time; 0: after every iteration",
        examples=[10],
        json_schema_extra=declared("Run", free=True),
    )
    log_to: Literal["tensorboard", "mlflow"] | None = Field(
        None,
        description="also write losses, gradient norms and cost of every iteration to a tracker (extra of that name)",
        examples=["tensorboard"],
        json_schema_extra=declared("Run", free=True),
    )
    output: Path | None = Field(
        None,
        description="run directory, must not exist [default: runs/DATASET-MODEL-SOLVER-N]",
        examples=["runs/a"],
        json_schema_extra=declared("Run", "study", free=True),
    )
    phase: tuple[PhaseConfig, ...] = Field(
        (), description="explicit list of phases instead of the flags above", json_schema_extra=declared("Run", "study")
    )

    @property
    def subset_share(self) -> float:
        """Return the share of the training data in the run's subset, 0 where `subset_size` says how many samples."""
        if self.subset_size is not None:
            return 0.0
        return self.subset_frac or (0.1 if self.grow is None and self.subset_draw == "uniform" else 1.0)
