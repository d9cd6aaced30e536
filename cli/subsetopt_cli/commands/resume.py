"""`subsetopt resume`: continue an interrupted run from its last checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from subsetopt_cli.output import debug_option, json_option
from subsetopt_cli.running import progress_shown, quiet_option, show_outcome


@click.command("resume", short_help="Continue an interrupted run.")
@click.argument("run", type=click.Path(path_type=Path))
@json_option
@quiet_option
@debug_option
def command(run: Path, as_json: bool, quiet: bool) -> None:
    """Continue an interrupted run.

    RUN is the directory that `subsetopt train` wrote. The final parameters are those of a run that was never stopped.
    """
    from subsetopt.training.run import resume_run

    with progress_shown(quiet) as progress:
        outcome = resume_run(run, progress=progress)
    show_outcome(outcome, as_json=as_json, quiet=quiet)
