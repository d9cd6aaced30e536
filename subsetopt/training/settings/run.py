"""Every setting of a run, validated before any work: flags, TOML files and Python keywords all end here.

The descriptions below are the help texts of `subsetopt train`; the examples are the remedies in error messages.
This file imports neither torch nor any solver, so that `subsetopt train --help` stays instant.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from subsetopt.errors import SettingError, SettingsConflictError, setting, unknown_name
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.settings.growth import MOST_STAGES, Mode, stage_count
from subsetopt.training.settings.phase import (
    ChunkSize,
    ImageSize,
    OptimizerName,
    PhaseConfig,
    Schedule,
    Select,
    Settings,
    StopAt,
    WarmupName,
)
from subsetopt.training.settings.planning import planned_phases


def _none_or_int(value: Any) -> Any:
    return None if value == "none" else value


class RunConfig(Settings):
    """All settings of one training run."""

    dataset: str = Field("digits", description="data set; see `subsetopt list datasets`", examples=["mnist"])
    data_dir: Path | None = Field(None, description="where data sets lie [env: SUBSETOPT_DATA]", examples=["data"])
    data_file: Path | None = Field(
        None, description="the file of --dataset npz, or the folder of --dataset image-folder", examples=["mine.npz"]
    )
    task: Literal["classification", "regression"] | None = Field(
        None, description="what targets mean [default: whole numbers and words are classes, floats quantities]"
    )
    image_size: ImageSize = Field(
        None,
        description="resize images to N x N or H x W pixels, stretched where their shape is another (bilinear)",
        examples=[32],
        json_schema_extra={"metavar": "N|H,W"},
    )
    normalize: Literal["auto", "none", "standard"] = Field(
        "auto", description="auto: standardise inputs and regression targets by the training split; none: as they are"
    )
    validation_fraction: float = Field(
        0.1, ge=0, lt=1, description="share of the training data held out", examples=[0.1]
    )
    model: str = Field(
        "auto", description="model name (`subsetopt list models`) or package.module:factory", examples=["cnn"]
    )
    model_args: dict[str, Any] = Field(default_factory=dict, description="settings of the model, key=value")
    init_from: Path | None = Field(
        None, description="start from the model of this finished run, or from a .safetensors file", examples=["runs/a"]
    )
    loss: Literal["auto", "cross_entropy", "mse"] = Field(
        "auto", description="loss function; auto: by the task of the data set"
    )

    subset_frac: float | None = Field(
        None, gt=0, le=1, description="share of the training data in the subset [default: 0.1]", examples=[0.1]
    )
    subset_size: int | None = Field(None, ge=1, description="number of samples in the subset", examples=[1000])
    stratify: bool = Field(True, description="draw the subset with the class shares of the training data")
    augment_copies: int = Field(
        0, ge=0, description="fixed augmented copies beside each subset sample: K grows, and Q with it", examples=[1]
    )
    require_ratio: float | None = Field(
        None, gt=0, description="refuse to train when Q of the subset is below this", examples=[1.0]
    )

    solver: str = Field(
        "lbfgs",
        description="solver or strategy (`subsetopt list solvers`, `list strategies`), or none",
        examples=["lbfgs"],
    )
    solver_args: dict[str, Any] = Field(default_factory=dict, description="settings of the solver, key=value")
    solver_epochs: float | None = Field(
        None,
        gt=0,
        description="cost of the solve in epoch-equivalents at most [default: kfac-stream 3]",
        examples=[3],
    )
    l2: float = Field(
        1e-3,
        ge=0,
        description="L2 strength, in units of the loss, which gains l2/2 ||w||^2",
        examples=[1e-3],
    )
    gtol: float = Field(
        4e-6, gt=0, description="minimum reached when max|g| <= gtol x the loss's scale", examples=[1e-5]
    )
    max_iterations: Annotated[int | None, BeforeValidator(_none_or_int)] = Field(
        500, ge=1, description="solver iterations on the subset at most", examples=[500]
    )
    max_epochs: float | None = Field(
        None, gt=0, description="cost budget of the whole run in epoch-equivalents", examples=[20]
    )
    max_seconds: float | None = Field(
        None, gt=0, description="wall-clock budget of the whole run in seconds; not reproducible", examples=[60]
    )
    track_validation: float | None = Field(
        None,
        gt=0,
        description="record the held-out loss every so many epoch-equivalents; not counted in cost or seconds",
        examples=[0.1],
    )
    stop_at: StopAt = Field(
        "minimum", description="end of the subset solve: gradient test, sampling noise, or held-out loss"
    )

    noise_theta: float = Field(
        0.1, gt=0, description="sampling noise is reached when ||g||^2 <= theta tr(cov g_i)/K", examples=[0.1]
    )

    grow: float | None = Field(
        None, gt=1, description="solve on subsets growing by this factor, each from the last one's end", examples=[2]
    )
    start: float = Field(
        0.01, gt=0, lt=1, description="share of the training data in the first of them", examples=[0.01]
    )
    grow_mode: Mode = Field("nested", description="each contains the last, or holds other samples")
    grow_stop: Literal["noise", "validation", "cost"] = Field(
        "noise", description="what ends each but the last: sampling noise, held-out loss, or --grow-epochs alone"
    )
    grow_epochs: float | None = Field(
        None, gt=0, description="cost of each but the last in epoch-equivalents at most", examples=[0.5]
    )
    carry: bool = Field(True, description="growing subsets keep the solver's curvature from one to the next")
    subsets: int = Field(
        1, ge=1, description="solve this many disjoint subsets from a common start and join their minima", examples=[4]
    )
    subsets_then: Literal["average", "best", "resolve"] = Field(
        "average", description="go on from their average, from the best, or solve all together from the average"
    )
    subsets_select: Select = Field(
        "auto",
        description="loss by which the best is chosen; auto: held-out if there is any, else all training data",
    )

    warmup: WarmupName = Field("none", description="first-order start on the subset")
    warmup_epochs: float = Field(0.5, gt=0, description="cost of the warm-up in epoch-equivalents", examples=[0.5])
    warmup_lr: float | None = Field(None, gt=0, description="learning rate of the warm-up", examples=[0.001])

    handoff: str = Field(
        "sgd", description="what follows: none | full | an optimizer's or a sampler's name", examples=["full"]
    )
    handoff_epochs: float = Field(
        5.0, gt=0, description="cost of the hand-off in epoch-equivalents at most", examples=[5]
    )
    handoff_solver: str | None = Field(None, description="solver of --handoff full [default: --solver]")
    handoff_optimizer: OptimizerName = Field("sgd", description="optimizer when a sampler is named")
    handoff_args: dict[str, Any] = Field(
        default_factory=dict, description="settings of the sampler, or of the solver of --handoff full, key=value"
    )
    handoff_lr: float | None = Field(None, gt=0, description="learning rate of sgd/adam", examples=[0.01])
    handoff_batch_size: int = Field(64, ge=1, description="batch size of sgd/adam", examples=[64])
    handoff_schedule: Schedule = Field("cosine", description="learning-rate schedule of sgd/adam")
    handoff_momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd", examples=[0.9])
    handoff_nesterov: bool = Field(False, description="Nesterov momentum for sgd")
    handoff_weight_decay: float | None = Field(
        None, ge=0, description="weight decay [default: --l2; decoupled: 0.01]", examples=[1e-4]
    )
    handoff_clip_norm: float | None = Field(
        None, gt=0, description="clip gradients of sgd/adam to this norm", examples=[1.0]
    )
    handoff_label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing of sgd/adam", examples=[0.1])
    handoff_augmentation: str = Field(
        "none", description="batch augmentation (`subsetopt list augmentations`)", examples=["standard"]
    )
    handoff_amp: bool = Field(False, description="bfloat16 autocast in sgd/adam")
    handoff_stop_at: Literal["minimum", "validation"] = Field(
        "minimum", description="end of the hand-off before its cost is spent: gradient test (solvers), or held-out loss"
    )

    seed: int = Field(0, ge=0, description="seed of every random stream", examples=[0])
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of parameters and gradients")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to compute")
    chunk_size: ChunkSize = Field(
        None, description="samples per forward pass, auto, or tune: the fastest found by timing", examples=["auto"]
    )
    compile: bool = Field(False, description="full-batch losses and gradients through torch.compile")
    cuda_graphs: bool = Field(False, description="CUDA graphs for full-batch gradients of small models")
    rank_timeout: float = Field(
        300.0,
        gt=0,
        description="several processes: seconds after which one that does not answer ends the run",
        examples=[300],
    )
    checkpoint_seconds: float = Field(10.0, ge=0, description="seconds between checkpoints", examples=[10])
    output: Path | None = Field(
        None, description="run directory, must not exist [default: runs/DATASET-MODEL-SOLVER-N]", examples=["runs/a"]
    )
    phase: tuple[PhaseConfig, ...] = Field((), description="explicit list of phases instead of the flags above")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.subset_frac is not None and self.subset_size is not None:
            raise ValueError(f"give {setting('subset_frac')} or {setting('subset_size')}, not both")
        stops = {"stop_at": self.stop_at, "handoff_stop_at": self.handoff_stop_at}
        held_out = [name for name, stop in stops.items() if stop == "validation"]
        if self.grow is not None and self.grow_stop == "validation":
            held_out.append("grow_stop")
        if held_out and self.validation_fraction == 0:
            raise ValueError(f"{setting(held_out[0], 'validation')} needs held-out data; {_more_held_out()}")
        self._check_strategy()
        if self.track_validation is not None and self.validation_fraction == 0:
            raise ValueError(f"{setting('track_validation')} needs held-out data; {_more_held_out()}")
        if self.solver == "none" and self.handoff == "none" and self.warmup == "none" and not self.phase:
            raise ValueError("solver, warmup and handoff are all 'none': nothing would be trained")
        if self.handoff == "none" and self.handoff_args:
            raise ValueError(
                f"{setting('handoff_args', self.handoff_args)} has no use with {setting('handoff', 'none')}; "
                "leave one of them out"
            )
        return self

    def _check_strategy(self) -> None:
        """Refuse what contradicts growing subsets, or several of them."""
        strategy = "grow" if self.grow is not None else "subsets" if self.subsets > 1 else None
        if strategy is not None and (self.solver == "none" or self.solver in METHODS):
            raise ValueError(
                f"{setting(strategy)} needs a full-batch solver, such as {setting('solver', 'lbfgs')}, "
                f"not {setting('solver', self.solver)}"
            )
        if self.grow is not None and self.subsets > 1:
            raise ValueError(
                f"{setting('grow', self.grow)} and {setting('subsets', self.subsets)} exclude each other; "
                "give one of them"
            )
        if self.grow is not None and self.subset_size is not None:
            raise ValueError(
                f"{setting('grow')} counts in shares of the data; "
                f"give {setting('subset_frac')} instead of {setting('subset_size')}"
            )
        end = self.subset_frac or 1.0
        if self.grow is not None and self.start >= end:
            raise ValueError(
                f"{setting('start', self.start)} leaves nothing to grow to; use less than {end:g}, the share at the end"
            )
        if self.grow is not None and (stages := stage_count(self.start, self.grow, end)) > MOST_STAGES:
            least = float(f"{max(1.05, (end / self.start) ** (1 / 20)):.3g}")
            raise ValueError(
                f"{setting('grow', self.grow)} makes {stages:.3g} stages from {setting('start', self.start)}, over "
                f"{MOST_STAGES}; use {setting('grow', least)} or more"
            )
        if self.grow is not None and self.grow_stop == "cost" and self.grow_epochs is None:
            raise ValueError(
                f"{setting('grow_stop', 'cost')} needs the cost of each stage, "
                f"for example {setting('grow_epochs', 0.5)}"
            )
        if self.subsets > 1 and self.subsets * (share := self.subset_share) > 1 + 1e-9:
            raise ValueError(
                f"{setting('subsets', self.subsets)}: disjoint subsets of {share:g} of the data each do not fit; "
                f"use {setting('subset_frac', float(f'{1 / self.subsets:.3g}'))} or less"
            )
        if self.subsets > 1 and self.subsets_select == "validation" and self.validation_fraction == 0:
            raise ValueError(f"{setting('subsets_select', 'validation')} needs held-out data; {_more_held_out()}")

    @property
    def subset_share(self) -> float:
        """Return the share of the training data in the run's subset, 0 where `subset_size` says how many samples."""
        if self.subset_size is not None:
            return 0.0
        return self.subset_frac or (0.1 if self.grow is None else 1.0)

    def phases(self) -> tuple[PhaseConfig, ...]:
        """Return the list of phases that this configuration means."""
        if self.phase:
            return self.phase
        return planned_phases(self)


