"""A study as Markdown: the same sentences and tables as the page, without its pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator

from subsetopt.documents.comparison import ComparisonDocument
from subsetopt.report.study.answer import answer
from subsetopt.report.study.details import (
    command_line,
    environment_table,
    failures_table,
    methods_table,
    study_facts,
    tuning_cost_table,
    tuning_table,
)
from subsetopt.report.study.figures import front_text
from subsetopt.report.study.tables import (
    StudyTable,
    comparison_groups,
    comparison_matrix,
    comparisons_table,
    results_table,
    target_tables,
)

# Characters that begin HTML, emphasis, links or code in Markdown; names of methods hold none but may be anything.
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&])")


def study_markdown(study: ComparisonDocument) -> str:
    """Return the report; equal input gives equal text."""
    return "\n\n".join(_blocks(study)) + "\n"


def _blocks(study: ComparisonDocument) -> Iterator[str]:
    yield f"# {_text(study.title)}"
    yield _text(answer(study))
    yield from _table(results_table(study, max(study.budgets)))
    if study.verdict:
        yield "\n".join(f"- {_text(sentence)}" for sentence in study.verdict)
    yield "\n".join(f"- {name}: {_text(text)}" for name, text in study_facts(study))
    if command_line(study):
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command_line(study))), default=0))
        yield f"{fence}sh\n{command_line(study)}\n{fence}"
    if front_text(study):
        yield _text(front_text(study))
    for title, tables in _sections(study):
        present = [table for table in tables if table is not None]
        if present:
            yield f"## {title}"
            yield from (block for table in present for block in _table(table))


def _sections(study: ComparisonDocument) -> Iterator[tuple[str, list[StudyTable | None]]]:
    smaller = [budget for budget in study.budgets if budget != max(study.budgets)]
    yield "Results at smaller budgets", [results_table(study, budget) for budget in smaller]
    matrices: list[StudyTable | None] = [comparison_matrix(study, *group) for group in comparison_groups(study)]
    yield "Which differences are noise", [*matrices, comparisons_table(study)] if matrices else []
    yield "Cost to reach a target", [*target_tables(study)]
    yield "Methods", [methods_table(study)]
    yield "Tuning", [tuning_cost_table(study), tuning_table(study)]
    yield "Failures", [failures_table(study)]
    yield "How it was made", [environment_table(study)]


def _table(table: StudyTable) -> Iterator[str]:
    yield f"### {_text(table.caption)}"
    rule = "|".join("---:" if index in table.numeric else "---" for index in range(len(table.columns)))
    lines = [_row(table.columns), f"|{rule}|", *(_row(cell.text for cell in row) for row in table.rows)]
    yield "\n".join(lines)
    if table.note:
        yield _text(table.note)


def _row(cells: Iterator[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(map(_text, cells))} |"


def _text(value: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(value.split()))
