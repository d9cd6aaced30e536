"""Writes what a benchmark measured: bench.json, table.md and bench.png."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subsetopt.bench.figure import bench_figure
from subsetopt.bench.tables import describe, tables
from subsetopt.errors import RunDirectoryError, given
from subsetopt.files import check_writable


def prepare_output(directory: Path) -> None:
    """Make the directory and see that it can be written, before minutes of work; raises `RunDirectoryError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(directory, error) from None
    check_writable(directory, ("bench.json", "table.md", "bench.png"))


def _unwritable(directory: Path, error: OSError) -> RunDirectoryError:
    problem = f"cannot be written ({error.strerror}); name another directory"
    return RunDirectoryError(f"{given('output', directory)}: {problem}")


def write_bench(document: Mapping[str, Any], directory: Path) -> list[Path]:
    """Write the document, its tables and its figure into `directory`; return the files written.

    Raises `RunDirectoryError` where the directory cannot be written.
    """
    text = "\n\n".join([describe(document), *[table.markdown() for table in tables(document)]])
    contents: dict[str, bytes | None] = {
        "bench.json": (json.dumps(finite(document), indent=1) + "\n").encode(),
        "table.md": (text + "\n").encode(),
        "bench.png": bench_figure(document),
    }
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            if content is not None:
                (directory / name).write_bytes(content)
                written.append(directory / name)
    except OSError as error:
        raise _unwritable(directory, error) from None
    return written


def finite(value: Any) -> Any:
    """Replace NaN and infinities by None: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
