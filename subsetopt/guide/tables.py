"""Tables that the registries feed: between `<!-- table: NAME -->` and `<!-- end -->` on a page."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

from subsetopt.registry import Registry

REGISTRIES = {
    "datasets": ("subsetopt.data", "DATASETS"),
    "models": ("subsetopt.models", "MODELS"),
    "solvers": ("subsetopt.solvers", "SOLVERS"),
    "strategies": ("subsetopt.training.phases.methods", "METHODS"),
    "optimizers": ("subsetopt.training.phases.first_order.optimizers", "OPTIMIZERS"),
    "samplers": ("subsetopt.samplers", "SAMPLERS"),
    "augmentations": ("subsetopt.data.batch_augmentation", "AUGMENTATIONS"),
}
"""Kind -> module and name of its registry: what `subsetopt list KIND` and the guide's tables show."""

_PLACE = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def registry(kind: str) -> Registry[Any]:
    """Return the registry of `kind`, importing its module: nothing is imported before it is asked for."""
    module, name = REGISTRIES[kind]
    found: Registry[Any] = getattr(importlib.import_module(module), name)
    return found


def rows(*kinds: str) -> list[tuple[str, str]]:
    """Return name and summary of each entry of these kinds, by name."""
    return sorted((entry.name, entry.summary) for kind in kinds for entry in registry(kind))


def table(kind: str) -> str:
    """Return the Markdown table of the registry `kind`."""
    lines = [f"| `{name}` | {summary.replace('|', chr(92) + '|')} |" for name, summary in rows(kind)]
    return "\n".join(["| name | summary |", "|---|---|", *lines]) + "\n"


def filled(text: str, make: Callable[[str], str] = table) -> str:
    """Return a page's text with every table written anew."""
    return _PLACE.sub(lambda place: f"<!-- table: {place[1]} -->\n{make(place[1])}<!-- end -->", text)
