"""`subsetopt learn-curve`: how much data are needed, and what more would bring."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from subsetopt.documents.learning_curve import LearningCurveDocument
from subsetopt.report.table import text_table
from subsetopt.training.settings.run import RunConfig, make_config
from subsetopt_cli.commands.study import SETTINGS, numbers
from subsetopt_cli.failures import INTERRUPTED
from subsetopt_cli.options import HeadedCommand, given_settings, setting_options
from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved
from subsetopt_cli.running import quiet_option


@click.command(
    "learn-curve",
    cls=HeadedCommand,
    params=setting_options(RunConfig, SETTINGS),
    short_help="Find how much data are needed, and what more would bring.",
    epilog="Example: subsetopt learn-curve --dataset digits --fractions 0.1,0.2,0.5 --repeats 3",
)
@click.option(
    "--fractions",
    default="0.05,0.1,0.2,0.5",
    show_default=True,
    metavar="X,X,...",
    help="Shares of the training data, two or more.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1, 10_000),
    default=3,
    show_default=True,
    metavar="N",
    help="Subsets per fraction and seed.",
)
@click.option(
    "--seeds",
    default="1",
    show_default=True,
    metavar="N|LIST",
    help="Data splits and initial weights: how many, or which seeds, e.g. 11-13 or 1,2,5-7.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="DIR", help="Directory  [default: runs/learn-curve-DATASET]"
)
@click.option("--jobs", type=int, default=1, show_default=True, metavar="N", help="Minima to find at a time.")
@json_option
@quiet_option
@debug_option
def command(
    fractions: str,
    repeats: int,
    seeds: str,
    output: Path | None,
    jobs: int,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Find how much data are needed, and what more would bring.

    Subsets are solved to their minimum and measured on test data; a power law with an offset is fitted to the errors.
    The same command continues an interrupted study.
    """
    config = make_config(given_settings(RunConfig, flags))
    directory = output or Path("runs") / f"learn-curve-{config.dataset}"
    shares = numbers(fractions)

    from subsetopt.report.learning_curve import learning_curve_figure
    from subsetopt.representativeness.learning_curve import run_learning_curve
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
            curve = run_learning_curve(plan, directory, workers=Workers(jobs), tell=tell, command=arguments)
            learning_curve_figure(directory)
    except StudyInterrupted:
        click.echo(f"Interrupted; continue with the same command: {shlex.join(arguments)}", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    if as_json:
        print_json({**curve.content(), "directory": str(directory)})
    else:
        click.echo(directory if quiet else _text(curve, directory))


def _text(curve: LearningCurveDocument, directory: Path) -> str:
    percent = curve.metric == "accuracy"
    factor = 100.0 if percent else 1.0
    rows = [["rows", "K", "Q", "test error, %" if percent else "test mse", "lost to all rows", "minima"]]
    for point in curve.points:
        lost = "-" if point.lost is None else f"{factor * point.lost:.3g}"
        rows.append(
            [
                f"{100 * point.fraction:g} %",
                str(point.samples),
                f"{point.ratio:.3g}",
                f"{factor * point.error:.4g}",
                lost,
                str(point.n),
            ]
        )
    lines = [*curve.answer, "", *text_table(rows, indent="", left=1), ""]
    return "\n".join([*lines, f"Files in {directory}: learning_curve.png, learning_curve.json, results.csv"])
