"""Reads `metrics.jsonl`: one record per iteration, of a file that may have been cut off or damaged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subsetopt.errors import RunDirectoryError
from subsetopt.files import reason

_TEXTS = ("role", "method", "data")


def is_record(line: bytes | str) -> bool:
    """Return whether a line is what a run writes of an iteration."""
    return _problem(line) is None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a run's `metrics.jsonl`, in order.

    Raises `RunDirectoryError` naming the line where one is damaged, and where the file cannot be read.
    """
    subject = f"run = {str(path.parent)!r}: {path.name}"
    try:
        if not path.is_file():
            raise RunDirectoryError(f"{subject} {'is no regular file' if path.exists() else 'is missing'}; train anew")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RunDirectoryError(f"{subject} cannot be read ({reason(error)})") from None
    for number, line in enumerate(lines, start=1):
        if line and (problem := _problem(line)) is not None:
            raise RunDirectoryError(f"{subject} cannot be read: line {number} {problem}; delete the line")
    return [json.loads(line) for line in lines if line]


def _problem(line: bytes | str) -> str | None:
    """Return why a line is no record, None where it is one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({reason(error)})"
    if not isinstance(record, dict):
        return "is no JSON object"
    if not isinstance(record.get("phase"), int) or isinstance(record["phase"], bool):
        return "has no phase"
    for name in _TEXTS:
        if not isinstance(record.get(name), str):
            return f"has no {name}"
    if not (_is_number(record.get("epoch_equivalents")) and _is_number(record.get("seconds", 0.0))):
        return "has no cost"
    if record.get("loss", "") is not None and not _is_number(record.get("loss")):
        return "has no loss"
    return _problem_of_held_out(record.get("validation"))


def _problem_of_held_out(metrics: object) -> str | None:
    if metrics is None:
        return None
    if not isinstance(metrics, Mapping):
        return "has no validation metrics"
    wrong = [name for name, value in metrics.items() if value is not None and not _is_number(value)]
    return f"has no number for validation {wrong[0]}" if wrong else None


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False
