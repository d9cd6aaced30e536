"""`subsetopt evaluate`: measure the saved model of a run afresh."""

from __future__ import annotations

from pathlib import Path

import click

from subsetopt.report.table import text_table
from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved
from subsetopt_cli.running import importing

_SPLITS = ("subset", "train", "validation", "test")


@click.command("evaluate", short_help="Evaluate the trained model of a run.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--split",
    "splits",
    type=click.Choice(_SPLITS),
    multiple=True,
    default=_SPLITS[1:],
    show_default=True,
    help="Data to evaluate on; may be given several times.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the data sets, if not that of the run.")
@click.option("--device", metavar="[auto|cpu|cuda|mps]", help="Device to compute on, if not the run's.")
@json_option
@debug_option
def command(run: Path, splits: tuple[str, ...], data_dir: Path | None, device: str | None, as_json: bool) -> None:
    """Evaluate the trained model of a run.

    RUN is the directory that `subsetopt train` wrote. Figures are in the units of the data. Where the data are not
    those of the run any more, a warning says so.
    """
    with importing():
        from subsetopt.training.evaluation import evaluate_run

    notes: list[str] = []
    with standard_output_reserved():
        metrics = evaluate_run(run, data_dir=data_dir, device=device, splits=splits, notes=notes)
    for note in notes:
        click.echo(f"warning: {note}", err=True)
    if as_json:
        print_json({"directory": str(run), "metrics": metrics, "notes": notes})
        return
    measures = list(dict.fromkeys(name for values in metrics.values() for name in values))
    rows = [[split, *[_shown(name, values.get(name)) for name in measures]] for split, values in metrics.items()]
    click.echo("\n".join(text_table([["data", *measures], *rows], indent="")))


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if name == "accuracy" else f"{value:.4g}"
