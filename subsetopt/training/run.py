"""Train: from a configuration to a finished run directory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from subsetopt.ambient import ordinary_torch
from subsetopt.distributed import join
from subsetopt.training.context import PreparedRun
from subsetopt.training.finishing import SPLITS, RunResult, finish
from subsetopt.training.loop import Loop
from subsetopt.training.observers import Callbacks, Observed
from subsetopt.training.phases.factory import build_phases
from subsetopt.training.preparation import prepare
from subsetopt.training.progress import Progress, Silent
from subsetopt.training.result import environment
from subsetopt.training.run_directory import (
    ENVIRONMENT,
    METRICS,
    RunDirectory,
)
from subsetopt.training.settings.run import RunConfig
from subsetopt.training.starting import alone_in, prepare_all, set_resume_hint, show_encoding
from subsetopt.training.stored_settings import as_given, stored_settings
from subsetopt.training.trackers import check_tracker, tracking


@ordinary_torch()
def train(
    config: RunConfig,
    *,
    progress: Progress | None = None,
    model: nn.Module | None = None,
    dataset: object = None,
    loss: Any = None,
    keep: bool = True,
    splits: Sequence[str] = SPLITS,
    figure: bool = True,
    may_idle: bool = False,
    save_at_once: bool = True,
    callbacks: Callbacks | None = None,
) -> RunResult:
    """Run all phases of `config` and return the result; `keep=False` writes nothing to disk.

    `splits` are those measured at the end: a run that serves to choose settings leaves "test" out. `figure=False` saves
    the time of drawing. Every check is made before the run directory is created. Raises `UserError` for the user's
    mistakes and `Interrupted` after Ctrl-C, with everything saved.

    `loss` replaces the named one: a module of torch.nn, or a function (outputs, targets) -> one loss per sample.

    With `may_idle` a run whose budget admits no step is a finding, not a mistake. `save_at_once=False` writes the first
    checkpoint when `checkpoint_seconds` have passed, and none at the end of a phase before: for short runs of a study.

    `callbacks` are called on rank 0 after every iteration and phase, and may stop the run.

    Started by torchrun, the processes share the work; rank 0 alone writes and shows progress, and every rank returns
    the result.
    """
    ranks = join(config.rank_timeout, config.device)
    progress = (progress if ranks.main else None) or Silent()
    check_tracker(config, keep)
    prepared, phases = prepare_all(as_given(config, model, dataset), model, dataset, ranks, may_idle, loss)
    show_encoding(prepared, progress)
    directory = ranks.together(lambda: _new_directory(prepared) if keep and ranks.main else None)
    set_resume_hint(ranks, directory)
    with alone_in(directory, ranks), tracking(config, directory, ranks.main) as tracker:
        observed = Observed(progress, callbacks or Callbacks(), tracker)
        loop = Loop(prepared, phases, directory, observed, save_at_once)
        outcome = finish(loop, loop.start(), prepared, phases, directory, observed, splits, figure, may_idle)
        if tracker is not None:
            tracker.result(outcome.result)
        return outcome


def _new_directory(prepared: PreparedRun) -> RunDirectory:
    data, _, run = prepared
    config = run.config
    stem = "-".join([data.dataset.name, config.model.split(":")[-1], config.solver.replace(":", "-")])
    directory = RunDirectory.create(config.output, stem.replace("/", "-"), stored_settings(config))
    directory.write_json(ENVIRONMENT, environment(data.device, run.ranks))
    directory.write_bytes(METRICS, b"")  # there even when the budget admits not one evaluation
    return directory


@ordinary_torch()
def check_run(config: RunConfig, *, may_idle: bool = False) -> PreparedRun:
    """Raise what `train` would raise before its first step and return what it would work on; nothing is written."""
    prepared = prepare(config)
    build_phases(*prepared, may_idle=may_idle)
    return prepared
