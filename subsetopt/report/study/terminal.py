"""A study as text for a terminal: the answer, one table per budget, the verdict in sentences."""

from __future__ import annotations

import textwrap

from subsetopt.documents.comparison import ComparisonDocument
from subsetopt.report.study.answer import answer
from subsetopt.report.study.details import failures_table
from subsetopt.report.study.tables import results_table
from subsetopt.report.table import text_table

_WIDTH = 96


def study_text(study: ComparisonDocument) -> str:
    """Return the title, the answer, the results (largest budget first), the verdict and the failures."""
    verdict = [line for sentence in study.verdict for line in _wrapped(sentence)]
    blocks = [[study.title], textwrap.wrap(answer(study), _WIDTH, break_long_words=False)]
    for budget in sorted(study.budgets, reverse=True):
        table = results_table(study, budget)
        rows = [table.columns, *([cell.text for cell in row] for row in table.rows)]
        blocks.append([table.caption, *text_table(rows)])
    blocks.append(verdict)
    failures = failures_table(study)
    if failures is not None:
        lines = [line for row in failures.rows for line in _wrapped(": ".join(cell.text for cell in row))]
        blocks.append([failures.caption, *lines])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False)