def _more_held_out() -> str:
    return f"set {setting('validation_fraction')} above 0"


def make_config(*layers: Mapping[str, Any]) -> RunConfig:
    """Validate settings, later layers overriding earlier ones; raises `SettingError` in one line."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key in layer:
            if key not in RunConfig.model_fields:
                raise unknown_name("setting", key, RunConfig.model_fields)
        if layer.get("subset_size") is not None and layer.get("subset_frac") is None:
            merged.pop("subset_frac", None)
        if layer.get("subset_frac") is not None and layer.get("subset_size") is None:
            merged.pop("subset_size", None)
        merged.update(layer)
    try:
        config = RunConfig(**merged)
        config.phases()  # a flag may be wrong only in the phase that it makes
        return config
    except ValidationError as error:
        raise _one_line(error, merged) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML configuration; raises `SettingError` when it is missing or malformed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingError(
            "config", str(path), "no such file", "see `subsetopt list presets` for those shipped"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError("config", str(path), f"cannot be read as TOML ({error})", "mend the file") from None


def _one_line(error: ValidationError, given: Mapping[str, Any]) -> SettingError:
    first = error.errors(include_url=False)[0]
    problem = str(first["msg"]).removeprefix("Value error, ").replace("\n", " ")
    location = [str(part) for part in first["loc"]]
    if not location:
        return SettingsConflictError(problem, "see `subsetopt train --help`")
    fields = PhaseConfig.model_fields if location[0] == "phase" else RunConfig.model_fields
    name = next((part for part in reversed(location) if part in fields), location[0])
    field = fields.get(name)
    remedy = f"for example {field.examples[0]!r}" if field and field.examples else "see `subsetopt train --help`"
    if first["type"] == "extra_forbidden":
        return unknown_name("setting", location[-1], fields)
    return SettingError(".".join(location), first.get("input", given.get(name)), problem, remedy)
