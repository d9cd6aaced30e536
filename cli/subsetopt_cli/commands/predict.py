"""`subsetopt predict`: what the trained model of a run says of new data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved
from subsetopt_cli.running import importing

_SHOWN = 10


@click.command("predict", short_help="Predict new data with the trained model of a run.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data-file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="A .npy array, or a .npz file with the inputs as x (or x_test), in the units of the training data; "
    "for a run on a table, a table with the same columns.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write predictions, and class probabilities, to this new .csv or .npz file.",
)
@click.option(
    "--which",
    type=click.Choice(["last", "best"]),
    default="last",
    show_default=True,
    help="The last parameters, or those better on held-out data where the hand-off did harm.",
)
@json_option
@debug_option
def command(run: Path, data_file: Path, output: Path | None, which: Literal["last", "best"], as_json: bool) -> None:
    """Predict new data with the trained model of a run.

    RUN is the directory that `subsetopt train` wrote. Inputs are standardised as in the run; predictions are class
    names, or regression targets in the units of the training data. The run's data set is not read.
    """
    with importing():
        from subsetopt.training.prediction.predictions import check_output, predict_file, write_predictions

    with standard_output_reserved():
        check_output(output)
        found = predict_file(run, data_file, which=which)
        if output is not None:
            write_predictions(output, found)
    for note in found.notes:
        click.echo(f"Warning: {note}", err=True)
    if as_json:
        print_json({"directory": str(run), "data_file": str(data_file), **found.document()})
        return
    values = found.document()["predictions"]
    if output is not None:
        click.echo(f"{len(values)} predictions in {output}")
        return
    for value in values[:_SHOWN]:
        click.echo(value if not isinstance(value, list) else " ".join(f"{part:.6g}" for part in value))
    if len(values) > _SHOWN:
        click.echo(f"... {len(values)} in all; --output FILE.csv writes them, --json prints them")
