"""Train, resume and evaluate: from a configuration to a finished run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from subsetopt.ambient import ordinary_torch
from subsetopt.data import Dataset
from subsetopt.distributed import Ranks, join
from subsetopt.errors import ModelError, RunDirectoryError, SettingError, UserError
from subsetopt.files import MALFORMED, reason, sealed
from subsetopt.training.checks.affordable import check_trained, stepless
from subsetopt.training.checks.identity import OtherRunError, check_identity, check_outputs, identity
from subsetopt.training.checks.run_data import changed_data
from subsetopt.training.context import PreparedRun, RunContext
from subsetopt.training.loop import Loop
from subsetopt.training.phases.factory import build_phases
from subsetopt.training.phases.protocol import Phase
from subsetopt.training.position import Position, Snapshot
from subsetopt.training.prediction.predictor import Predictor
from subsetopt.training.preparation import prepare
from subsetopt.training.progress import Progress, Silent
from subsetopt.training.result import assemble_result, environment, version_of, warn_of_other_environment
from subsetopt.training.run_directory import (
    BEST,
    CHECKPOINT,
    CONFIG,
    ENVIRONMENT,
    METRICS,
    MODEL,
    RESULT,
    RunDirectory,
    finite,
)
from subsetopt.training.settings.run import RunConfig, make_config, read_toml
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData
from subsetopt.version import own_version

SPLITS = ("subset", "train", "validation", "test")
LIMITS = ("max_iterations", "max_epochs", "max_seconds", "solver_epochs", "handoff_epochs")
T = TypeVar("T")
FOREIGN = "(given as an object)"


class Interrupted(Exception):  # noqa: N818 (an event, as in KeyboardInterrupt, not an error)
    """The run was asked to stop; its state is saved in `directory`."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        super().__init__("interrupted")


@dataclass(frozen=True)
class RunResult:
    """A finished run: the content of result.json, where it lies, and the trained model on raw inputs (a new module).

    `best` has the parameters of the subset minimum where these did better on held-out data than the last ones.
    """

    result: dict[str, Any]
    directory: Path | None
    predictor: Predictor
    best: Predictor | None = None

    @property
    def model(self) -> nn.Module:
        """The network alone, on standardised inputs."""
        return self.predictor.network


@ordinary_torch()
def train(
    config: RunConfig,
    *,
    progress: Progress | None = None,
    model: nn.Module | None = None,
    dataset: Dataset | None = None,
    keep: bool = True,
    splits: Sequence[str] = SPLITS,
    figure: bool = True,
    may_idle: bool = False,
) -> RunResult:
    """Run all phases of `config` and return the result; `keep=False` writes nothing to disk.

    `splits` are those measured at the end: a run that serves to choose settings leaves "test" out. `figure=False` saves
    the time of drawing. Every check is made before the run directory is created. Raises `UserError` for the user's
    mistakes and `Interrupted` after Ctrl-C, with everything saved.

    With `may_idle` a run whose budget admits no step is a finding, not a mistake.

    Started by torchrun, the processes share the work; rank 0 alone writes and shows progress, and every rank returns
    the result.
    """
    ranks = join(config.rank_timeout, config.device)
    progress = (progress if ranks.main else None) or Silent()
    prepared, phases = _prepared(_named(config, model, dataset), model, dataset, ranks, may_idle)
    directory = ranks.together(lambda: _new_directory(prepared) if keep and ranks.main else None)
    _hint(ranks, directory)
    loop = Loop(prepared, phases, directory, progress)
    with _alone_in(directory, ranks):
        return _finish(loop, loop.start(), prepared, phases, directory, progress, splits, figure, may_idle)


def _prepared(
    config: RunConfig, model: nn.Module | None, dataset: Dataset | None, ranks: Ranks, may_idle: bool
) -> tuple[PreparedRun, list[Phase]]:
    """Build and check everything on every rank; a mistake that one of them finds ends all."""

    def work() -> tuple[PreparedRun, list[Phase]]:
        prepared = prepare(config, model, dataset, ranks)
        return prepared, build_phases(*prepared, may_idle=may_idle)

    prepared, phases = ranks.together(work)
    if ranks.size > 1 and (config.max_seconds or any(phase.config.seconds for phase in phases)):
        prepared.budget.clock.follow(ranks.now)
    return prepared, phases


def _new_directory(prepared: PreparedRun) -> RunDirectory:
    data, _, run = prepared
    config = run.config
    stem = "-".join([data.dataset.name, config.model.split(":")[-1], config.solver.replace(":", "-")])
    directory = RunDirectory.create(config.output, stem.replace("/", "-"), _stored(config))
    directory.write_json(ENVIRONMENT, environment(data.device, run.ranks))
    directory.write_bytes(METRICS, b"")  # there even when the budget admits not one evaluation
    return directory


