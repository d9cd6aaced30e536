"""What the commands that find many subset minima share: their options, and a run that may be interrupted."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from subsetopt.compare.config import SHARED
from subsetopt.errors import SettingError
from subsetopt_cli.failures import INTERRUPTED
from subsetopt_cli.options import given_settings
from subsetopt_cli.output import standard_output_reserved
from subsetopt_cli.whole_number import WholeNumber

if TYPE_CHECKING:
    from subsetopt.training.settings.run import RunConfig

SETTINGS = tuple(
    name for name in (*SHARED, "solver", "solver_args", "max_iterations") if not name.startswith("handoff")
)
_T = TypeVar("_T")
_Command = Callable[..., Any]


def minima_options(fractions: str, output: str) -> Callable[[_Command], _Command]:
    """Return a decorator with the options of a plan of minima; `fractions` and `output` are the defaults shown."""
    options = [
        click.option(
            "--fractions",
            default=fractions,
            show_default=True,
            metavar="X,X,...",
            help="Shares of the training data in the subsets.",
        ),
        click.option(
            "--repeats",
            type=WholeNumber(1, 10_000),
            default=3,
            show_default=True,
            metavar="N",
            help="Subsets per fraction and seed.",
        ),
        click.option(
            "--seeds",
            default="1",
            show_default=True,
            metavar="N|LIST",
            help="Data splits and initial weights: how many, or which seeds, e.g. 11-13 or 1,2,5-7.",
        ),
        click.option(
            "--output",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help=f"Study directory  [default: {output}]",
        ),
        click.option("--jobs", type=int, default=1, show_default=True, metavar="N", help="Minima to find at a time."),
    ]

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def run_config(flags: Mapping[str, Any]) -> RunConfig:
    """Return the settings of the solves; raises `SettingError` in one line."""
    from subsetopt.representativeness.run import check_solver
    from subsetopt.training.settings.run import RunConfig, make_config

    settings = given_settings(RunConfig, flags)
    check_solver(settings.get("solver", "lbfgs"))
    return make_config(settings)


def found(
    run: Callable[..., _T],
    config: RunConfig,
    directory: Path,
    draw: Callable[[Path], object],
    *,
    fractions: str,
    repeats: int,
    seeds: str,
    jobs: int,
    quiet: bool,
) -> _T:
    """Return what `run(plan, directory, ...)` finds, with its figure drawn; exits as interrupted commands do."""
    shares = _numbers(fractions)

    from subsetopt.representativeness.run import Plan
    from subsetopt.study.seeds import as_seeds
    from subsetopt.study.workers import StudyInterrupted, Workers

    def tell(done: int, total: int, what: str) -> None:
        if not quiet:
            click.echo(f"minimum {done}/{total}, {what}", err=True)

    arguments = ["subsetopt", *sys.argv[1:]]
    try:
        with standard_output_reserved():
            plan = Plan(config, shares, repeats, as_seeds(seeds))
            result = run(plan, directory, workers=Workers(jobs), tell=tell, command=arguments)
            draw(directory)
    except StudyInterrupted:
        click.echo(f"Interrupted; continue with the same command: {shlex.join(arguments)}", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    return result


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted(float(part) for part in text.split(",") if part.strip()))
    except ValueError:
        raise SettingError("fractions", text, "is no list of numbers", "for example 0.05,0.1,0.2") from None
