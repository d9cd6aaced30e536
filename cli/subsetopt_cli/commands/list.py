"""`subsetopt list`: what there is to choose from."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

import click

from subsetopt.report.table import text_table
from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved
from subsetopt_cli.presets import preset_files, preset_summary

_REGISTRIES = {
    "datasets": ("subsetopt.data", "DATASETS"),
    "models": ("subsetopt.models", "MODELS"),
    "solvers": ("subsetopt.solvers", "SOLVERS"),
    "strategies": ("subsetopt.training.phases.methods", "METHODS"),
    "optimizers": ("subsetopt.training.phases.first_order.optimizers", "OPTIMIZERS"),
    "samplers": ("subsetopt.samplers", "SAMPLERS"),
    "augmentations": ("subsetopt.data.batch_augmentation", "AUGMENTATIONS"),
}


@click.command("list", short_help="List data sets, models, solvers, samplers, augmentations or presets.")
@click.argument("kind", type=click.Choice([*_REGISTRIES, "presets"]))
@json_option
@debug_option
def command(kind: str, as_json: bool) -> None:
    """List data sets, models, solvers, samplers, augmentations or presets.

    The names are those that `subsetopt train` takes.
    """
    with standard_output_reserved():
        entries = list(_entries(kind))
    if as_json:
        print_json([{"name": name, "summary": text} for name, text in entries])
    else:
        click.echo("\n".join(text_table(entries, indent="", left=2)))


def _entries(kind: str) -> Iterable[tuple[str, str]]:
    if kind == "presets":
        return [(name, preset_summary(path)) for name, path in preset_files().items()]
    package, registry = _REGISTRIES[kind]
    return [(entry.name, entry.summary) for entry in getattr(importlib.import_module(package), registry)]
