"""`subsetopt list`: print the names and summaries of all entries of one kind."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

import click

from subsetopt.examples import examples
from subsetopt.report.table import text_table
from subsetopt.training.settings.phase import STREAMS
from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved
from subsetopt_cli.presets import preset_files, preset_summary

_REGISTRIES = {
    "datasets": ("subsetopt.data", "DATASETS"),
    "models": ("subsetopt.models", "MODELS"),
    "solvers": ("subsetopt.solvers", "SOLVERS"),
    "samplers": ("subsetopt.samplers", "SAMPLERS"),
    "augmentations": ("subsetopt.data.batch_augmentation", "AUGMENTATIONS"),
}


@click.command("list", short_help="List data sets, models, solvers, samplers, augmentations, presets or examples.")
@click.argument("kind", type=click.Choice([*_REGISTRIES, "presets", "examples"]))
@json_option
@debug_option
def command(kind: str, as_json: bool) -> None:
    """List data sets, models, solvers, samplers, augmentations, presets or examples.

    The names are those that `subsetopt train` takes; an example runs by `python -m subsetopt.examples.NAME`.
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
    if kind == "examples":
        return examples().items()
    package, registry = _REGISTRIES[kind]
    entries = [(entry.name, entry.summary) for entry in getattr(importlib.import_module(package), registry)]
    return sorted([*entries, *(STREAMS.items() if kind == "solvers" else ())])
