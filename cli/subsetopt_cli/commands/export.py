"""`subsetopt export`: the trained model of a run as one file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved


@click.command("export", short_help="Write the trained model of a run for other programs.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    type=click.Choice(["torch", "onnx", "torchscript"]),
    required=True,
    help="torch: a program of torch.export (.pt2); onnx needs the extra [onnx].",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The new file.  [default: model.pt2, model.onnx or model.pt in RUN]",
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
def command(
    run: Path,
    format: Literal["torch", "onnx", "torchscript"],
    output: Path | None,
    which: Literal["last", "best"],
    as_json: bool,
) -> None:
    """Write the trained model of a run for other programs.

    The model in the file takes raw inputs, standardises them as the run did, and returns class probabilities, or
    regression targets in the units of the training data. It is checked against `subsetopt predict` first.
    """
    from subsetopt.training.prediction.export import export_run

    with standard_output_reserved():
        done = export_run(run, format, output, which=which)
    if as_json:
        facts = {"directory": str(run), "file": str(done.path), "format": done.format, "difference": done.difference}
        print_json({**facts, **done.facts})
        return
    shape = ", ".join(str(size) for size in done.facts["in_shape"])
    click.echo(
        f"{done.path}: {done.facts['in_dtype']} inputs (n, {shape}) to {done.facts['output']}; "
        f"differs from predict by {done.difference:.1g}"
    )
