"""`subsetopt coverage`: how much of the data redrawn samplers see over epochs, and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved
from subsetopt_cli.whole_number import WholeNumber

_SHOWN_EPOCHS = 8
_SHOWN_VISITS = 12
_COUNT = WholeNumber(min=1)


@click.command(
    "coverage",
    short_help="Compute how much of the data redrawn samplers see, and how often.",
    epilog="Example: subsetopt coverage --samples 50000 --fraction 0.2 --epochs 20 --output coverage.png",
)
@click.option("--samples", type=_COUNT, default=10_000, show_default=True, metavar="N", help="N, training samples.")
@click.option("--fraction", type=float, default=0.3, show_default=True, metavar="X", help="Share drawn per epoch.")
@click.option("--epochs", type=_COUNT, default=10, show_default=True, metavar="N", help="T, epochs of the sampler.")
@click.option(
    "--sampler",
    "names",
    default="srs,rs2",
    show_default=True,
    metavar="NAMES",
    help="Any of srs, rs2, fixed-subset and full, with commas between them.",
)
@click.option("--repeats", type=_COUNT, default=10, show_default=True, metavar="N", help="Number of simulations.")
@click.option(
    "--seed",
    type=WholeNumber(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of the first simulation.",
)
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw a figure to this file.")
@json_option
@debug_option
def command(
    samples: int,
    fraction: float,
    epochs: int,
    names: str,
    repeats: int,
    seed: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Compute how much of the data redrawn samplers see, and how often.

    Print the closed forms of coverage (the share of samples seen at least once) and of occupancy (the visits of one
    sample) beside simulated counts of what the samplers themselves propose.
    """
    from subsetopt.samplers.coverage import compare_coverage

    chosen = list(dict.fromkeys(name.strip() for name in names.split(",")))
    with standard_output_reserved():
        document = compare_coverage(chosen, samples, fraction, epochs, seed, repeats)
        if output is not None:
            from subsetopt.report.coverage_figure import coverage_figure

            coverage_figure(document, output)
    if as_json:
        print_json({**document, "figure": None if output is None else str(output)})
    else:
        click.echo("\n".join([*_text(document), *([] if output is None else ["", f"Figure: {output}"])]))


def _text(document: Mapping[str, Any]) -> list[str]:
    """Return two tables for people: coverage after some of the epochs, and the distribution of visits."""
    from subsetopt.report.table import text_table

    samplers = document["samplers"]
    heads = [head for name in samplers for head in (name, "simulated")]
    epochs = _spread(document["epochs"], _SHOWN_EPOCHS)
    coverage = [["after epoch", *heads]]
    coverage += [[str(epoch), *_cells(samplers, "coverage", epoch - 1)] for epoch in epochs]
    most = max(len(entry["occupancy"]["closed_form"]) for entry in samplers.values())
    occupancy = [["visits", *heads]]
    occupancy += [[str(visits), *_cells(samplers, "occupancy", visits)] for visits in range(min(most, _SHOWN_VISITS))]
    rows = ", ".join(f"{name} {entry['rows_per_epoch']}" for name, entry in samplers.items())
    until = ", ".join(f"{name} {_epochs(entry['epochs_to_cover'])}" for name, entry in samplers.items())
    return [
        f"{document['samples']} samples, rows drawn per epoch: {rows}; mean of {document['repeats']} simulations",
        f"Expected epochs until every sample has been seen: {until}",
        "",
        "Coverage: share of the samples seen at least once",
        *text_table(coverage),
        "",
        f"Occupancy: share of the samples by visits after epoch {document['epochs']}",
        *text_table(occupancy),
    ]


def _cells(samplers: Mapping[str, Any], quantity: str, position: int) -> list[str]:
    columns = [entry[quantity][kind] for entry in samplers.values() for kind in ("closed_form", "simulated")]
    return [f"{100 * column[position]:.2f} %" if position < len(column) else "-" for column in columns]


def _epochs(expected: float) -> str:
    return "never" if expected == float("inf") else f"{expected:.1f}"


def _spread(last: int, most: int) -> Sequence[int]:
    """Return at most `most` epochs from 1 to `last`, both included, evenly spread."""
    if last <= most:
        return range(1, last + 1)
    return sorted({1 + round(step * (last - 1) / (most - 1)) for step in range(most)})
