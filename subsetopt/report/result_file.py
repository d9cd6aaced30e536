"""Reads `result.json`: what a finished run found, in a file that may have been damaged or edited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from subsetopt.documents.base import problem
from subsetopt.documents.run import RunDocument
from subsetopt.errors import RunDirectoryError
from subsetopt.files import read_document

RESULT = "result.json"


def read_result_file(directory: Path, remedy: str) -> RunDocument:
    """Return a run's `result.json`; raises as `result_content` does."""
    return RunDocument.read(result_content(directory, remedy))


def result_content(directory: Path, remedy: str) -> dict[str, Any]:
    """Return a run's `result.json` as it was written.

    Raises `RunDirectoryError` in one line that ends with `remedy` where it is missing, damaged, edited, or lacks what
    a run writes.
    """
    subject = f"run = {str(directory)!r}"
    content = read_document(directory / RESULT, subject, remedy)
    try:
        RunDocument.read(content)
    except ValidationError as error:
        raise RunDirectoryError(f"{subject}: {RESULT}: {problem(error)}; {remedy}") from None
    return content
