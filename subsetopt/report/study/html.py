"""A study as one self-contained HTML page: inline style, script and pictures, and no request to anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files

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
    key_sample,
    kind_title,
    metric_picture,
    pareto_picture,
    shown_methods,
)
from subsetopt.report.study.files import CurvePoint, Study
from subsetopt.report.study.svg import colour
from subsetopt.report.study.tables import (
    Cell,
    Table,
    comparison_groups,
    comparison_matrix,
    comparisons_table,
    metric_title,
    results_table,
    target_tables,
)

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_AXES: tuple[tuple[Axis, str], ...] = (("cost", "cost"), ("seconds", "time"))
_Section = tuple[str, str, str]


def study_html(study: Study, points: Sequence[CurvePoint]) -> str:
    """Return the page. Everything from the study is escaped; equal input gives equal text."""
    sections = [section for section in _sections(study, points) if section[2]]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{title}</h2>\n{content}</section>\n' for name, title, content in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(study.title)}</title>\n<style>\n{_template('study.css')}</style>\n</head>\n<body>\n"
        f'<header><h1>{escape(study.title)}</h1>\n<p class="lead">{escape(_lead(study))}</p>\n'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n<main>\n{body}</main>\n'
        f"<script>\n{_template('study.js')}</script>\n</body>\n</html>\n"
    )


def _template(name: str) -> str:
    return files("subsetopt.report").joinpath("templates", name).read_text(encoding="utf-8")


def _lead(study: Study) -> str:
    facts = [fact for fact in (study.dataset, study.model) if fact]
    return ", ".join([*facts, f"{len(study.methods)} methods, {study.seed_count} seeds"])


def _sections(study: Study, points: Sequence[CurvePoint]) -> Iterator[_Section]:
    yield "summary", "In short", _summary(study)
    yield "results", "Results at equal budget", _tables(results_table(study, budget) for budget in study.budgets)
    yield "pictures", "Pictures", _pictures(study, points)
    yield "differences", "Which differences are noise", _differences(study)
    targets = target_tables(study)
    yield "target", "Cost to reach a target", "".join(_table(table, "bars") for table in targets)
    yield "methods", "Methods", _table(methods_table(study))
    yield "tuning", "Tuning", _tuning(study)
    failures, environment = failures_table(study), environment_table(study)
    yield "failures", "Failures", _table(failures) if failures else ""
    yield "environment", "How it was made", _table(environment) if environment else ""


def _summary(study: Study) -> str:
    sentences = "".join(f"<li>{_text(sentence)}</li>" for sentence in study.verdict)
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in study_facts(study))
    command = command_line(study)
    again = f"<p>Made with</p>\n<pre><code>{escape(command)}</code></pre>\n" if command else ""
    verdict = f'<ul class="verdict">{sentences}</ul>\n' if sentences else ""
    return f'{verdict}<dl class="facts">{facts}</dl>\n{again}'


def _differences(study: Study) -> str:
    groups = comparison_groups(study)
    if not groups:
        return ""
    last = max(budget for budget, _ in groups)
    matrices = [(budget, comparison_matrix(study, budget, metric)) for budget, metric in groups]
    opened = "".join(_table(table, "matrix") for budget, table in matrices if budget == last)
    folded = "".join(_folded(table, "matrix") for budget, table in matrices if budget != last)
    return opened + folded + _folded(comparisons_table(study))


def _tuning(study: Study) -> str:
    cost, tried = tuning_cost_table(study), tuning_table(study)
    shown = _table(cost) if cost else ""
    return shown + (_folded(tried) if tried else "")


def _folded(table: Table, style: str = "") -> str:
    return f"<details><summary>{_text(table.caption)}</summary>\n{_box(table, style)}</details>\n"


def _pictures(study: Study, points: Sequence[CurvePoint]) -> str:
    shown = shown_methods(study)
    groups = [
        (
            f"{metric_title(study.metric)} against cost and time",
            [
                metric_picture(study, "cost", shown),
                metric_picture(study, "seconds", shown),
                pareto_picture(study, shown),
            ],
        )
    ]
    for kind in curve_kinds(points):
        for axis, words in _AXES:
            title = kind_title(study, kind)
            pictures = [curve_picture(study, points, budget, kind, axis, shown) for budget in study.budgets]
            groups.append((f"{title[:1].upper()}{title[1:]} against {words}", pictures))
    content = "".join(
        f'<h3>{escape(title)}</h3>\n<div class="figures">{"".join(map(_figure, drawn))}</div>\n'
        for title, pictures in groups
        if (drawn := [picture for picture in pictures if picture is not None])
    )
    return _key(study, shown) + content if content else ""


def _figure(picture: Picture) -> str:
    return f"<figure>{picture.svg}<figcaption>{_text(picture.caption)}</figcaption></figure>\n"


def _key(study: Study, shown: frozenset[int]) -> str:
    buttons = "".join(
        f'<button type="button" data-s="{index}" class="{colour(index)}" aria-pressed="{str(index in shown).lower()}" '
        f'title="{escape(name)}">{key_sample(index)}<span>{escape(name)}</span></button>'
        for index, name in enumerate(study.names)
    )
    some = (
        "" if len(shown) == len(study.methods) else f" The {len(shown)} best at the largest budget are shown at first."
    )
    return (
        f'<p class="note">Press a name to show or hide its line.{some} Loss curves: geometric mean over seeds with its '
        "95&nbsp;% band. Validation losses are without the L2 term; training losses are with it, on the full training "
        "set, and for first-order training means over the latest mini-batches.</p>\n"
        f'<div class="key" role="group" aria-label="Methods in the pictures">{buttons}</div>\n'
    )


def _tables(tables: Iterable[Table]) -> str:
    return "".join(map(_table, tables))


def _table(table: Table, style: str = "") -> str:
    return f"<h3>{_text(table.caption)}</h3>\n{_box(table, style)}"


def _box(table: Table, style: str) -> str:
    """Return the table in a box of its own, in which it scrolls where the screen is narrow, and its note."""
    head = "".join(_heading(table, index, title) for index, title in enumerate(table.columns))
    rows = "".join(f"<tr>{''.join(_cell(table, i, cell) for i, cell in enumerate(row))}</tr>\n" for row in table.rows)
    note = f'<p class="note">{_text(table.note)}</p>\n' if table.note else ""
    label = escape(table.caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<table{_class(style)} aria-label="{label}">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n{note}"
    )


def _heading(table: Table, index: int, title: str) -> str:
    style = _class("num" if index in table.numeric else "")
    if not table.sortable:
        return f'<th scope="col"{style}>{_name(title)}</th>'
    return f'<th scope="col"{style} aria-sort="none"><button type="button">{_text(title)}</button></th>'


def _cell(table: Table, index: int, cell: Cell) -> str:
    if index == 0:
        return f'<th scope="row">{_name(cell.text)}</th>'
    style = _class(" ".join(filter(None, ("num" if index in table.numeric else "", cell.style))))
    sort = "" if cell.sort is None else f' data-sort="{cell.sort!r}"'
    text = _text(cell.text)
    if not table.sortable and cell.style in ("better", "worse", "same") and " " in text:
        mark, p = text.split(" ", 1)
        text = f"{mark}<span>{p}</span>"
    return f"<td{style}{sort}>{text}{_bar(cell)}{_strip(cell)}</td>"


def _bar(cell: Cell) -> str:
    if cell.bar is None:
        return ""
    return f'<span class="bar"><i style="width:{100 * cell.bar:.1f}%"></i></span>'


def _strip(cell: Cell) -> str:
    if cell.strip is None:
        return ""
    low, mean, high = (f"{2 + 96 * share:.1f}" for share in cell.strip)
    return (
        '<svg class="strip" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<path d="M{low} 5H{high}"/><path class="mean" d="M{mean} 1V9"/></svg>'
    )


def _text(text: str) -> str:
    """Escape a text and keep a per cent sign with its number."""
    return re.sub(r"(?<=\d) %", "&nbsp;%", escape(text))


def _name(text: str) -> str:
    """Escape a method's name and let it break where its parts join, as in lbfgs@0.1+full."""
    return _text(text).replace("+", "+<wbr>").replace("@", "<wbr>@")


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""
