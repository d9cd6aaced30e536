"""Train, resume and evaluate: from a configuration to a finished run directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from subsetopt.data import Dataset
from subsetopt.distributed import Ranks, join
from subsetopt.errors import RunDirectoryError
from subsetopt.training.affordable import check_trained, stepless
from subsetopt.training.config import RunConfig, make_config, read_toml
from subsetopt.training.loop import Loop
from subsetopt.training.outcome import assemble_result, environment, warn_of_other_environment
from subsetopt.training.phase_factory import build_phases
from subsetopt.training.phases import Phase
from subsetopt.training.position import Position
from subsetopt.training.preparation import prepare
from subsetopt.training.progress import Progress, Silent
from subsetopt.training.run_directory import CONFIG, ENVIRONMENT, METRICS, MODEL, RESULT, RunDirectory, finite
from subsetopt.training.workspace import Workspace

SPLITS = ("subset", "train", "validation", "test")
FOREIGN = "(given as an object)"


class Interrupted(Exception):  # noqa: N818 (an event, as in KeyboardInterrupt, not an error)
    """The run was asked to stop; its state is saved in `directory`."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        super().__init__("interrupted")


@dataclass(frozen=True)
class RunResult:
    """A finished run: the content of result.json, where it lies, and the trained module (a new one, on the CPU)."""

    result: dict[str, Any]
    directory: Path | None
    model: nn.Module


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
    workspace, phases = _prepared(_named(config, model, dataset), model, dataset, ranks, may_idle)
    directory = ranks.together(lambda: _new_directory(workspace) if keep and ranks.main else None)
    _hint(ranks, directory)
    loop = Loop(workspace, phases, directory, progress)
    with _alone_in(directory, ranks):
        return _finish(loop, loop.start(), workspace, phases, directory, progress, splits, figure, may_idle)


def _prepared(
    config: RunConfig, model: nn.Module | None, dataset: Dataset | None, ranks: Ranks, may_idle: bool
) -> tuple[Workspace, list[Phase]]:
    """Build and check everything on every rank; a mistake that one of them finds ends all."""

    def work() -> tuple[Workspace, list[Phase]]:
        workspace = prepare(config, model, dataset, ranks)
        return workspace, build_phases(workspace, may_idle=may_idle)

    workspace, phases = ranks.together(work)
    if ranks.size > 1 and (config.max_seconds or any(phase.config.seconds for phase in phases)):
        workspace.clock.follow(ranks.now)
    return workspace, phases


def _new_directory(workspace: Workspace) -> RunDirectory:
    config = workspace.config
    stem = "-".join([workspace.dataset.name, config.model.split(":")[-1], config.solver.replace(":", "-")])
    directory = RunDirectory.create(config.output, stem.replace("/", "-"), _stored(config))
    directory.write_json(ENVIRONMENT, environment(workspace))
    directory.write_bytes(METRICS, b"")  # there even when the budget admits not one evaluation
    return directory


def _hint(ranks: Ranks, directory: RunDirectory | None) -> None:
    """Tell every rank how the run is resumed if it loses another."""
    path = ranks.broadcast(None if directory is None else str(directory.path))
    if path is not None:
        ranks.resume_hint = f"`subsetopt resume {path}` goes on from the last checkpoint, with any number of ranks"


def resume_run(
    path: str | Path,
    *,
    progress: Progress | None = None,
    model: nn.Module | None = None,
    dataset: Dataset | None = None,
    splits: Sequence[str] = SPLITS,
    figure: bool = True,
    may_idle: bool = False,
) -> RunResult:
    """Go on with an interrupted or killed run; a finished one returns its result at once.

    A run that was given a model or data set as objects needs equal ones again. Any number of ranks may go on with it;
    all of them read the directory.
    """
    directory = RunDirectory.open(Path(path))
    config = load_config(directory, model, dataset)
    ranks = join(config.rank_timeout, config.device)
    progress = (progress if ranks.main else None) or Silent()
    workspace, phases = _prepared(config, model, dataset, ranks, may_idle)
    written = directory if ranks.main else None
    loop = Loop(workspace, phases, written, progress)
    with _alone_in(written, ranks):
        checkpoint = ranks.together(directory.load_checkpoint)
        _hint(ranks, directory)
        warn_of_other_environment(directory, workspace, progress)
        position = loop.start() if checkpoint is None else _restored(loop, checkpoint, directory)
        if checkpoint is None and written is not None:
            written.truncate(METRICS, 0)
        return _finish(loop, position, workspace, phases, written, progress, splits, figure, may_idle)


@contextmanager
def _alone_in(directory: RunDirectory | None, ranks: Ranks) -> Iterator[None]:
    """Keep other processes out of the directory that this one writes; where that fails, it fails on every rank."""
    with ExitStack() as stack:
        ranks.together(lambda: None if directory is None else stack.enter_context(directory.sole_user()))
        yield


def check_run(config: RunConfig, *, may_idle: bool = False) -> Workspace:
    """Raise what `train` would raise before its first step and return the workspace; nothing is written or trained."""
    workspace = prepare(config)
    build_phases(workspace, may_idle=may_idle)
    return workspace


def _restored(loop: Loop, checkpoint: tuple[dict[str, Tensor], dict[str, Any]], directory: RunDirectory) -> Position:
    try:
        return loop.restore(*checkpoint)
    except (KeyError, TypeError) as error:
        written, own = directory.read_json(ENVIRONMENT).get("subsetopt"), version("subsetopt")
        raise RunDirectoryError(
            f"run = {str(directory.path)!r}: its checkpoint (subsetopt {written}) does not fit this version {own} "
            f"({type(error).__name__}: {error}); resume with the version that wrote it, or train anew"
        ) from error


def evaluate_run(
    path: str | Path,
    *,
    data_dir: Path | None = None,
    device: str | None = None,
    splits: Sequence[str] = ("train", "validation", "test"),
    model: nn.Module | None = None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Return {split: {loss, accuracy | mse}} of a finished run's model, computed afresh."""
    directory = RunDirectory.open(Path(path))
    overrides = {"data_dir": data_dir, "device": device}
    config = load_config(directory, model, dataset, {k: v for k, v in overrides.items() if v is not None})
    # The run's own model says all; where it once started may be gone.
    workspace = prepare(config.model_copy(update={"init_from": None}), model, dataset)
    w = workspace.flat.load_state_dict(directory.load_tensors(MODEL))
    return {name: metrics for name in splits if (metrics := workspace.evaluate(w, name)) is not None}


def _finish(
    loop: Loop,
    position: Position,
    workspace: Workspace,
    phases: Sequence[Phase],
    directory: RunDirectory | None,
    progress: Progress,
    splits: Sequence[str],
    figure: bool,
    may_idle: bool,
) -> RunResult:
    for text in workspace.warnings:
        progress.warn(text)
    if not loop.run(position):
        raise Interrupted(directory.path if directory else None)
    records = [snapshot.record for snapshot in position.snapshots]
    if not may_idle:
        check_trained(workspace, records)
    for text in stepless(records):
        progress.warn(text)
    result = assemble_result(workspace, position, splits)
    final = position.snapshots[-1]
    workspace.flat.load_buffers(final.buffers)
    if directory is not None:
        directory.save_tensors(MODEL, workspace.flat.state_dict(final.w))
        if figure:
            from subsetopt.report.figure import loss_figure  # here, to keep matplotlib out of the library's import

            loss_figure(directory.path, result)
        directory.write_json(RESULT, result)
    return RunResult(finite(result), directory.path if directory else None, workspace.flat.module(final.w))


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
