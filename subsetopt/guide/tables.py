"""Tables that the registries feed: between `<!-- table: NAME -->` and `<!-- end -->` on a page."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

# The command `subsetopt list KIND` shows the same entries.
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
_PLACE = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def table(kind: str) -> str:
    """Return the Markdown table of the registries of `kind`: name and summary of each entry, by name."""
    found = [getattr(importlib.import_module(package), registry) for package, registry in REGISTRIES[kind]]
    rows = sorted((entry.name, entry.summary) for registry in found for entry in registry)
    lines = [f"| `{name}` | {summary.replace('|', chr(92) + '|')} |" for name, summary in rows]
    return "\n".join(["| name | summary |", "|---|---|", *lines]) + "\n"


def filled(text: str, make: Callable[[str], str] = table) -> str:
    """Return a page's text with every table written anew."""
    return _PLACE.sub(lambda place: f"<!-- table: {place[1]} -->\n{make(place[1])}<!-- end -->", text)
