"""How a user goes on with a run, or from its end, in Python or on the command line."""

from __future__ import annotations

import tomllib
from pathlib import Path

from subsetopt.errors import on_command_line, typed

CONFIG = "config.toml"
FOREIGN = "(given as an object)"
"""Stands in `config.toml` for a model or data set that was an object in Python."""


def resuming(path: str | Path) -> str:
    """Return what continues the run in a directory; in Python with the objects that it was given."""
    if on_command_line():
        return f"`subsetopt resume {typed(path)}`"
    objects = "".join(f", {name}=..." for name in ("model", "dataset") if _settings(Path(path)).get(name) == FOREIGN)
    return f"SubsetTrainer.resume({str(path)!r}{objects})"


def starting_from_a_run() -> str:
    """Return what starts a new run from the model of another."""
    return "`subsetopt train --init-from RUN`" if on_command_line() else "init_from=RUN"


def _settings(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # what is told does not depend on more than its reader can do
        return {}
