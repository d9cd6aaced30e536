"""The table of claim 5 were selection free: a choice beside as many rows chosen at random."""

from __future__ import annotations

from layout import given, markdown, shown_interval, test_cells, under_way
from study import mean, read_study

from subsetopt.study.statistics import compare_all


def rows_table(name: str, *words: str) -> str:
    """Each of `methods` of the study NAME less `against` of NAME-rows, at the budgets of that study in their order.

    Paired over seeds; every row is a test of its own.
    """
    study, other, options = read_study(name), read_study(f"{name}-rows"), given(words)
    if not study.rows or not other.rows:
        return under_way(other if study.rows else study, f"{name}-rows")
    head = [
        "method",
        "rows trained / N of both",
        "test accuracy, %",
        "of as many random rows, %",
        "minus these, points",
    ]
    head += ["95 % interval", "p", "seen with 80 % power", "difference"]
    lines = []
    for method, budget in zip(options["methods"].split(";"), other.budgets, strict=True):
        own = study.values("test_accuracy")[method]
        random = other.values("test_accuracy", budget)[options["against"]]
        (test,) = compare_all({method: own, "random": random}, higher_is_better=True, baseline="random")
        difference, p, seen, mark = test_cells(test)
        cells = [f"`{method}`", f"{budget:g}", f"{100 * mean(own):.2f}", f"{100 * mean(random):.2f}", difference]
        lines.append([*cells, shown_interval(test.interval), p, seen, mark])
    return markdown(head, lines)
