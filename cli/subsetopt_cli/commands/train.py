"""`subsetopt train`: the main job."""

from __future__ import annotations

from typing import Any

import click

from subsetopt.training.settings.run import RunConfig, make_config
from subsetopt_cli.options import HeadedCommand, given_settings, setting_options
from subsetopt_cli.output import debug_option, json_option
from subsetopt_cli.presets import overrides, preset_files, read_config
from subsetopt_cli.running import importing, progress_shown, quiet_option, show_outcome


def _complete_config(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    presets = [CompletionItem(name) for name in preset_files() if name.startswith(incomplete)]
    return [*presets, CompletionItem(incomplete, type="file")]


@click.command(
    "train",
    cls=HeadedCommand,
    params=setting_options(RunConfig, one=()),
    short_help="Train on a random subset to its minimum, then hand over to the full set.",
    epilog="Example: subsetopt train --dataset mnist --model cnn --subset-frac 0.1 --output runs/first",
)
@click.option(
    "--config",
    metavar="FILE",
    shell_complete=_complete_config,
    help="TOML file or preset (`subsetopt list presets`); flags override it. "
    "A file may list phases of its own as [[phase]].",
)
@json_option
@quiet_option
@debug_option
def command(config: str | None, as_json: bool, quiet: bool, **flags: Any) -> None:
    """Train on a random subset to its minimum, then hand over to the full set.

    Draws a subset, checks its overdetermination ratio Q = K·M/P, solves the full-batch minimum on it with a
    second-order method, fine-tunes on the full training set, evaluates, and saves everything in a run directory.
    """
    base = read_config(config, "train") if config is not None else {}
    settings = make_config(base, overrides(base, given_settings(RunConfig, flags)))

    with importing():
        from subsetopt.training.checks.habits import phase_notes
        from subsetopt.training.run import train

    with progress_shown(quiet) as progress:
        for note in phase_notes(settings):
            progress.warn(note)
        outcome = train(settings, progress=progress)
    show_outcome(outcome, as_json=as_json, quiet=quiet)
