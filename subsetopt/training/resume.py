"""Resume: from a run directory back to where the run was, and on to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from subsetopt.ambient import ordinary_torch
from subsetopt.distributed import Ranks, join
from subsetopt.errors import RunDirectoryError, SettingError, UserError
from subsetopt.files import MALFORMED, reason
from subsetopt.training.checks.identity import fits
from subsetopt.training.finishing import SPLITS, RunResult, finish
from subsetopt.training.loop import Loop
from subsetopt.training.observers import Callbacks, Observed
from subsetopt.training.position import Position
from subsetopt.training.progress import Progress, Silent
from subsetopt.training.reopening import reopen
from subsetopt.training.result import version_of, warn_of_other_environment
from subsetopt.training.run_directory import (
    CHECKPOINT,
    CONFIG,
    RunDirectory,
)
from subsetopt.training.settings.run import RunConfig
from subsetopt.training.starting import alone_in, prepare_all, set_resume_hint
from subsetopt.training.stored_settings import load_config, stored_settings
from subsetopt.training.trackers import check_tracker, tracking
from subsetopt.version import own_version


@ordinary_torch()
def resume_run(
    path: str | Path,
    *,
    progress: Progress | None = None,
    model: nn.Module | None = None,
    dataset: object = None,
    splits: Sequence[str] = SPLITS,
    figure: bool = True,
    may_idle: bool = False,
    limits: Mapping[str, Any] | None = None,
    loss: Any = None,
    callbacks: Callbacks | None = None,
) -> RunResult:
    """Go on with an interrupted or killed run; a finished one returns its result at once.

    With `limits` (of `LIMITS`, e.g. {"max_iterations": 1000}) a run goes on whose last solver was stopped by a limit,
    where it was; raises `UserError` where there is none, or the new limits admit no step.

    A run that was given a model, data set or loss as objects needs equal ones again. Any number of ranks may go on
    with it; all of them read the directory.
    """
    directory = RunDirectory.open(Path(path))
    limits = {name: value for name, value in (limits or {}).items() if value is not None}
    config = _within(load_config(directory, model, dataset, limits), limits)
    ranks = join(config.rank_timeout, config.device)
    shown = (progress if ranks.main else None) or Silent()
    check_tracker(config, True)
    prepared, phases = prepare_all(config, model, dataset, ranks, may_idle, loss)
    written = directory if ranks.main else None
    with alone_in(written, ranks), tracking(config, written, ranks.main) as tracker:
        observed = Observed(shown, callbacks or Callbacks(), tracker)
        loop = Loop(prepared, phases, written, observed)
        ranks.together(lambda: None if written is None else written.prepare_to_go_on())
        checkpoint = ranks.together(directory.load_checkpoint)
        set_resume_hint(ranks, directory)
        if ranks.main:
            warn_of_other_environment(directory, prepared.data.device, ranks, observed)
        position = _position(loop, checkpoint, directory, ranks, tuple(limits))
        begun = checkpoint is not None
        del checkpoint  # the position has taken it over: whatever else it holds would stay until the end
        if limits:
            ranks.together(lambda: reopen(position, prepared, phases) if begun else None)
            ranks.together(lambda: None if written is None else written.write_toml(CONFIG, stored_settings(config)))
            loop.save(position)
        outcome = finish(loop, position, prepared, phases, written, observed, splits, figure, may_idle)
        if tracker is not None:
            tracker.result(outcome.result)
        return outcome


def _within(config: RunConfig, limits: Mapping[str, Any]) -> RunConfig:
    """Return `config`; raises `SettingError` for limits that its explicit phases do not use."""
    unused = [name for name in limits if name not in ("max_epochs", "max_seconds")] if config.phase else []
    if unused:
        raise SettingError(unused[0], limits[unused[0]], "the run has explicit phases", "give max_epochs")
    return config


def _position(
    loop: Loop,
    checkpoint: tuple[dict[str, Tensor], dict[str, Any]] | None,
    directory: RunDirectory,
    ranks: Ranks,
    changed: tuple[str, ...],
) -> Position:
    """Return where the run was."""
    if checkpoint is None:
        return loop.begin_again()
    tensors, state = checkpoint
    ranks.together(lambda: fits(directory, CHECKPOINT, loop.check, state, changed))
    return _restored(loop, tensors, state, directory)


def _restored(loop: Loop, tensors: Mapping[str, Tensor], state: Mapping[str, Any], directory: RunDirectory) -> Position:
    try:
        return fits(directory, CHECKPOINT, loop.restore, tensors, state)
    except UserError:
        raise
    except MALFORMED as error:
        written, own = version_of(directory), own_version()
        raise RunDirectoryError(
            f"run = {str(directory.path)!r}: its checkpoint (subsetopt {written}) does not fit this version {own} "
            f"({type(error).__name__}: {reason(error)}); resume with the version that wrote it, or train anew"
        ) from error
