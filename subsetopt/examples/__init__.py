"""Runnable examples, one file per kind of user: `python -m subsetopt.examples.NAME`."""

from __future__ import annotations

import ast
from importlib.resources import files


def examples() -> dict[str, str]:
    """Return the first docstring line of every example by its name; nothing is imported or run."""
    sources = {
        entry.name.removesuffix(".py"): entry.read_text(encoding="utf-8")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".py") and not entry.name.startswith("_")
    }
    docstrings = {name: ast.get_docstring(ast.parse(source)) or "" for name, source in sources.items()}
    return {name: docstrings[name].partition("\n")[0] for name in sorted(docstrings)}
