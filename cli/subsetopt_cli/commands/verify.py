"""`subsetopt verify`: check whether a run found a minimum or a saddle, by the Hessian's eigenvalues."""

from __future__ import annotations

import contextlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import click

from subsetopt.documents.analysis import BoundedEntry, VerificationDocument
from subsetopt.report.numbers import epochs
from subsetopt.report.table import text_table
from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved

_WIDTH = 96
_VERDICTS = {
    "minimum": "a minimum: the gradient vanishes and the smallest eigenvalue of the Hessian is positive.",
    "saddle": "a saddle: the gradient vanishes, but the Hessian has a negative eigenvalue.",
    "not stationary": "not stationary: the gradient has not vanished, so this is no minimum yet.",
    "undecided": "undecided: the gradient vanishes, but the bounds on the smallest eigenvalue enclose zero.",
}


@click.command("verify", short_help="Check whether a run found a minimum, by the Hessian's eigenvalues.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--on",
    type=click.Choice(["subset", "full"]),
    help="Verify the last solve on the subset or on the full set, each at the parameters it ended with. "
    "[default: the last solve, else the last phase]",
)
@click.option(
    "--gtol",
    type=float,
    metavar="X",
    help="Gradient test: stationary when max|g| is at most X times the loss's own scale.  [default: the run's]",
)
@click.option(
    "--damping", type=float, metavar="X", help="Lambda of the effective dimension.  [default: the run's L2 strength]"
)
@click.option(
    "--probes", type=int, metavar="N", default=8, show_default=True, help="Random starts for the effective dimension."
)
@click.option(
    "--products", type=int, metavar="N", default=300, show_default=True, help="Hessian products per start at most."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float64",
    show_default=True,
    help="Precision of the check, independent of the run's.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the data sets, if not that of the run.")
@click.option("--device", metavar="[auto|cpu|cuda|mps]", help="Device to compute on, if not the run's.")
@json_option
@debug_option
def command(
    run: Path,
    on: Literal["subset", "full"] | None,
    gtol: float | None,
    damping: float | None,
    probes: int,
    products: int,
    dtype: Literal["float32", "float64"],
    data_dir: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Check whether a run found a minimum, by the Hessian's eigenvalues.

    RUN is the directory that `subsetopt train` wrote. The smallest and largest eigenvalue are found by Lanczos, with
    bounds, from Hessian products on the data of the phase; the L2 term, which adds its strength to every eigenvalue,
    is part of the Hessian. The effective dimension tr(H (H + lambda)^-1), H without the L2 term, counts the
    parameters that the data determine.
    """
    from subsetopt.analysis.verification import verify_run

    with standard_output_reserved(), _products_shown() as tell:
        document = verify_run(
            run,
            on=on,
            gtol=gtol,
            damping=damping,
            probes=probes,
            max_products=products,
            dtype=dtype,
            data_dir=data_dir,
            device=device,
            tell=tell,
        )
    if as_json:
        print_json({"directory": str(run), **document.content()})
    else:
        click.echo(_text(document))


@contextlib.contextmanager
def _products_shown() -> Iterator[Callable[[int], None]]:
    """Yield what counts products on a terminal, and is silent elsewhere."""
    from tqdm import tqdm

    with tqdm(desc="Hessian products", unit="", file=sys.stderr, leave=False, disable=None) as bar:

        def tell(count: int) -> None:
            bar.update(count - bar.n)

        yield tell


def _text(document: VerificationDocument) -> str:
    phase, hessian, gradient = document.phase, document.hessian, document.gradient
    where = "the subset" if phase.data == "subset" else "the full training set"
    heading = (
        f"Phase {phase.index + 1}, {phase.method} on {where}: {document.samples} samples, "
        f"{document.parameters} parameters, computed in {document.dtype}"
    )
    condition = hessian.condition
    rows = [
        ["", "value", "at least", "at most"],
        ["smallest eigenvalue", *_bounded(hessian.smallest)],
        ["largest eigenvalue", *_bounded(hessian.largest)],
        ["condition number", *(["-"] * 3 if condition is None else _bounded(condition))],
    ]
    scale = f"{gradient.loss_scale:.3g}, the loss's scale"
    facts = [
        f"max|g| {gradient.max:.2e} (stationary up to {gradient.gtol:.1e} x {scale}), ||g|| "
        f"{gradient.l2_norm:.2e}, objective {document.loss:.6g}.",
        f"The L2 term adds {document.l2:g} to every eigenvalue; without it the smallest is "
        f"{hessian.smallest_without_l2:.3g}.",
        "The matrix was written out."
        if hessian.exact
        else f"The outer bounds fail with probability {hessian.failure_probability:.0e} over the random start.",
        _dimension(document),
    ]
    if document.distance is not None:
        facts.insert(1, f"||g|| / smallest eigenvalue: the minimum is about {document.distance:.1e} away at most.")
    facts += [f"Note: {note}." for note in document.notes]
    cost = document.cost
    facts.append(f"Cost: {hessian.products} Hessian products, {epochs(cost.epoch_equivalents)}, {cost.seconds:.1f} s.")
    lines = [
        line for fact in facts for line in textwrap.wrap(fact, _WIDTH, initial_indent="  ", subsequent_indent="  ")
    ]
    opening = textwrap.wrap(heading, _WIDTH) + textwrap.wrap(f"Verdict: {_VERDICTS[document.verdict]}", _WIDTH)
    return "\n".join([*opening, "", *text_table(rows), "", *lines])


def _bounded(number: BoundedEntry) -> list[str]:
    return [f"{figure:.4g}" for figure in (number.value, number.lower, number.upper)]


def _dimension(document: VerificationDocument) -> str:
    found, parameters = document.effective_dimension, document.parameters
    nominal = f"Q = K·M/P = {document.ratio:.3g}"
    if found is None:
        return f"{nominal}. No effective dimension without L2 strength: give --damping."
    error = "" if found.probes == 0 else f" ± {found.error:.2g} (95 %, {found.probes} random starts)"
    ratio = document.effective_ratio
    effective = "" if ratio is None else f", with the effective dimension for P {ratio:.3g}"
    return (
        f"Effective dimension {found.value:.4g}{error} of {parameters} parameters at lambda "
        f"{found.damping:g}; {nominal}{effective}."
    )
