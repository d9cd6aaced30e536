"""`subsetopt study`: how far the minimum on a subset stands for the full set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from subsetopt.documents.representativeness import RepresentativenessDocument
from subsetopt.report.table import text_table
from subsetopt.training.settings.run import RunConfig
from subsetopt_cli.minima import SETTINGS, found, minima_options, run_config
from subsetopt_cli.options import HeadedCommand, setting_options
from subsetopt_cli.output import debug_option, json_option, print_json
from subsetopt_cli.running import quiet_option


@click.command(
    "study",
    cls=HeadedCommand,
    params=setting_options(RunConfig, SETTINGS),
    short_help="Study how far subset minima stand for the full set.",
    epilog="Example: subsetopt study representativeness --dataset digits --fractions 0.05,0.1,0.2,0.5 --repeats 3",
)
@click.argument("kind", type=click.Choice(["representativeness"]))
@minima_options("0.02,0.05,0.1,0.2,0.5", "runs/representativeness-DATASET")
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
    config = run_config(flags)
    directory = output or Path("runs") / f"{kind}-{config.dataset}"

    from subsetopt.report.representativeness import representativeness_figure
    from subsetopt.representativeness.run import run_representativeness

    summary = found(
        run_representativeness,
        config,
        directory,
        representativeness_figure,
        fractions=fractions,
        repeats=repeats,
        seeds=seeds,
        jobs=jobs,
        quiet=quiet,
    )
    if as_json:
        print_json({**summary.content(), "directory": str(directory)})
    else:
        click.echo(directory if quiet else _text(summary, directory))


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
