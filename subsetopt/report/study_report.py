"""`report.html` and `report.md` of a study directory, made from its files alone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from subsetopt.errors import RunDirectoryError
from subsetopt.report.study_files import read_curves, read_study
from subsetopt.report.study_html import study_html
from subsetopt.report.study_markdown import study_markdown

HTML, MARKDOWN = "report.html", "report.md"


class StudyReport(NamedTuple):
    """Where the two reports lie."""

    html: Path
    markdown: Path


def render_study(directory: Path) -> StudyReport:
    """Write the reports of a study beside its files, each whole or not at all; equal files give equal bytes.

    Raises `RunDirectoryError` when `summary.json` is missing or a report cannot be written, `DataError` when an
    entry of `summary.json` or `curves.csv` is malformed.
    """
    study, points = read_study(directory), read_curves(directory)
    report = StudyReport(directory / HTML, directory / MARKDOWN)
    _replace(report.html, study_html(study, points))
    _replace(report.markdown, study_markdown(study))
    return report


def _replace(target: Path, content: str) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        raise RunDirectoryError(f"output = {str(target)!r}: cannot be written ({error.strerror}); make room") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
