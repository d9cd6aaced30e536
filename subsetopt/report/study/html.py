"""A study as one self-contained HTML page: inline style, script and pictures, and no request to anywhere.

The markup is in `report/templates/`; here is what goes into it. Templates escape everything they are given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined

from subsetopt.documents.comparison import ComparisonDocument
from subsetopt.report.numbers import counted
from subsetopt.report.study.answer import answer
from subsetopt.report.study.bands import Axis
from subsetopt.report.study.details import (
    command_line,
    environment_table,
    failures_table,
    methods_table,
    study_facts,
    tuning_cost_table,
    tuning_table,
)
from subsetopt.report.study.figures import (
    Picture,
    curve_kinds,
    curve_picture,
    fitting,
    key_sample,
    kind_title,
    metric_picture,
    pareto_picture,
    shown_methods,
)
from subsetopt.report.study.files import CurvePoint
from subsetopt.report.study.svg import colour
from subsetopt.report.study.tables import (
    StudyTable,
    comparison_groups,
    comparison_matrix,
    comparisons_table,
    results_table,
    target_tables,
)
from subsetopt.report.study.texts import metric_title

_AXES: tuple[tuple[Axis, str], ...] = (("cost", "cost"), ("seconds", "time"))
_CURVES_SIZE = 85_000
"""Characters that the curves of a page may take together, however many methods, budgets and seeds there are."""
_ROWS = 100
_Groups = list[tuple[str, list[Picture]]]


class _Section(NamedTuple):
    """A section of the page; `content` is rendered HTML, empty where the study has nothing to say there."""

    name: str
    title: str
    content: str


class _Shown(NamedTuple):
    """A table as the page shows it: a class of the style sheet, and whether it is folded at first."""

    table: StudyTable
    style: str = ""
    folded: bool = False


def study_html(study: ComparisonDocument, points: Sequence[CurvePoint]) -> str:
    """Return the page. Everything from the study is escaped; equal input gives equal text."""
    return _rendered(
        "study.html",
        title=study.title,
        lead=_lead(study),
        sections=[section for section in _sections(study, points) if section.content],
        style=_source("study.css"),
        script=_source("study.js"),
    )


def _rendered(template: str, **content: Any) -> str:
    return _environment().get_template(template).render(**content)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"units": _units, "pieces": _pieces, "pixels": _pixels}
    environment.globals |= {"colour": colour, "key_sample": key_sample}
    return environment


def _source(name: str) -> str:
    return files("subsetopt.report").joinpath("templates", name).read_text(encoding="utf-8")


def _units(text: str) -> str:
    """Keep a per cent sign with its number, by a no-break space."""
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text)


def _pieces(name: str) -> list[str]:
    """Split a method's name where its parts join, as in lbfgs@0.1+full."""
    return re.split(r"(?<=\+)|(?=@)", name)


def _pixels(strip: tuple[float, float, float]) -> list[str]:
    return [f"{2 + 96 * share:.1f}" for share in strip]


def _lead(study: ComparisonDocument) -> str:
    facts = [fact for fact in (study.dataset, study.model) if fact]
    return ", ".join([*facts, counted(len(study.methods), "method"), counted(study.seed_count, "seed")])


def _sections(study: ComparisonDocument, points: Sequence[CurvePoint]) -> Iterator[_Section]:
    largest = max(study.budgets)
    results = [_Shown(results_table(study, budget)) for budget in study.budgets if budget != largest]
    targets = [_Shown(table, "bars") for table in target_tables(study)]
    yield _Section("summary", "In short", _summary(study) + _tables([_Shown(results_table(study, largest))]))
    yield _Section("details", "In detail", _details(study))
    yield _Section("results", "Results at smaller budgets", _tables(results))
    yield _Section("pictures", "Pictures", _pictures(study, points))
    yield _Section("differences", "Which differences are noise", _tables(_differences(study)))
    yield _Section("target", "Cost to reach a target", _tables(targets))
    yield _Section("methods", "Methods", _tables([_Shown(methods_table(study))]))
    yield _Section("tuning", "Tuning", _tables(_tuning(study)))
    yield _Section("failures", "Failures", _tables(_present(failures_table(study))))
    yield _Section("environment", "How it was made", _tables(_present(environment_table(study))))


def _tables(shown: Sequence[_Shown]) -> str:
    cut = [entry._replace(table=_first_rows(entry.table)) if entry.folded else entry for entry in shown]
    return _rendered("tables.html", tables=cut) if cut else ""


def _first_rows(table: StudyTable) -> StudyTable:
    """Return a folded table with as many rows as a page bears; the Markdown report has all of them."""
    if len(table.rows) <= _ROWS:
        return table
    note = f"The first {_ROWS} of {len(table.rows)} rows; report.md has all of them. {table.note}"
    return replace(table, rows=table.rows[:_ROWS], note=note.strip())


def _present(table: StudyTable | None, *, folded: bool = False) -> list[_Shown]:
    return [] if table is None else [_Shown(table, folded=folded)]


def _summary(study: ComparisonDocument) -> str:
    return _rendered("summary.html", answer=answer(study))


def _details(study: ComparisonDocument) -> str:
    return _rendered("details.html", verdict=study.verdict, facts=study_facts(study), command=command_line(study))


def _differences(study: ComparisonDocument) -> list[_Shown]:
    groups = comparison_groups(study)
    if not groups:
        return []
    last = max(budget for budget, _ in groups)
    matrices = [(budget, comparison_matrix(study, budget, metric)) for budget, metric in groups]
    opened = [_Shown(table, "matrix") for budget, table in matrices if budget == last]
    folded = [_Shown(table, "matrix", folded=True) for budget, table in matrices if budget != last]
    return [*opened, *folded, _Shown(comparisons_table(study), folded=True)]


def _tuning(study: ComparisonDocument) -> list[_Shown]:
    return _present(tuning_cost_table(study)) + _present(tuning_table(study), folded=True)


def _pictures(study: ComparisonDocument, points: Sequence[CurvePoint]) -> str:
    shown = shown_methods(study)
    groups = _picture_groups(study, points, shown)
    return _rendered("pictures.html", names=study.names, shown=shown, groups=groups) if groups else ""


def _picture_groups(study: ComparisonDocument, points: Sequence[CurvePoint], shown: frozenset[int]) -> _Groups:
    by_metric = [metric_picture(study, axis, shown) for axis, _ in _AXES]
    drawn = [*by_metric, pareto_picture(study, shown)]
    first = (f"{metric_title(study.metric)} against cost and time", [p for p in drawn if p is not None])
    groups: _Groups = []
    for kind in curve_kinds(points):
        title = kind_title(study, kind)
        for axis, words in _AXES:
            # Seconds differ between budgets by their length alone: one picture of them says it.
            budgets = study.budgets if axis == "cost" else [max(study.budgets)]
            pictures = [curve_picture(study, points, budget, kind, axis, shown) for budget in budgets]
            present = [picture for picture in pictures if picture is not None]
            groups.append((f"{title[:1].upper()}{title[1:]} against {words}", present))
    curves = iter(fitting([picture for _, pictures in groups for picture in pictures], _CURVES_SIZE))
    thinned = [(title, [next(curves) for _ in pictures]) for title, pictures in groups]
    return [(title, pictures) for title, pictures in (first, *thinned) if pictures]