def _hint(ranks: Ranks, directory: RunDirectory | None) -> None:
    """Tell every rank how the run is resumed if it loses another."""
    path = ranks.broadcast(None if directory is None else str(directory.path))
    if path is not None:
        ranks.resume_hint = f"`subsetopt resume {path}` goes on from the last checkpoint, with any number of ranks"


@ordinary_torch()
def resume_run(
    path: str | Path,
    *,
    progress: Progress | None = None,
    model: nn.Module | None = None,
    dataset: Dataset | None = None,
    splits: Sequence[str] = SPLITS,
    figure: bool = True,
    may_idle: bool = False,
    limits: Mapping[str, Any] | None = None,
) -> RunResult:
    """Go on with an interrupted or killed run; a finished one returns its result at once.

    With `limits` (of `LIMITS`, e.g. {"max_iterations": 1000}) a run goes on whose last solver was stopped by a limit,
    where it was; raises `UserError` where there is none, or the new limits admit no step.

    A run that was given a model or data set as objects needs equal ones again. Any number of ranks may go on with it;
    all of them read the directory.
    """
    directory = RunDirectory.open(Path(path))
    limits = {name: value for name, value in (limits or {}).items() if value is not None}
    config = _within(load_config(directory, model, dataset, limits), limits)
    ranks = join(config.rank_timeout, config.device)
    progress = (progress if ranks.main else None) or Silent()
    prepared, phases = _prepared(config, model, dataset, ranks, may_idle)
    written = directory if ranks.main else None
    loop = Loop(prepared, phases, written, progress)
    with _alone_in(written, ranks):
        ranks.together(lambda: None if written is None else written.prepare_to_go_on())
        checkpoint = ranks.together(directory.load_checkpoint)
        _hint(ranks, directory)
        if ranks.main:
            warn_of_other_environment(directory, prepared.data.device, ranks, progress)
        ranks.together(
            lambda: (
                None if checkpoint is None else _fits(directory, CHECKPOINT, loop.check, checkpoint[1], tuple(limits))
            )
        )
        position = loop.begin_again() if checkpoint is None else _restored(loop, checkpoint, directory)
        if limits:
            ranks.together(lambda: None if checkpoint is None else loop.reopen(position))
            ranks.together(lambda: None if written is None else written.write_toml(CONFIG, _stored(config)))
            loop.save(position)
        return _finish(loop, position, prepared, phases, written, progress, splits, figure, may_idle)


def _within(config: RunConfig, limits: Mapping[str, Any]) -> RunConfig:
    """Return `config`; raises `SettingError` for limits that its explicit phases do not use."""
    unused = [name for name in limits if name not in ("max_epochs", "max_seconds")] if config.phase else []
    if unused:
        raise SettingError(unused[0], limits[unused[0]], "the run has explicit phases", "give max_epochs")
    return config


@contextmanager
def _alone_in(directory: RunDirectory | None, ranks: Ranks) -> Iterator[None]:
    """Keep other processes out of the directory that this one writes; where that fails, it fails on every rank."""
    with ExitStack() as stack:
        ranks.together(lambda: None if directory is None else stack.enter_context(directory.sole_user()))
        yield


@ordinary_torch()
def check_run(config: RunConfig, *, may_idle: bool = False) -> PreparedRun:
    """Raise what `train` would raise before its first step and return what it would work on; nothing is written."""
    prepared = prepare(config)
    build_phases(*prepared, may_idle=may_idle)
    return prepared


def _fits(directory: RunDirectory, name: str, check: Callable[..., T], *arguments: Any) -> T:
    """Return what `check` does; what it finds different is told of the file `name`."""
    try:
        return check(*arguments)
    except (OtherRunError, ModelError) as error:
        raise RunDirectoryError(f"run = {str(directory.path)!r}: {name} does not fit: {error}") from None


def _restored(loop: Loop, checkpoint: tuple[dict[str, Tensor], dict[str, Any]], directory: RunDirectory) -> Position:
    try:
        return _fits(directory, CHECKPOINT, loop.restore, *checkpoint)
    except UserError:
        raise
    except MALFORMED as error:
        written, own = version_of(directory), own_version()
        raise RunDirectoryError(
            f"run = {str(directory.path)!r}: its checkpoint (subsetopt {written}) does not fit this version {own} "
            f"({type(error).__name__}: {reason(error)}); resume with the version that wrote it, or train anew"
        ) from error


@ordinary_torch()
def evaluate_run(
    path: str | Path,
    *,
    data_dir: Path | None = None,
    device: str | None = None,
    splits: Sequence[str] = ("train", "validation", "test"),
    model: nn.Module | None = None,
    dataset: Dataset | None = None,
    notes: list[str] | None = None,
) -> dict[str, Any]:
    """Return {split: {loss, accuracy | mse, r2}} of a finished run's model, computed afresh.

    Inputs and targets are standardised as the run did. Data that are not those of the run are told in `notes`.
    """
    directory = RunDirectory.open(Path(path))
    result = directory.read_json(RESULT)
    overrides = {"data_dir": data_dir, "device": device}
    config = load_config(directory, model, dataset, {k: v for k, v in overrides.items() if v is not None})
    # The run's own model says all; where it once started may be gone.
    data, _, run = prepare(config.model_copy(update={"init_from": None}), model, dataset, statistics=result)
    if notes is not None:
        notes += changed_data(result, data.given, splits)
    w = load_model(directory, data, run, other_data=bool(changed_data(result, data.given, SPLITS)))
    measured = {name: run.model.evaluate(data, w, SplitName(name)) for name in splits}
    return {name: metrics for name, metrics in measured.items() if metrics is not None}


