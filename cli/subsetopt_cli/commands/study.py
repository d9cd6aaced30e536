"""`subsetopt study`: how far the minimum on a subset stands for the full set."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from subsetopt.compare.config import SHARED
from subsetopt.documents.representativeness import RepresentativenessDocument
from subsetopt.errors import SettingError
from subsetopt.report.table import text_table
from subsetopt.training.settings.run import RunConfig, make_config
from subsetopt_cli.failures import INTERRUPTED
from subsetopt_cli.options import HeadedCommand, given_settings, setting_options
from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved
from subsetopt_cli.running import quiet_option

_RUN = (*SHARED, "solver", "solver_args", "max_iterations")
SETTINGS = tuple(name for name in _RUN if not name.startswith("handoff"))


@click.command(
    "study",
    cls=HeadedCommand,
    params=setting_options(RunConfig, SETTINGS),
    short_help="Study how far subset minima stand for the full set.",
    epilog="Example: subsetopt study representativeness --dataset digits --fractions 0.05,0.1,0.2,0.5 --repeats 3",
)
@click.argument("kind", type=click.Choice(["representativeness"]))
@click.option(
    "--fractions",
    default="0.02,0.05,0.1,0.2,0.5",
    show_default=True,
    metavar="X,X,...",
    help="Shares of the training data in the subsets.",
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
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Study directory  [default: runs/representativeness-DATASET]",
)
@click.option("--jobs", type=int, default=1, show_default=True, metavar="N", help="Minima to find at a time.")
@json_option
@quiet_option
@debug_option
def command(
    kind: str,
    fractions: str,
    repeats: int,
    seeds: str,
    output: Path | None,
    jobs: int,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Study how far subset minima stand for the full set.

    `representativeness` solves several subsets per fraction to their minimum and measures its loss on the subset, the
    full training set and test data, against the overdetermination ratio Q. The same command continues an interrupted
    study.
    """
    config = make_config(given_settings(RunConfig, flags))
    directory = output or Path("runs") / f"{kind}-{config.dataset}"
    shares = numbers(fractions)

    from subsetopt.report.representativeness import representativeness_figure
    from subsetopt.representativeness.run import Plan, run_representativeness
    from subsetopt.study.seeds import as_seeds
    from subsetopt.study.workers import StudyInterrupted, Workers

    def tell(done: int, total: int, what: str) -> None:
        if not quiet:
            click.echo(f"minimum {done}/{total}, {what}", err=True)

    arguments = ["subsetopt", *sys.argv[1:]]
    try:
        with standard_output_reserved():
            plan = Plan(config, shares, repeats, as_seeds(seeds))
            summary = run_representativeness(plan, directory, workers=Workers(jobs), tell=tell, command=arguments)
            representativeness_figure(directory)
    except StudyInterrupted:
        click.echo(f"Interrupted; continue with the same command: {shlex.join(arguments)}", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    if as_json:
        print_json({**summary.content(), "directory": str(directory)})
    else:
        click.echo(directory if quiet else _text(summary, directory))


def numbers(text: str) -> tuple[float, ...]:
    """Return the shares in a list such as 0.1,0.2; raises `SettingError`."""
    try:
        return tuple(sorted({float(part) for part in text.split(",") if part.strip()}))
    except ValueError:
        raise SettingError("fractions", text, "is no list of numbers", "for example 0.05,0.1,0.2") from None


def _text(summary: RepresentativenessDocument, directory: Path) -> str:
    heads = ["subset", "K", "Q", "loss on subset", "on full set", "F/F*", "test loss", f"test {summary.metric}"]
    rows = [[*heads, "converged", "cost"]]
    for row in summary.results:
        measures = [
            None if measure is None else measure.mean
            for measure in (row.subset_objective, row.full_objective, row.excess, row.test_loss, row.test_metric)
        ]
        rows.append(
            [
                f"{100 * row.fraction:g} %",
                str(row.samples),
                f"{row.ratio:.3g}",
                *["-" if value is None else f"{value:.4g}" for value in measures],
                f"{row.converged}/{row.n}",
                f"{row.epoch_equivalents:.3g}",
            ]
        )
    lines = [summary.title, "", *text_table(rows, indent="", left=1), ""]
    return "\n".join([*lines, f"Files in {directory}: representativeness.png, results.csv, summary.json"])
