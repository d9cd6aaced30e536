"""The table of claims 3 and 5 were selection free: methods beside another one that trains on as many rows."""

from __future__ import annotations

from layout import average, given, markdown, shown_interval, test_cells, under_way
from study import Study, mean, read_study

from subsetopt.study.statistics import compare_all


def rows_table(name: str, *words: str) -> str:
    """Each of `methods` of the study NAME less `against` of NAME-rows, at the budgets of that study in their order.

    The budgets of NAME-rows are such that `against` trains on as many rows. Every row is a test of its own, over seeds.
    """
    study, other, options = read_study(name), read_study(f"{name}-rows"), given(words)
    if not study.rows or not other.rows:
        return under_way(other if study.rows else study, f"{name}-rows")
    against = options["against"]
    head = ["method", "rows trained / N", "test accuracy, %", f"`{against}`: rows trained / N", "test accuracy, %"]
    head += ["difference, points", "95 % interval", "p", "seen with 80 % power", "difference"]
    lines = []
    for method, budget in zip(options["methods"].split(";"), other.budgets, strict=True):
        own, control = study.values("test_accuracy")[method], other.values("test_accuracy", budget)[against]
        (test,) = compare_all({method: own, "control": control}, higher_is_better=True, baseline="control")
        difference, p, seen, mark = test_cells(test)
        cells = [f"`{method}`", _passes(study, method, study.budgets[-1]), f"{100 * mean(own):.2f}"]
        cells += [_passes(other, against, budget), f"{100 * mean(control):.2f}", difference]
        lines.append([*cells, shown_interval(test.interval), p, seen, mark])
    return markdown(head, lines)


def _passes(study: Study, method: str, budget: float) -> str:
    rows = [row for row in study.sampling if row["method"] == method and float(row["budget"]) == budget]
    return f"{average(float(row['trained']) / float(row['rows']) for row in rows):.2f}"