def load_model(directory: RunDirectory, data: TrainingData, run: RunContext, other_data: bool = False) -> Tensor:
    """Put the finished run's buffers into the model and return its parameters.

    Raises `RunDirectoryError` where the file is damaged, or settings, model or (unless `other_data`) data are not those
    of the run.
    """
    tensors, state = directory.load_tensors(MODEL)
    if state is not None:
        _fits(directory, MODEL, partial(check_identity, other_data=other_data), state, data, run)
    w = _fits(directory, MODEL, run.model.flat.load_state_dict, tensors)
    if state is not None and not other_data:
        _fits(directory, MODEL, check_outputs, state, data, run.model.flat, w)
    return w


def _finish(
    loop: Loop,
    position: Position,
    prepared: PreparedRun,
    phases: Sequence[Phase],
    directory: RunDirectory | None,
    progress: Progress,
    splits: Sequence[str],
    figure: bool,
    may_idle: bool,
) -> RunResult:
    run = prepared.run
    for text in run.warnings:
        progress.warn(text)
    if not loop.run(position):
        raise Interrupted(directory.path if directory else None)
    records = [snapshot.record for snapshot in position.snapshots]
    if not may_idle:
        check_trained(run.config, records)
    for text in stepless(records):
        progress.warn(text)
    result = sealed(finite(assemble_result(prepared, position, [SplitName(name) for name in splits]).content()))
    for text in result["assessment"]["alarms"]:
        progress.warn(text)
    better = None
    if result["models"]["best"] is not None:
        solve = [snapshot for snapshot in position.snapshots if snapshot.record["role"] == "solve"][-1]
        better = _kept(prepared, solve, result, directory, BEST)
    last = _kept(prepared, position.snapshots[-1], result, directory, MODEL)
    if directory is not None:
        if figure:
            _draw(directory, result, progress)
        directory.write_json(RESULT, result)
    return RunResult(result, directory.path if directory else None, last, better)


def _draw(directory: RunDirectory, result: dict[str, Any], progress: Progress) -> None:
    """Draw the figure; a run does not fail for want of one."""
    from subsetopt.report.figure import loss_figure  # here, to keep matplotlib out of the library's import

    try:
        loss_figure(directory.path, result)
    except MALFORMED as error:
        progress.warn(f"no figure ({reason(error)})")


def _kept(
    prepared: PreparedRun, snapshot: Snapshot, result: Mapping[str, Any], directory: RunDirectory | None, name: str
) -> Predictor:
    """Write the parameters of a finished phase, where there is a directory, and return their model."""
    data, _, run = prepared
    run.model.flat.load_buffers(snapshot.buffers)
    if directory is not None:
        directory.save_tensors(name, run.model.flat.state_dict(snapshot.w), identity(data, run, snapshot.w))
    return Predictor.of_result(run.model.flat.module(snapshot.w), result).eval()


def _named(config: RunConfig, model: nn.Module | None, dataset: Dataset | None) -> RunConfig:
    """Record in the configuration that objects replace the named model or data set."""
    changes: dict[str, Any] = {}
    if model is not None:
        changes |= {"model": FOREIGN, "model_args": {}}
    if dataset is not None:
        changes["dataset"] = FOREIGN
    return config.model_copy(update=changes)


def _stored(config: RunConfig) -> dict[str, Any]:
    content = config.model_dump(mode="json", exclude={"output"})
    if config.max_iterations is None:
        content["max_iterations"] = "none"  # TOML has no null, and without a line the default would hold
    if config.data_dir is not None:
        content["data_dir"] = str(config.data_dir.absolute())
    if config.data_file is not None:
        content["data_file"] = str(config.data_file.absolute())
    if config.init_from is not None:
        content["init_from"] = str(config.init_from.absolute())
    return content


def load_config(
    directory: RunDirectory,
    model: nn.Module | None,
    dataset: Dataset | None,
    overrides: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Read the settings of a run; raises `RunDirectoryError` where it was given objects that are missing now."""
    config = make_config(read_toml(directory.path / CONFIG), overrides or {})
    for given, name, what in ((model, config.model, "model"), (dataset, config.dataset, "dataset")):
        if given is None and name == FOREIGN:
            raise RunDirectoryError(
                f"run = {str(directory.path)!r}: its {what} was a Python object; "
                f"use SubsetTrainer.resume(path, {what}=...)"
            )
    return config
