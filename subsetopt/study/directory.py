"""A study's directory: opened once, continued later."""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from subsetopt.errors import RunDirectoryError, given, setting
from subsetopt.files import check_writable, remove_temporary
from subsetopt.report.study.files import CURVES, STUDY, SUMMARY
from subsetopt.training.run_directory import LOCK, RunDirectory

RESULTS = "results.csv"
CELLS = ("cells", "tuning")
COMPARISON, REPRESENTATIVENESS = "compare", "representativeness"
AGAIN = "make room, then give the same command again: it goes on"
_KINDS = {COMPARISON: "a comparison", REPRESENTATIVENESS: "of subset minima"}


@contextmanager
def open_study(output: Path, kind: str) -> Iterator[RunDirectory]:
    """Open the directory of a new study or of one of its kind to continue, for this process alone.

    Raises `RunDirectoryError` where the directory holds anything else or cannot be written.
    """
    foreign = output.exists() and (not output.is_dir() or any(path.name != LOCK for path in output.iterdir()))
    if foreign and not (output / STUDY).is_file():
        raise RunDirectoryError(
            f"{given('output', output)}: exists and holds no study; choose another {setting('output')}"
        )
    if (other := _kind(output / STUDY)) not in (kind, None):
        raise RunDirectoryError(
            f"{given('output', output)}: holds a study of another kind, {_KINDS.get(other, other)}; "
            f"choose another {setting('output')}"
        )
    for folder in CELLS:
        if (output / folder).exists() and not (output / folder).is_dir():
            raise RunDirectoryError(f"{given('output', output)}: {folder} is no directory; remove it, then go on")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(
            f"{given('output', output)}: cannot be created ({error.strerror}); choose another {setting('output')}"
        ) from None
    directory = RunDirectory(output, AGAIN)
    with directory.sole_user():
        check_writable(output, (STUDY, RESULTS, CURVES, SUMMARY))
        for place in (output, *(output / name for name in CELLS)):
            if place.is_dir():
                remove_temporary(place)
        yield directory


def _kind(path: Path) -> str | None:
    """Return what the study of a study.toml asks, None where there is none or it cannot be read."""
    try:
        return str(tomllib.loads(path.read_text(encoding="utf-8")).get("kind", COMPARISON))
    except (OSError, ValueError, RecursionError):
        return None


def write_csv(directory: RunDirectory, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table whole or not at all; None is an empty field."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    directory.write_bytes(name, text.getvalue().encode())
