"""What `subsetopt ratio --effective RUN` prints."""

from __future__ import annotations

import contextlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import click

from subsetopt.documents.analysis import (
    EffectiveParametersEntry,
    EffectiveRatioDocument,
    EstimateEntry,
    LeaveOneOutEntry,
)
from subsetopt.report.numbers import epochs
from subsetopt.report.table import text_table
from subsetopt.training.settings.run import RunConfig
from subsetopt_cli.output import print_json, standard_output_reserved

_WIDTH = 96


def show_effective(
    run: Path,
    config: RunConfig,
    *,
    on: Literal["subset", "full"] | None,
    excess: float | None,
    rows: int,
    as_json: bool,
) -> None:
    """Measure the effective ratio of a run and print it; data folder and subset size are those of `config`."""
    from subsetopt.analysis.effective_ratio import effective_run

    with standard_output_reserved(), _products_shown() as tell:
        document = effective_run(
            run,
            on=on,
            subset_size=config.subset_size,
            subset_frac=config.subset_frac,
            excess=excess,
            rows=rows,
            data_dir=config.data_dir,
            tell=tell,
        )
    if as_json:
        print_json({"directory": str(run), **document.content()})
    else:
        click.echo(_text(document))


@contextlib.contextmanager
def _products_shown() -> Iterator[Callable[[], None]]:
    """Yield what counts products on a terminal, and is silent elsewhere."""
    from tqdm import tqdm

    with tqdm(desc="curvature products", unit="", file=sys.stderr, leave=False, disable=None) as bar:

        def tell() -> None:
            bar.update()

        yield tell


def _text(document: EffectiveRatioDocument) -> str:
    phase, chosen = document.phase, document.effective_parameters
    where = "the subset" if phase.data == "subset" else "the full training set"
    ratio = document.effective_ratio
    lines = [
        f"Phase {phase.index + 1}, {phase.method} on {where}: K = {document.samples} of "
        f"{document.samples_full} samples, P = {document.parameters}, Q = K·M/P = {document.ratio:.3g}.",
        f"Effective parameters: {_estimate(chosen)} by {chosen.by}. Effective ratio K/p = "
        f"{'-' if ratio is None else f'{ratio:.3g}'}.",
        _sources(document),
    ]
    paragraphs = [line for text in lines for line in textwrap.wrap(text, _WIDTH)]
    return "\n".join([*paragraphs, "", *text_table(_predictions(document)), "", *_observations(document)])


def _estimate(found: EstimateEntry | EffectiveParametersEntry | LeaveOneOutEntry) -> str:
    error = "" if found.error == 0 else f" ± {found.error:.2g}"
    return f"{found.value:.3g}{error}"


def _sources(document: EffectiveRatioDocument) -> str:
    matrix = "H the Hessian" if document.hessian == "hessian" else "H the Gauss-Newton matrix"
    text = f"tr(H^-1 C) = {_estimate(document.trace)}, {matrix}"
    within = document.trace_within_classes
    if within is not None:
        text += f" ({_estimate(within)} within classes, which a stratified draw feels)"
    left_out = document.leave_one_out
    if left_out is not None:
        text += f"; leave-one-out: {_estimate(left_out)} from {left_out.rows} samples"
    return text + ". Errors are 95 % intervals."


def _predictions(document: EffectiveRatioDocument) -> list[list[str]]:
    """Return the table of predicted excess: of this subset, of the one asked for, and of the one that is enough."""
    table = [["predicted", "K", "share", "K/p", "excess on the full set", "of the full minimum"]]
    for name, row in (("this subset", document.predicted), ("asked for", document.asked)):
        if row is not None:
            effective = "-" if row.effective_ratio is None else f"{row.effective_ratio:.3g}"
            error = f" ± {row.excess_error:.2g}" if row.excess_error else ""
            table.append(
                [
                    name,
                    str(row.samples),
                    f"{100 * row.fraction:.3g} %",
                    effective,
                    f"{row.excess:.3g}{error}",
                    f"{100 * row.relative_excess:.3g} %",
                ]
            )
    target = document.target
    if target is not None:
        table.append(
            [
                "is enough",
                str(target.samples),
                f"{100 * target.fraction:.3g} %",
                "",
                f"{target.excess:.3g}",
                f"{100 * target.relative_excess:.3g} %",
            ]
        )
    return table


def _observations(document: EffectiveRatioDocument) -> list[str]:
    seen, predicted = document.observed, document.predicted
    source = "found by the run" if document.full_minimum.observed else "predicted"
    texts = [f"Full minimum {document.full_minimum.value:.4g} ({source})."]
    if seen.excess is not None and document.phase.data == "subset":
        texts.append(f"Observed excess {seen.excess:.3g}, predicted {predicted.excess:.3g}.")
    elif seen.excess_at_least is not None and document.phase.data == "subset":
        texts.append(
            f"Observed excess {seen.excess_at_least:.3g} or more (the full solve was not finished), predicted "
            f"{predicted.excess:.3g}."
        )
    if seen.optimism is not None:
        texts.append(
            f"Loss on the full set above that on the subset: {seen.optimism:.3g}, predicted {predicted.optimism:.3g}."
        )
    texts += [f"Note: {note}." for note in document.notes]
    cost = document.cost
    texts.append(f"Cost: {epochs(cost.epoch_equivalents)}, {cost.seconds:.1f} s.")
    return [line for text in texts for line in textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ")]
