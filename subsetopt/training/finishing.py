"""Run the phases to their end, and write what they found: result.json, the models and the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from subsetopt.documents.run import RunDocument
from subsetopt.files import MALFORMED, reason, sealed
<<<<<<< HEAD
from subsetopt.training.checks.affordable import check_trained, no_better, stepless
=======
from subsetopt.imports import uncollected
from subsetopt.training.checks.affordable import check_trained, stepless
>>>>>>> cli17
from subsetopt.training.checks.identity import identity
from subsetopt.training.context import PreparedRun
from subsetopt.training.loop import Loop
from subsetopt.training.phases.protocol import Phase
from subsetopt.training.position import Position, Snapshot
from subsetopt.training.prediction.predictor import Predictor
from subsetopt.training.progress import Progress
from subsetopt.training.result import assemble_result
from subsetopt.training.run_directory import (
    BEST,
    MODEL,
    RESULT,
    RunDirectory,
    finite,
)
from subsetopt.training.splits import SplitName

SPLITS = tuple(str(split) for split in SplitName)


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


def finish(
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
    for text in [*stepless(records), *no_better(records)]:
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
    with uncollected():
        from subsetopt.report.figure import loss_figure  # here, to keep matplotlib out of the library's import
        from subsetopt.report.l2_path import path_files

    try:
        loss_figure(directory.path, result)
        path_files(directory.path, RunDocument.of(result))
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
