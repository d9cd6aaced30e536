"""The two files: equal input gives equal bytes, each is written whole, and Markdown holds the page's tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from subsetopt.documents.comparison import ComparisonDocument
from subsetopt.errors import RunDirectoryError
from subsetopt.report.study.markdown import study_markdown
from subsetopt.report.study.report import render_study
from subsetopt.report.study.terminal import study_text
from tests.report.study.study_fixture import INJECTION, METHODS, summary, write_study


def test_equal_files_give_equal_bytes(tmp_path: Path) -> None:
    one, two = (render_study(write_study(tmp_path / name)) for name in ("one", "two"))
    assert one.html.read_bytes() == two.html.read_bytes()
    assert one.markdown.read_bytes() == two.markdown.read_bytes()
    assert render_study(tmp_path / "one").html.read_bytes() == two.html.read_bytes()


@pytest.mark.parametrize(("place", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_failed_write_keeps_the_old_report_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str
) -> None:
    before = render_study(write_study(tmp_path)).html.read_bytes()
    names = sorted(path.name for path in tmp_path.iterdir())

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place, name, full)
    with pytest.raises(RunDirectoryError, match="No space left"):
        render_study(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def _rows(text: str, heading: str) -> list[list[str]]:
    block = text.split(f"### {heading}\n\n")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in block.splitlines()]


def test_markdown_tables_have_the_numbers_and_as_many_cells_in_every_row() -> None:
    text = study_markdown(ComparisonDocument.read(summary()))
    head, rule, *rows = _rows(text, "After 10 epoch-equivalents")
    assert rule[0].count("---") == len(head)
    assert all(len(row) == len(head) for row in rows)
    shown = {row[0].replace("\\", ""): row[1] for row in rows}
    wanted = {r["method"]: f"{100 * r['mean']:.2f} %" for r in summary()["results"] if r["budget"] == 10.0}
    assert shown == wanted


def test_markdown_has_no_html_of_the_study_and_starts_with_the_answer() -> None:
    text = study_markdown(ComparisonDocument.read(summary()))
    prose = text.replace(text.split("```")[1], "")
    assert "<script" not in prose.replace("\\<", "") and INJECTION in text.replace("\\", "")
    assert text.splitlines()[0].startswith("# Digits") and text.splitlines()[2].startswith("After 10")
    assert text.index("### After 10") < text.index("\n- After 10"), "bullets come after the table"


def test_a_command_with_backticks_stays_inside_its_fence() -> None:
    text = study_markdown(ComparisonDocument.read({**summary(), "command": "a ```` b"}))
    assert "`````sh\na ```` b\n`````" in text


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        ({"lr": {"1": 0.1, "10": 0.07}}, "lr 1: 0.1, 10: 0.07"),
        ({"lr": {"1": None}, "tuning": [{"budget": 1, "setting": "memory", "memory": 32}]}, "memory 1: 32"),
        ({"lr": None, "tuning": [{"budget": 1, "setting": None, "value": None, "trials": []}]}, "–"),
        ({"lr": None, "tuning": None}, "–"),
    ],
)
def test_the_tuned_setting_is_told_whatever_it_is(parts: dict[str, Any], shown: str) -> None:
    methods = [{"name": name, **parts} for name in METHODS]
    text = study_markdown(ComparisonDocument.read({**summary(), "methods": methods}))
    assert _rows(text, "The methods")[2] == ["lbfgs@0.1+full", "–", shown]


@pytest.mark.parametrize("ranks", [[{"method": "adam", "budget": 10, "rank": 2.5}], [], None])
def test_ranks_may_be_missing(ranks: Any) -> None:
    text = study_markdown(ComparisonDocument.read({**summary(), "ranks": ranks}))
    row = next(row for row in _rows(text, "After 10 epoch-equivalents") if row[0] == "adam")
    assert row[7] == ("2.5" if ranks else "–")


def test_terminal_text_has_verdict_results_and_failures() -> None:
    text = study_text(ComparisonDocument.read(summary()))
    assert all(name in text for name in METHODS)
    assert "Cells that failed" in text and summary()["verdict"][0] in text
