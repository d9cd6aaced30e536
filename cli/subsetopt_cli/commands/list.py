"""`subsetopt list`: print the names and summaries of all entries of one kind."""

from __future__ import annotations

import importlib
import json
from typing import Any

import click

from subsetopt.errors import unknown_name
from subsetopt.examples import examples
from subsetopt.guide.tables import REGISTRIES, registries, rows
from subsetopt.registry import Registry
from subsetopt.report.table import text_table
from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved
from subsetopt_cli.presets import preset_files, preset_summary

_TAKEN_TOO = {"solvers": ("subsetopt.training.phases.methods", "METHODS")}  # `--solver` takes them


@click.command("list", short_help="List data sets, models, solvers, samplers, augmentations, presets or examples.")
@click.argument("kind", type=click.Choice([*REGISTRIES, "presets", "examples"]))
@click.argument("name", required=False)
@json_option
@debug_option
def command(kind: str, name: str | None, as_json: bool) -> None:
    """List data sets, models, solvers, samplers, augmentations, presets or examples.

    Strategies and optimizers too. The names are those that `subsetopt train` takes; an example runs by
    `python -m subsetopt.examples.NAME`. With NAME, show what that one does and its settings with defaults and ranges.
    """
    if name is not None and kind not in ("presets", "examples"):
        with standard_output_reserved():
            card = _card(kind, name)
        if as_json:
            print_json(card)
        else:
            click.echo("\n".join(_lines(card)))
        return
    with standard_output_reserved():
        entries = (
            _presets(name) if kind == "presets" else _examples(name) if kind == "examples" else rows(_listed(kind))
        )
    if as_json:
        print_json([{"name": name, "summary": text} for name, text in entries])
    else:
        click.echo("\n".join(text_table(entries, indent="", left=2)))


def _examples(name: str | None) -> list[tuple[str, str]]:
    known = examples()
    if name is not None and name not in known:
        raise unknown_name("example", name, known)
    return [(each, summary) for each, summary in known.items() if name in (None, each)]


def _presets(name: str | None) -> list[tuple[str, str]]:
    files = {**preset_files(), **preset_files("study")}
    if name is not None and name not in files:
        raise unknown_name("preset", name, files)
    return [(each, preset_summary(path)) for each, path in files.items() if name in (None, each)]


def _listed(kind: str) -> list[Registry[Any]]:
    found = registries(kind)
    if kind in _TAKEN_TOO:
        module, name = _TAKEN_TOO[kind]
        found.append(getattr(importlib.import_module(module), name))
    return found


def _card(kind: str, name: str) -> dict[str, Any]:
    """Return the card of `name`; raises `SettingError` with "did you mean" where there is none."""
    from subsetopt.cards import settings_of

    known = _listed(kind)
    entry = next((registry.entry(name) for registry in known if name in registry), None)
    if entry is None:
        raise known[0].unknown(name, [each for registry in known[1:] for each in registry.names])
    readers = kind == "datasets"  # what they are given is the query of a run, no settings
    settings = [] if readers else [row._asdict() for row in settings_of(entry)]
    return {"name": entry.name, "summary": entry.summary, "card": entry.card, "settings": settings}


def _lines(card: dict[str, Any]) -> list[str]:
    lines = [f"{card['name']}: {card['summary']}", "", card["card"]]
    if not card["settings"]:
        return lines
    table = [("setting", "default", "values")]
    table += [(each["name"], _shown(each["default"]), each["values"]) for each in card["settings"]]
    return [*lines, "", *text_table(table, indent="", left=3)]


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value, default=str).replace("null", "none")
