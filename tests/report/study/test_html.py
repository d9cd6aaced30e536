"""The page: its structure, its numbers against summary.json, and nothing that runs or loads from elsewhere."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subsetopt.report.palette import LINE_COLOURS
from subsetopt.report.study.report import render_study
from tests.report.study.study_fixture import BUDGETS, COLUMNS, INJECTION, METHODS, NEVER, summary, write_study

_VOID = {"meta", "wbr", "br", "link", "img", "input"}


class Page(HTMLParser):
    """Collects elements and tables; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[tuple[str, dict[str, str | None]]]]] = {}
        self.text = ""
        self._open: list[str] = []
        self._rows: list[list[tuple[str, dict[str, str | None]]]] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows = self.tables.setdefault(attributes["aria-label"] or "", [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append(("", attributes))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open or "script" in self._open:
            return
        self.text += data
        if "table" in self._open and {"td", "th"} & set(self._open):
            text, attributes = self._rows[-1][-1]
            self._rows[-1][-1] = (text + data, attributes)

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of the page."""
    return render_study(write_study(tmp_path_factory.mktemp("study"))).html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    """The page, parsed."""
    return Page(source)


def _column(page: Page, table: str, title: str) -> dict[str, tuple[str, dict[str, str | None]]]:
    head, *rows = page.tables[table]
    index = [text for text, _ in head].index(title)
    return {row[0][0]: row[index] for row in rows}


def test_one_heading_of_the_first_rank_and_every_link_has_its_target(page: Page) -> None:
    assert page.count("h1") == 1 and page.count("main") == 1 and page.count("title") >= 1
    targets = {attributes.get("id") for _, attributes in page.tags}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 10 and {str(link).removeprefix("#") for link in links} <= targets


def test_every_table_has_column_and_row_headers_and_a_name(page: Page) -> None:
    assert len(page.tables) == page.count("table")
    for name, (head, *rows) in page.tables.items():
        assert name and rows
        assert all(attributes.get("scope") == "col" for _, attributes in head)
        assert all(row[0][1].get("scope") == "row" and len(row) == len(head) for row in rows)


def test_nothing_is_loaded_from_anywhere(source: str, page: Page) -> None:
    assert not re.search(r"https?:|//[a-z]|url\(|@import", source)
    assert not any(key in ("src", "srcset", "data", "action") for _, attributes in page.tags for key in attributes)
    assert {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object"} == set()


def test_names_and_errors_of_the_study_are_text_and_never_markup(source: str, page: Page) -> None:
    assert page.count("script") == 1, "the page's own"
    assert INJECTION in page.text and "<b>diverged</b>" in page.text
    assert "<script>alert" not in source and "<b>" not in source
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)


@pytest.mark.parametrize("budget", BUDGETS)
def test_results_show_the_numbers_of_the_summary(page: Page, budget: float) -> None:
    table = f"After {budget:g} epoch-equivalent{'' if budget == 1 else 's'}"
    rows = {row["method"]: row for row in summary()["results"] if row["budget"] == budget}
    for title, key in (
        ("Test accuracy", "mean"),
        ("Test loss", "loss_mean"),
        ("Cost", "cost_mean"),
        ("Seconds", "seconds_mean"),
        ("Cost with tuning", "cost_including_tuning"),
    ):
        shown = _column(page, table, title)
        assert {name: float(str(attributes["data-sort"])) for name, (_, attributes) in shown.items()} == {
            name: pytest.approx(row[key], rel=1e-6) for name, row in rows.items()
        }
    for name, (text, _) in _column(page, table, "Test accuracy").items():
        assert text.replace("\xa0", " ") == f"{100 * rows[name]['mean']:.2f} %"
    for name, (text, _) in _column(page, table, "95\xa0% interval").items():
        assert text == "{:.2f} to {:.2f}".format(*(100 * limit for limit in rows[name]["interval"]))
    accuracies = [rows[row[0][0]]["mean"] for row in page.tables[table][1:]]
    assert accuracies == sorted(accuracies, reverse=True), "best first"


def test_the_test_over_all_ranks_stands_under_its_table(page: Page) -> None:
    assert page.text.count("Friedman's test") == len(BUDGETS)
    assert "p = 0.031." in page.text and "p = 0.01." in page.text


def test_a_failed_cell_shows_in_the_count_of_seeds_and_among_the_failures(page: Page) -> None:
    seeds = [text for text, _ in _column(page, "After 10 epoch-equivalents", "Seeds").values()]
    assert seeds.count("4 of 5") == 1 and seeds.count("5") == len(METHODS) - 1
    (failure,) = summary()["failures"]
    assert [text for text, _ in page.tables["Cells that failed"][1]] == [failure["cell"], failure["error"]]


def test_the_matrix_agrees_with_every_comparison_seen_from_both_sides(page: Page) -> None:
    marks = {"better": "▲", "worse": "▼", "no difference": "="}
    opposite = {"better": "worse", "worse": "better"}
    for budget in BUDGETS:
        label = f"Test accuracy after {budget:g} epoch-equivalent{'' if budget == 1 else 's'}: row against column"
        head, *rows = page.tables[label]
        cells = {(row[0][0], head[i][0]): row[i][0] for row in rows for i in range(1, len(head))}
        for row in (row for row in summary()["comparisons"] if row["budget"] == budget):
            verdict = row["verdict"]
            assert cells[row["a"], row["b"]][0] == marks[verdict]
            assert cells[row["b"], row["a"]][0] == marks[opposite.get(verdict, verdict)]
    shown = [text for text, _ in _column(page, "Every paired comparison", "A is").values()]
    assert set(shown) <= set(marks)
    assert len(page.tables["Every paired comparison"]) == 1 + len(summary()["comparisons"])


def test_the_answer_comes_first_then_a_table_and_bullets_only_after_it(source: str) -> None:
    body = source[source.index("<main>") :]
    answer, table, bullets = (body.index(text) for text in ('<p class="answer">', "<table", "<li>"))
    assert answer < table < bullets
    sentences = re.split(r"(?<=\.) (?=[A-Z])", body[answer : body.index("</p>")])
    assert 1 <= len(sentences) <= 2
    assert re.search(r'<table aria-label="([^"]+)"', body).group(1) == "After 10 epoch-equivalents"  # type: ignore[union-attr]  # found above


def test_a_method_that_never_reaches_the_target_says_so(page: Page) -> None:
    table = _column(page, "Until the held-out loss first reaches 0.3", "Cost")
    assert table[NEVER][0] == "never" and "data-sort" not in table[NEVER][1]
    wanted = {r["method"]: r["cost_mean"] for r in summary()["time_to_target"] if r["target"] == 0.3 and r["reached"]}
    assert {n: float(str(a["data-sort"])) for n, (_, a) in table.items() if n != NEVER} == pytest.approx(wanted)


def test_tuning_stands_apart_with_every_rate_that_was_tried(page: Page) -> None:
    tried = page.tables["Every value that was tried"]
    assert len(tried) == 1 + 4 * len(METHODS) * len(BUDGETS)
    shown = [[text for text, _ in row] for row in tried if row[0][0] in ("adam", "lbfgs@0.1+srs") and row[1][0] == "3"]
    assert [row[2:4] + row[5:] for row in shown] == [
        [setting, value, "taken" if value == "0.01" else ""]
        for setting in ("solve_share", "lr")
        for value in ("0.003", "0.01", "0.03", "0.1")
    ]
    assert [row[4] for row in shown][3] == "not finite"
    rows = {(r["method"], r["budget"]): r["cost_including_tuning"] - r["cost_mean"] for r in summary()["results"]}
    for name, (_, attributes) in _column(page, "Cost of tuning in epoch-equivalents", "Budget 10").items():
        assert float(str(attributes["data-sort"])) == pytest.approx(rows[name, 10.0])


def test_a_study_with_only_what_it_must_have_renders(tmp_path: Path) -> None:
    content: dict[str, Any] = {key: summary()[key] for key in ("methods", "budgets", "results")}
    write_study(tmp_path, {**content, "metric": "mse", "higher_is_better": False})
    (tmp_path / "curves.csv").unlink()
    page = Page(render_study(tmp_path).html.read_text(encoding="utf-8"))
    assert page.count("h1") == 1
    assert "Which differences are noise" not in page.text and "Failures" not in page.text


HOSTILE = (
    "<script>alert(1)</script>",
    '" onload="alert(1)',
    "' x='1",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "a&amp;b",
    "5 % of <i>",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_a_study_names_is_shown_as_it_was_written(tmp_path: Path, name: str) -> None:
    """In a heading, an attribute, a table and the key; reference: an HTML parser gives the text back."""
    text = json.dumps(summary()).replace(json.dumps("sgd"), json.dumps(name))
    content = {**json.loads(text), "verdict": [name], "failures": [{"cell": name, "error": name}]}
    page = Page(render_study(write_study(tmp_path, content)).html.read_text(encoding="utf-8"))
    shown = page.text.replace("\xa0", " ")
    assert shown.count(name) >= 5 and page.count("script") == 1
    assert [text.replace("\xa0", " ") for text, _ in page.tables["Cells that failed"][1]] == [name, name]
    assert name in [attributes.get("title") for tag, attributes in page.tags if tag == "button"]
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert not any("x" in attributes for tag, attributes in page.tags if tag == "button")


def test_a_study_of_four_methods_stays_under_300_kilobytes(tmp_path: Path) -> None:
    for file in ("summary.json", "curves.csv"):
        shutil.copy(Path(__file__).parents[3] / "reports" / "compare-mnist-relu" / file, tmp_path)
    assert render_study(tmp_path).html.stat().st_size <= 300_000


def test_every_template_is_compiled_with_escaping() -> None:
    """Only rendered sections, drawn pictures and our own style and script are taken as they are."""
    folder = files("subsetopt.report") / "templates"
    safe = {
        entry.name: re.findall(r"([\w.()\"<>]+) \| safe", entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".html")
    }
    assert safe == {
        "study.html": ["style", "section.content", "script"],
        "summary.html": [],
        "details.html": [],
        "tables.html": ['"<wbr>"'],
        "pictures.html": ["key_sample(index)", "picture.svg"],
    }


def test_a_page_of_thirteen_methods_with_long_curves_stays_under_300_kilobytes(tmp_path: Path) -> None:
    content, names = summary(), [f"lbfgs@0.0{index}+adam" for index in range(10, 23)]
    rng = np.random.default_rng(4)
    pairs = list(itertools.combinations(names, 2))
    comparison, row, tuning = content["comparisons"][0], content["results"][0], content["methods"][0]["tuning"]
    content |= {
        "methods": [{"name": name, "tuning": tuning} for name in names],
        "results": [{**row, "method": name, "budget": b, "cost_mean": b} for name in names for b in BUDGETS],
        "time_to_target": [],
        "ranks": [],
        "comparisons": [
            {**comparison, "a": a, "b": b, "budget": budget, "metric": metric}
            for a, b in pairs
            for budget in BUDGETS
            for metric in ("accuracy", "loss")
        ],
    }
    write_study(tmp_path, content)
    with (tmp_path / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, budget, seed in itertools.product(names, BUDGETS, range(3)):
            costs = np.linspace(0.0, budget, 150)
            losses = np.exp(-costs / 2 + 0.2 * rng.standard_normal(150))
            kinds = ["subset"] * 50 + ["train"] * 50 + ["validation"] * 50
            for i, (cost, loss, kind) in enumerate(zip(costs, losses, kinds, strict=True)):
                writer.writerow((name, budget, seed, cost, cost * (1 + i / 99), loss, kind, 0, np.exp(-loss)))
    report = render_study(tmp_path)
    assert 100_000 < report.html.stat().st_size <= 300_000
    cut = report.html.read_text(encoding="utf-8")
    assert f"The first 100 of {6 * len(pairs)} rows; report.md has all of them." in cut
    assert report.markdown.read_text(encoding="utf-8").count("\n| lbfgs@0.010+adam | lbfgs") >= 6 * 12


def test_one_method_and_one_seed_are_in_the_singular(tmp_path: Path) -> None:
    content = summary()
    first = content["methods"][0]
    own = [row for row in content["results"] if row["method"] == first["name"]]
    content |= {"methods": [first], "results": own, "comparisons": [], "ranks": [], "time_to_target": [], "seeds": 1}
    page = Page(render_study(write_study(tmp_path, content)).html.read_text(encoding="utf-8"))
    assert "1 method, 1 seed" in page.text and not re.search(
        r"(?<![\d.])1 (methods|seeds|cells|epoch-equivalents)\b", page.text
    )


def _luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.2, of a colour as #rrggbb."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_line_colour_has_a_contrast_of_four_and_a_half_on_its_paper() -> None:
    """Reference: WCAG 2.2, success criterion 1.4.3; light, dark and print."""
    assert _contrast("#ffffff", "#000000") == pytest.approx(21) and _contrast("#ffffff", "#777777") < 4.5
    style = (files("subsetopt.report") / "templates" / "study.css").read_text(encoding="utf-8")
    themes = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    assert len(themes) == 3
    for theme in themes:
        paper = re.search(r"--paper: (#\w+)", theme)
        assert paper is not None
        white = paper[1] if len(paper[1]) == 7 else "#" + "".join(2 * c for c in paper[1][1:])
        lines = re.findall(r"--c\d: (#\w{6})", theme)
        assert len(set(lines)) == 9
        assert min(_contrast(line, white) for line in lines) >= 4.5
    assert list(LINE_COLOURS) == re.findall(r"--c\d: (#\w{6})", themes[0])[: len(LINE_COLOURS)]
