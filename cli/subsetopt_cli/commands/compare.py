"""`subsetopt compare`: many methods, seeds and budgets, and what can be said of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from subsetopt.compare.config import SHARED, StudyConfig, ValidatedStudy, make_study
from subsetopt.documents.comparison import ComparisonDocument
from subsetopt.errors import SettingError
from subsetopt.report.table import text_table
from subsetopt.training.settings.run import RunConfig
from subsetopt_cli.failures import DEFECT, INTERRUPTED
from subsetopt_cli.options import STUDY_HEADING, HeadedCommand, HeadedOption, given_settings, setting_options
from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved
from subsetopt_cli.presets import overrides, read_config
from subsetopt_cli.running import quiet_option

if TYPE_CHECKING:
    from subsetopt.compare.execution import StudyProgress
    from subsetopt.study.workers import Workers

_OWN = tuple(name for name in StudyConfig.model_fields if name != "method")


def _study_options() -> list[click.Parameter]:
    """Return the options of a study; `--tune` alone means `--tune rate`."""
    options = setting_options(StudyConfig, _OWN, heading=STUDY_HEADING)
    place = [option.name for option in options].index("tune")
    made = options[place].to_info_dict()
    switches = [
        HeadedOption(
            ["--tune"],
            is_flag=False,
            flag_value="rate",
            metavar="[rate|rate,l2|none]",
            heading=STUDY_HEADING,
            help=made["help"],
        ),
        HeadedOption(["--no-tune"], is_flag=True, default=None, heading=STUDY_HEADING, help="Tune nothing."),
    ]
    return [*options[:place], *switches, *options[place + 1 :]]


@click.command(
    "compare",
    cls=HeadedCommand,
    params=[*_study_options(), *setting_options(RunConfig, SHARED, taken=("--target",))],
    short_help="Compare methods at equal cost, with tuning, seeds and tests.",
    epilog="Example: subsetopt compare --dataset digits --methods lbfgs@0.1+full,lbfgs@0.1+srs,adam,srs@0.1 "
    "--budget 1,3 --seeds 3. A method is SOLVER, SOLVER@SHARE, SOLVER@SHARE+HANDOFF, an OPTIMIZER (adam, ...) or "
    "SAMPLER[@FRACTION][/OPTIMIZER]; a hand-off is full, or any of these but SOLVER@SHARE.",
)
@click.option("--config", metavar="FILE", help="TOML study or preset (compare-digits, ...); flags override it.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Study directory; finished cells in it are reused  [default: runs/compare-DATASET]",
)
@click.option("--jobs", type=int, default=1, show_default=True, metavar="N", help="Cells to run at a time.")
@click.option(
    "--backend",
    type=click.Choice(["loky", "dask", "ray"]),
    default="loky",
    show_default=True,
    help="Run the cells in processes of this machine, or on a cluster.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Address of the cluster, e.g. tcp://host:8786.")
@json_option
@quiet_option
@debug_option
def command(
    config: str | None,
    output: Path | None,
    jobs: int,
    backend: Any,
    scheduler: str | None,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Compare methods at equal cost, with tuning, seeds and tests.

    Tune every method by the same small search on validation data, run all of them with every seed at every budget,
    test which differences are more than chance, and write a report. The same command continues an interrupted study;
    more methods, budgets or seeds reuse the cells that are finished.
    """
    base = read_config(config) if config is not None else {}
    if flags.pop("no_tune"):
        if flags["tune"] is not None:
            raise SettingError("tune", flags["tune"], "--no-tune beside it says the opposite", "give one of them")
        flags["tune"] = "none"
    own = given_settings(StudyConfig, {name: flags[name] for name in _OWN})
    shared = given_settings(RunConfig, {name: flags[name] for name in SHARED})
    layer = overrides({key: base[key] for key in base if key in SHARED}, shared)
    study = make_study(base, {**layer, **own})
    directory = output or Path("runs") / f"compare-{study.shared['dataset']}"

    from subsetopt.study.workers import Workers

    summary = _run(study, directory, Workers(jobs, backend, scheduler), quiet)
    if as_json:
        print_json({**summary.content(), "directory": str(directory)})
    elif quiet:
        click.echo(directory)
    else:
        click.echo(_text(summary, directory))
    if summary.failures and all(row.mean is None for row in summary.results):
        click.echo(f"Error: every cell failed, the first one so: {summary.failures[0].error}", err=True)
        raise click.exceptions.Exit(DEFECT)


def _run(study: ValidatedStudy, directory: Path, workers: Workers, quiet: bool) -> ComparisonDocument:
    from subsetopt.compare.execution import SilentStudy
    from subsetopt.compare.run import run_comparison
    from subsetopt.report.study.report import render_study
    from subsetopt.study.workers import StudyInterrupted
    from subsetopt_cli.study_bars import StudyBars

    bars = StudyBars()
    progress: StudyProgress = SilentStudy() if quiet else bars
    arguments = ["subsetopt", *sys.argv[1:]]
    try:
        with standard_output_reserved():
            summary = run_comparison(study, directory, workers=workers, progress=progress, command=arguments)
            render_study(directory)
    except StudyInterrupted:
        bars.close()
        click.echo(f"Interrupted; continue with the same command: {shlex.join(arguments)}", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    finally:
        bars.close()
    return summary


def _text(summary: ComparisonDocument, directory: Path) -> str:
    """Return the answers, a table, and where the files are."""
    lines = [summary.title, ""]
    lines += [f"- {sentence}" for sentence in summary.verdict]
    lines += ["", *text_table([*_rows(summary)], left=1), ""]
    lines += [f"Files in {directory}"]
    lines += [
        f"  {name:<13} {what}"
        for name, what in (
            ("report.html", "the report: pictures, tables, tests"),
            ("report.md", "the same as text"),
            ("summary.json", "every answer"),
            ("results.csv", "one row per cell"),
            ("curves.csv", "losses against cost"),
            ("cells", "one run directory per cell"),
        )
    ]
    return "\n".join(lines)


def _rows(summary: ComparisonDocument) -> Iterable[list[str]]:
    from subsetopt.report.study.texts import MISSING, cost_text, interval_text, loss_text, metric_text

    metric, unit = summary.metric, summary.budget_unit
    yield ["method", f"budget ({unit})", f"test {metric}", "95 % interval", "test loss", "cost", "with tuning", "s"]
    for row in summary.results:
        if row.mean is None:
            yield [row.method, f"{row.budget:g}", "failed"]
            continue
        interval = interval_text(row.interval, metric)
        yield [
            row.method,
            f"{row.budget:g}",
            metric_text(row.mean, metric),
            "" if interval == MISSING else interval,
            loss_text(row.loss_mean),
            cost_text(row.cost_mean),
            cost_text(row.cost_including_tuning),
            cost_text(row.seconds_mean),
        ]
