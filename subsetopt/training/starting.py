"""Before the first step: everything is built and checked on every rank, and the directory belongs to one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from subsetopt.distributed import Ranks
from subsetopt.training.context import PreparedRun
from subsetopt.training.going_on import resuming
from subsetopt.training.phases.factory import build_phases
from subsetopt.training.phases.protocol import Phase
from subsetopt.training.preparation import prepare
from subsetopt.training.progress import Progress
from subsetopt.training.run_directory import (
    RunDirectory,
)
from subsetopt.training.settings.run import RunConfig


def prepare_all(
    config: RunConfig,
    model: nn.Module | None,
    dataset: object,
    ranks: Ranks,
    may_idle: bool,
    loss: Any = None,
) -> tuple[PreparedRun, list[Phase]]:
    """Build and check everything on every rank; a mistake that one of them finds ends all."""

    def work() -> tuple[PreparedRun, list[Phase]]:
        prepared = prepare(config, model, dataset, ranks, loss=loss)
        return prepared, build_phases(*prepared, may_idle=may_idle)

    prepared, phases = ranks.together(work)
    if ranks.size > 1 and (config.max_seconds or any(phase.config.seconds for phase in phases)):
        prepared.budget.clock.follow(ranks.now)
    return prepared, phases


def show_encoding(prepared: PreparedRun, progress: Progress) -> None:
    """Show how the columns of a table became inputs, before anything is trained on them."""
    encoding = prepared.data.dataset.encoding
    if encoding is not None:
        count = len(encoding.features)
        head = f"{len(encoding.columns)} columns make {count} inputs; {encoding.target!r} is predicted"
        progress.message("\n".join([head, *encoding.lines()]))


@contextmanager
def alone_in(directory: RunDirectory | None, ranks: Ranks, *, going_on: bool = False) -> Iterator[None]:
    """Keep other processes out of the directory that this one writes; where that fails, it fails on every rank."""
    with ExitStack() as stack:
        ranks.together(
            lambda: None if directory is None else stack.enter_context(directory.sole_user(going_on=going_on))
        )
        yield


def set_resume_hint(ranks: Ranks, directory: RunDirectory | None) -> None:
    """Set on every rank how the run is resumed if it loses another."""
    path = ranks.broadcast(None if directory is None else str(directory.path))
    if path is not None:
        ranks.resume_hint = f"{resuming(path)} goes on from the last checkpoint, with any number of ranks"
