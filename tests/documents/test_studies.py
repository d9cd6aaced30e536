"""Documents of studies: the files of version 0.1 under reports/ are read whole, and what is malformed is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from subsetopt.documents.base import Document, problem
from subsetopt.documents.comparison import ComparisonDocument, ComparisonEntry, ResultEntry, TuningSearch
from subsetopt.documents.representativeness import RepresentativenessDocument
from tests.report.study.study_fixture import summary

KINDS: dict[str, type[Document]] = {
    "compare": ComparisonDocument,
    "representativeness": RepresentativenessDocument,
}
STORED = sorted((Path(__file__).parents[2] / "reports").rglob("summary.json"))
OF_TUNING = {"grid", "scores"}  # once beside the trials, which hold the same


def _representativeness() -> Any:
    return next(content for path in STORED if (content := json.loads(path.read_text()))["kind"] == "representativeness")


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.parent.name)
def test_a_stored_study_reads_and_writes_what_it_held(path: Path) -> None:
    stored = json.loads(path.read_text())
    written = KINDS[stored["kind"]].read(stored).content()
    for method in stored.get("methods", ()):
        for search in method["tuning"]:
            name = search["setting"] or "value"
            search["value"] = search.pop(name) if name in search else search["value"]
            of_old = [{"value": trial[name], "score": trial["score"]} for trial in search["trials"] if name in trial]
            search["trials"] = of_old or search["trials"]
            for entry in OF_TUNING:
                search.pop(entry, None)
    assert written == stored
    assert KINDS[stored["kind"]].read(written).content() == written


def test_both_kinds_are_among_the_stored() -> None:
    assert {json.loads(path.read_text())["kind"] for path in STORED} == set(KINDS)


def test_what_a_study_writes_has_no_unknown_entry_and_no_infinity() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        ResultEntry(method="adam", budget=1.0, metric="mse", men=0.5)  # type: ignore[call-arg]  # the mistake tested
    row = ResultEntry(method="adam", budget=1.0, metric="mse", mean=float("inf"), interval=(float("nan"), 1.0))
    assert row.content() == {"method": "adam", "budget": 1.0, "metric": "mse", "mean": None, "interval": [None, 1.0]}


def test_values_of_a_search_are_read_under_the_name_of_their_setting() -> None:
    search = TuningSearch.read({"budget": 1, "setting": "rate", "rate": 0.3, "trials": [{"rate": 0.3, "score": None}]})
    assert (search.value, search.trials[0].value, search.trials[0].score) == (0.3, 0.3, None)


def test_a_difference_turned_round_has_the_other_sign_and_verdict() -> None:
    pair = ComparisonEntry(
        a="x", b="y", difference=2.0, interval=(1.0, 3.0), verdict="better", budget=1.0, metric="mse"
    )
    turned = pair.reversed()
    assert (turned.a, turned.b, turned.difference, turned.interval) == ("y", "x", -2.0, (-3.0, -1.0))
    assert turned.verdict == "worse" and turned.reversed() == pair


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ranks": [{"method": "nobody", "budget": 1, "rank": 2}]}, "method 'nobody' is not listed"),
        ({"comparisons": [{"a": "adam", "b": "x", "budget": 1, "metric": "mse", "verdict": "worse"}]}, "'x' is not"),
        ({"methods": [{"name": "adam"}, {"name": "adam"}]}, "two have the same name"),
        ({"budgets": []}, "budgets: list should have at least 1"),
        ({"budgets": [True]}, "budgets.0"),
        ({"versions": {"torch": ["2"]}}, "versions.torch"),
        ({"methods": [{"name": "adam", "tuning": [{"budget": 1, "trials": [7]}]}]}, "methods.0.tuning.0.trials.0"),
        ({"methods": [{"name": "adam", "lr": {"1": "0.1"}}]}, "methods.0.lr.1"),
    ],
)
def test_a_malformed_entry_of_a_comparison_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ComparisonDocument.read({**summary(), **change})
    assert said in problem(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parameters": 0}, "parameters"),
        ({"outputs": None}, "outputs"),
        ({"results": []}, "results"),
        ({"metric": "f1"}, "metric"),
        ({"seeds": ["0"]}, "seeds.0"),
    ],
)
def test_a_malformed_entry_of_a_representativeness_study_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RepresentativenessDocument.read({**_representativeness(), **change})
    assert problem(caught.value).startswith(said)


def test_figures_without_the_full_set_are_refused() -> None:
    content = _representativeness()
    with pytest.raises(ValidationError, match="those of the full set"):
        RepresentativenessDocument.read({**content, "results": content["results"][:-1]})
