"""`subsetopt learn-curve`: how much data are needed, and what more would bring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from subsetopt.documents.learning_curve import LearningCurveDocument
from subsetopt.report.table import text_table
from subsetopt.training.settings.run import RunConfig
from subsetopt_cli.minima import SETTINGS, found, minima_options, run_config
from subsetopt_cli.options import HeadedCommand, setting_options
from subsetopt_cli.output import debug_option, json_option, print_json
from subsetopt_cli.running import quiet_option

_ERRORS = {"accuracy": "error, %", "r2": "1 - R²", "mse": "mse"}


@click.command(
    "learn-curve",
    cls=HeadedCommand,
    params=setting_options(RunConfig, SETTINGS),
    short_help="Find how much data are needed, and what more would bring.",
    epilog="Example: subsetopt learn-curve --dataset digits --fractions 0.1,0.2,0.5 --repeats 3",
)
@minima_options("0.05,0.1,0.2,0.5", "runs/learn-curve-DATASET")
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
    config = run_config(flags)
    directory = output or Path("runs") / f"learn-curve-{config.dataset}"

    from subsetopt.report.learning_curve import learning_curve_figure
    from subsetopt.representativeness.learning_curve import run_learning_curve

    curve = found(
        run_learning_curve,
        config,
        directory,
        learning_curve_figure,
        fractions=fractions,
        repeats=repeats,
        seeds=seeds,
        jobs=jobs,
        quiet=quiet,
    )
    if as_json:
        print_json({**curve.content(), "directory": str(directory)})
    else:
        click.echo(directory if quiet else _text(curve, directory))


def _text(curve: LearningCurveDocument, directory: Path) -> str:
    percent = curve.metric == "accuracy"
    factor = 100.0 if percent else 1.0
    effective = curve.effective_parameters is not None
    error = f"{curve.measured_on} {_ERRORS[curve.metric]}"
    rows = [["rows", "K", "Q", *["effective Q"] * effective, error, "lost to all rows", "minima"]]
    for point in curve.points:
        lost = "-" if point.lost is None else f"{factor * point.lost:.3g}"
        rows.append(
            [
                f"{100 * point.fraction:g} %",
                str(point.samples),
                f"{point.ratio:.3g}",
                *([f"{point.effective_ratio:.3g}"] if point.effective_ratio is not None else []),
                f"{factor * point.error:.4g}",
                lost,
                str(point.n),
            ]
        )
    lines = [*curve.answer, "", *text_table(rows, indent="", left=1), ""]
    return "\n".join([*lines, f"Files in {directory}: learning_curve.png, learning_curve.json, results.csv"])
