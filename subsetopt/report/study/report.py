"""`report.html` and `report.md` of a study directory, made from its files alone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from subsetopt.errors import DataError, UserError
from subsetopt.files import MALFORMED, reason, replace_file
from subsetopt.report.study.files import CURVES, SUMMARY, read_curves, read_study
from subsetopt.report.study.html import study_html
from subsetopt.report.study.markdown import study_markdown

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
    try:
        html, markdown = study_html(study, points).encode(), study_markdown(study).encode()
    except UserError:
        raise
    except MALFORMED as error:
        raise DataError(
            f"{directory}: {SUMMARY} or {CURVES} holds what cannot be shown ({type(error).__name__}: {reason(error)}); "
            "run the study's command again"
        ) from None
    replace_file(report.html, html)
    replace_file(report.markdown, markdown)
    return report
