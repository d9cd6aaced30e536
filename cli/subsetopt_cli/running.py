"""What `train`, `resume` and others share: the library's import, progress, Ctrl-C, and how the outcome is shown."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from subsetopt.distributed import is_main
from subsetopt.errors import typed
from subsetopt.imports import uncollected
from subsetopt_cli.failures import INTERRUPTED
from subsetopt_cli.output import print_json, standard_output_reserved

if TYPE_CHECKING:
    from subsetopt.training.finishing import RunResult
    from subsetopt.training.progress import Progress

quiet_option = click.option(
    "--quiet", is_flag=True, help="Show no progress and no summary; print only the run directory."
)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import torch and the library within; what was made then lives as long as the process and is not walked again."""
    with uncollected():
        yield
        gc.freeze()


@contextlib.contextmanager
def progress_shown(quiet: bool) -> Iterator[Progress]:
    """Yield the progress display of a run; an interrupted run ends here with how to resume it."""
    from subsetopt.training.finishing import Interrupted
    from subsetopt.training.progress import Silent
    from subsetopt_cli.bars import Bars

    bars = Bars()
    try:
        with standard_output_reserved():
            yield Silent() if quiet else bars
    except Interrupted as stop:
        bars.close()
        if is_main():
            click.echo(f"Interrupted; resume with: subsetopt resume {typed(stop.directory)}", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    finally:
        bars.close()


def show_outcome(outcome: RunResult, *, as_json: bool, quiet: bool) -> None:
    """Print the result of a run as JSON, as the path of its files, or as a summary."""
    if not is_main():
        return
    directory = outcome.directory
    if as_json:
        print_json({**outcome.result, "directory": None if directory is None else str(directory)})
    elif quiet:
        click.echo(directory)
    else:
        from subsetopt.report import summary

        click.echo(summary(outcome.result, directory))
