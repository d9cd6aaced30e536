"""`subsetopt resume`: continue an interrupted run from its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from subsetopt.training.settings.run import LIMITS, RunConfig
from subsetopt_cli.options import given_settings, setting_options
from subsetopt_cli.output import debug_option, json_option
from subsetopt_cli.running import importing, progress_shown, quiet_option, show_outcome


@click.command("resume", short_help="Continue an interrupted run.", params=setting_options(RunConfig, LIMITS))
@click.argument("run", type=click.Path(path_type=Path))
@json_option
@quiet_option
@debug_option
def command(run: Path, as_json: bool, quiet: bool, **flags: Any) -> None:
    """Continue an interrupted run.

    RUN is the directory that `subsetopt train` wrote. The final parameters are those of a run that was never stopped.
    With a larger limit, such as --max-iterations, a solver that stopped at its limit continues from there.
    """
    with importing():
        from subsetopt.training.resume import resume_run

    with progress_shown(quiet) as progress:
        outcome = resume_run(run, progress=progress, limits=given_settings(RunConfig, flags))
    show_outcome(outcome, as_json=as_json, quiet=quiet)
