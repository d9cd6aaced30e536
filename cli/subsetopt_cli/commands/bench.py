"""`subsetopt bench`: our solvers against torch, scipy and pytorch-minimize, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from subsetopt.errors import SettingError
from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved
from subsetopt_cli.whole_number import WholeNumber

_PARTS = ("solvers", "products", "overhead", "time")


@click.command(
    "bench",
    short_help="Measure our solvers against torch and scipy on this machine.",
    epilog="Examples: subsetopt bench --quick; subsetopt bench --only products --device cuda; "
    "subsetopt bench --output reports/solvers; subsetopt bench --scaling",
)
@click.option(
    "--only",
    "parts",
    type=click.Choice((*_PARTS, "algebra")),
    multiple=True,
    help="Measure only this part; may be given several times.  [default: all but algebra]",
)
@click.option("--scaling", is_flag=True, help="Start several processes and measure evaluations shared by them.")
@click.option("--processes", type=WholeNumber(min=2), metavar="N", help="Processes of --scaling.  [default: 2]")
@click.option(
    "--problem", "problems", multiple=True, metavar="NAME", help="Problem of solvers or algebra (default: all)."
)
@click.option(
    "--parameters",
    type=WholeNumber(min=2),
    multiple=True,
    metavar="N",
    help="Measure algebra with so many parameters; may be given several times.  [default: 1000 to 10000000]",
)
@click.option(
    "--pairs",
    type=WholeNumber(min=1),
    multiple=True,
    metavar="N",
    help="Measure algebra with so many pairs; may be given several times.  [default: 10, 20, 100]",
)
@click.option("--quick", is_flag=True, help="Measure few and small problems only, for a first check.")
@click.option(
    "--repeats",
    type=WholeNumber(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Repetitions; times are their medians.",
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of MNIST; without it, synthetic images are used."
)
@click.option(
    "--device", metavar="[auto|cpu|cuda|mps]", default="auto", show_default=True, help="Device to compute on."
)
@click.option(
    "--clock",
    type=click.Choice(("wall", "cpu")),
    default="wall",
    show_default=True,
    help="Measure elapsed time, or processor time (for a machine with other load).",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write bench.json, table.md and bench.png to this folder.",
)
@json_option
@debug_option
def command(
    parts: tuple[str, ...],
    scaling: bool,
    processes: int | None,
    problems: tuple[str, ...],
    parameters: tuple[int, ...],
    pairs: tuple[int, ...],
    quick: bool,
    repeats: int,
    data_dir: Path | None,
    device: str,
    clock: Literal["wall", "cpu"],
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure our solvers against torch and scipy on this machine.

    Four parts: `solvers` (calls to a small gradient on the problem set), `products` (the price of curvature products),
    `overhead` (of a solver beyond its evaluations) and `time` (to a loss on a subset); on request `algebra` (what
    L-BFGS spends per evaluation, by parameters and pairs; each row is shown as soon as it is measured). Counts are
    deterministic; times are medians, measured in turn.
    """
    from subsetopt.bench import BenchSettings, run_bench
    from subsetopt.bench.output import prepare_output, write_bench
    from subsetopt.bench.tables import describe, tables

    _refuse_unused(parts, scaling, processes, problems)
    measured = ("scaling",) if scaling else parts or _PARTS
    settings = BenchSettings(
        measured, problems, quick, repeats, data_dir, device, clock, processes or 2, parameters, pairs
    )
    if output is not None:
        prepare_output(output)
    with standard_output_reserved():
        document = run_bench(settings, lambda text: click.echo(f"measuring {text}", err=True))
        written = [] if output is None else write_bench(document, output)
    if as_json:
        print_json(document)
        return
    click.echo("\n\n".join([describe(document), *[table.text() for table in tables(document)]]))
    for path in written:
        click.echo(f"wrote {path}", err=True)


def _refuse_unused(parts: tuple[str, ...], scaling: bool, processes: int | None, problems: tuple[str, ...]) -> None:
    """Raise `SettingError` for what the parts that are measured have no use for."""
    if scaling and parts:
        raise SettingError("only", parts[0], "has no effect beside --scaling, which is measured alone", "leave one out")
    if processes is not None and not scaling:
        raise SettingError("processes", processes, "are those of --scaling", "add --scaling, or leave it out")
    if problems and (scaling or (parts and not {"solvers", "algebra"} & set(parts))):
        raise SettingError("problem", problems[0], "is of the part solvers or algebra", "add --only solvers")
