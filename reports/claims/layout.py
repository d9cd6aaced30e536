"""How the claims' tables are laid out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from study import Study

from subsetopt.study.statistics import PairedTest

MARKS = {"better": "**better**", "worse": "**worse**", "no difference": "not shown"}


def under_way(study: Study, name: str) -> str:
    """Return what stands in place of a table whose study is not finished."""
    done = f"{study.about['cells']} of {study.about['of']} cells" if study.about else "not begun"
    return f"Study under way, {done}: `subsetopt compare --config {name.partition('-l2-')[0]} --output runs/{name}`.\n"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table; the first column to the left, the others to the right."""
    rule = "|".join(["---", *("---:" for _ in head[1:])])
    rows = ["| " + " | ".join(cells) + " |" for cells in [head, *lines]]
    return "\n".join([rows[0], f"|{rule}|", *rows[1:]]) + "\n"


def shown_interval(interval: tuple[float, float] | None) -> str:
    """Return an interval of accuracies in percent."""
    return "" if interval is None else f"{100 * interval[0]:.2f} to {100 * min(interval[1], 1.0):.2f}"


def shown_p(p: float) -> str:
    """Return an adjusted p with two digits."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def average(numbers: Iterable[float]) -> float:
    """Return the mean of the numbers."""
    listed = list(numbers)
    return sum(listed) / len(listed)


def given(words: Iterable[str]) -> dict[str, str]:
    """Return the words KEY=VALUE of a place."""
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def test_cells(test: PairedTest | None) -> list[str]:
    """Return the difference in points, its adjusted p, what the study would have shown, and the verdict."""
    if test is None or test.difference is None or test.p_adjusted is None:
        return ["", "", "", ""]
    seen = "" if test.detectable is None else f"{100 * test.detectable:.2f}"
    return [f"{100 * test.difference:+.2f}", shown_p(test.p_adjusted), seen, MARKS[test.verdict]]
