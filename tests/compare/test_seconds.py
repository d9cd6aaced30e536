"""What a comparison says of seconds beside units, from figures made up for the purpose."""

from __future__ import annotations

import pytest

from subsetopt.compare.seconds import seconds_sentence, seconds_tests, target_agreement
from subsetopt.compare.verdicts import sentences
from subsetopt.documents.comparison import ComparisonDocument, TimeToTarget
from tests.compare.test_verdicts import MEANS, summary

BEST = "lbfgs"


def with_seconds(seconds: dict[str, list[float]], unit: str = "epoch-equivalents") -> ComparisonDocument:
    content = summary()
    for row in content["results"]:
        row["seconds_mean"] = sum(seconds[row["method"]]) / len(seconds[row["method"]])
    tests = seconds_tests({name: dict(enumerate(values)) for name, values in seconds.items()}, 2.0)
    return ComparisonDocument.read({
        **content, "budget_unit": unit, "seconds_comparisons": [test.model_dump(mode="json") for test in tests],
    })  # fmt: skip


def said(document: ComparisonDocument) -> list[str]:
    best = next(row for row in document.results if row.method == BEST)
    return seconds_sentence(document, best, document.results)


def around(mean: float) -> list[float]:
    return [mean * (1 + 0.01 * step) for step in (-2, 0, 1, 1)]


def test_a_best_method_that_took_longer_is_said_to_have() -> None:
    """By hand: adam takes a quarter of the time of lbfgs in all four seeds, with a spread of 1 %."""
    document = with_seconds(
        {"kfac-stream": around(9), "adam": around(1), "lbfgs@0.2+full": around(5), "lbfgs": around(4)}
    )
    (sentence,) = said(document)
    assert sentence.startswith("A run took 1 s (adam) to 9 s (kfac-stream), lbfgs 4 s. Cost and seconds disagree")
    assert "(adam 0.25)" in sentence and "--budget-unit seconds" in sentence
    assert sentence in sentences(document)


@pytest.mark.parametrize("adam", [[0.1, 7.0, 2.0, 6.9], [6.0, 6.1, 6.2, 6.1]])
def test_no_disagreement_is_claimed_by_chance_or_where_the_best_is_the_fastest(adam: list[float]) -> None:
    (sentence,) = said(with_seconds({**dict.fromkeys(MEANS, around(9)), "lbfgs": around(4), "adam": adam}))
    assert "disagree" not in sentence and sentence.endswith("no method was significantly faster than lbfgs.")


def test_budgets_in_seconds_and_files_without_seconds_say_nothing() -> None:
    assert said(with_seconds({name: around(2) for name in MEANS}, "seconds")) == []
    assert said(ComparisonDocument.read(summary())) == []


def test_a_target_reached_cheapest_and_fastest_by_two_methods_is_a_disagreement() -> None:
    a, b = (TimeToTarget(method=name, target=0.5, cost_mean=1.0, seconds_mean=1.0) for name in ("adam", "lbfgs"))
    assert target_agreement(a, a) == "" and "disagree" in target_agreement(a, b)
