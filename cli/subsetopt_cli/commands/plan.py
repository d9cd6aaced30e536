"""`subsetopt plan`: predict the cost of each strategy on this problem and machine, and recommend one."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any, Literal

import click

from subsetopt.documents.plan import PlanDocument, RangeEntry, StrategyEntry
from subsetopt.errors import flag_of
from subsetopt.report.numbers import epochs
from subsetopt.report.table import text_table
from subsetopt.training.settings.declaration import names_of
from subsetopt.training.settings.run import RunConfig, make_config
from subsetopt_cli.options import HeadedCommand, given_settings, setting_options
from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved

_SETTINGS = (
    *names_of(RunConfig, heading="Data"),
    "model",
    "model_args",
    "loss",
    "l2",
    "stratify",
    "gtol",
    "max_iterations",
    "seed",
    "dtype",
    "device",
)
_WIDTH = 96


@click.command(
    "plan",
    cls=HeadedCommand,
    params=setting_options(RunConfig, _SETTINGS),
    short_help="Predict the cost of each strategy on this problem and machine, and recommend one.",
    epilog="Example: subsetopt plan --dataset mnist --model cnn --excess 0.05",
)
@click.option(
    "--excess",
    type=float,
    metavar="X",
    help="Target: a full-set objective at most X times the full minimum above it.  [default: 0.1]",
)
@click.option("--target-loss", type=float, metavar="X", help="Target: this held-out loss, instead of --excess.")
@click.option(
    "--pilot-seconds",
    type=float,
    metavar="X",
    default=5.0,
    show_default=True,
    help="Seconds at most for a pilot solve on a small subset of this problem; 0 for none.",
)
@click.option(
    "--by",
    type=click.Choice(["seconds", "units"]),
    default="seconds",
    show_default=True,
    help="Recommend by seconds on this machine, or by epoch-equivalents (units).",
)
@json_option
@debug_option
def command(
    excess: float | None,
    target_loss: float | None,
    pilot_seconds: float,
    by: Literal["seconds", "units"],
    as_json: bool,
    **flags: Any,
) -> None:
    """Predict the cost of each strategy on this problem and machine, and recommend one.

    Times each kind of model call, solves a small subset, and multiplies by what the strategies needed in this
    project's own measurements. The ranges are those of the measurements; other data may lie outside.
    """
    from subsetopt.plan.plan import make_plan

    given = given_settings(RunConfig, flags)
    with standard_output_reserved():
        document = make_plan(
            make_config(given),
            flags=_repeated(flags),
            excess=excess,
            target_loss=target_loss,
            pilot_seconds=pilot_seconds,
            by=by,
        )
    if as_json:
        print_json(document.content())
    else:
        click.echo(_text(document))


def _repeated(flags: Mapping[str, Any]) -> list[str]:
    """Return the given flags as words of a command line."""
    words: list[str] = []
    for name, value in flags.items():
        if value is None or value == ():
            continue
        flag = flag_of(name)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [word for one in (value if isinstance(value, tuple) else (value,)) for word in (flag, str(one))]
    return words


def _text(document: PlanDocument) -> str:
    wanted, speeds, pilot = document.wanted, document.speeds, document.pilot
    lines = [
        f"{document.dataset}, {document.model}: N = {document.samples}, P = {document.parameters}, "
        f"l2 = {document.l2:g}. Wanted: {100 * wanted.excess:.3g} % above the full minimum"
        + ("" if wanted.full_minimum is None else f", which is predicted to be {wanted.full_minimum:.4g}")
        + ".",
        f"Here one epoch-equivalent takes {_seconds(speeds.unit)}, an epoch of mini-batches of 64 "
        f"{_seconds(speeds.step * document.samples / 64)} ({_seconds(speeds.step)} per step), a Hessian "
        f"product {_seconds(speeds.hvp)}, a Gauss-Newton product {_seconds(speeds.ggnvp)}.",
    ]
    if pilot is not None:
        end = "to its minimum" if pilot.converged else "without an end"
        lines.append(
            f"Pilot: {pilot.samples} samples, {pilot.evaluations} evaluations {end}, "
            f"{epochs(pilot.epoch_equivalents)}, {_seconds(pilot.seconds)}."
        )
    table = [["strategy", "epoch-equivalents", "seconds", "sequential model calls"]]
    for row in sorted(document.strategies, key=_order):
        if row.refused is not None:
            table.append([row.strategy, "left out: see below", "", ""])
        elif row.epoch_equivalents is None:
            table.append([row.strategy, "not measured to reach it", "", ""])
        else:
            table.append([row.strategy, _span(row.epoch_equivalents), _span(row.seconds), _span(row.calls)])
    return "\n".join([*_wrapped(lines), "", *text_table(table), "", *_advice(document)])


def _advice(document: PlanDocument) -> list[str]:
    best, notes = document.recommendation, [f"Note: {note}." for note in document.notes]
    cost = f"This plan cost {epochs(document.cost.epoch_equivalents)}."
    if best is None:
        return _wrapped(
            ["No strategy was seen to come so close: ask for less, or compare by `subsetopt compare`.", cost]
        )
    basis = next(row.rests_on for row in document.strategies if row.strategy == best.strategy)
    reasons = _wrapped([f"Run {best.strategy}: {best.why}.", f"It rests on: {'; '.join(basis)}.", *notes, cost])
    return [f"  {best.command}", "", *reasons]


def _wrapped(texts: list[str]) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(text, _WIDTH)]


def _order(row: StrategyEntry) -> float:
    seconds = row.seconds
    return float("inf") if seconds is None else float(seconds.low * seconds.high)


def _span(cost: RangeEntry | None) -> str:
    if cost is None:
        return ""
    low, high = _figure(cost.low), _figure(cost.high)
    return low if low == high else f"{low} - {high}"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value >= 1 else f"{1000 * value:.2g} ms"
