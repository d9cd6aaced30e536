"""Tables that the registries feed: between `<!-- table: NAME -->` and `<!-- end -->` on a page."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from typing import Any

from subsetopt.registry import Registry

REGISTRIES = {
    "datasets": (("subsetopt.data", "DATASETS"),),
    "models": (("subsetopt.models", "MODELS"),),
    "solvers": (("subsetopt.solvers", "SOLVERS"),),
    "strategies": (
        ("subsetopt.training.phases.methods", "METHODS"),
        ("subsetopt.training.settings.plans", "PLANS"),
    ),
    "optimizers": (("subsetopt.training.phases.first_order.optimizers", "OPTIMIZERS"),),
    "samplers": (("subsetopt.samplers", "SAMPLERS"),),
    "augmentations": (("subsetopt.data.batch_augmentation", "AUGMENTATIONS"),),
}
"""Kind -> modules and names of its registries: what `subsetopt list KIND` and the guide's tables show."""

_PLACE = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def registries(kind: str) -> list[Registry[Any]]:
    """Return the registries of `kind`, importing their modules: nothing is imported before it is asked for."""
    return [getattr(importlib.import_module(module), name) for module, name in REGISTRIES[kind]]


def rows(registries: Iterable[Registry[Any]]) -> list[tuple[str, str]]:
    """Return name and summary of each entry, by name."""
    return sorted((entry.name, entry.summary) for registry in registries for entry in registry)


def table(kind: str) -> str:
    """Return the Markdown table of the registries of `kind`."""
    shown = rows(registries(kind))
    lines = [f"| `{name}` | {summary.replace('|', chr(92) + '|')} |" for name, summary in shown]
    return "\n".join(["| name | summary |", "|---|---|", *lines]) + "\n"


def filled(text: str, make: Callable[[str], str] = table) -> str:
    """Return a page's text with every table written anew."""
    return _PLACE.sub(lambda place: f"<!-- table: {place[1]} -->\n{make(place[1])}<!-- end -->", text)
