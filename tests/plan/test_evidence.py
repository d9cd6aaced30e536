"""What a plan does not recommend, and says of its laws, on made-up data and laws."""

from __future__ import annotations

from typing import Any

import torch

from subsetopt.data import dataset_from_arrays
from subsetopt.plan.evidence import limits_of, unsuited
from subsetopt.plan.laws import Law, Range
from subsetopt.plan.predictions import Prediction, recommend
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config


def told(targets: torch.Tensor) -> dict[str, str]:
    config = make_config({"model": "linear", "validation_fraction": 0.0})
    data = dataset_from_arrays(torch.randn(len(targets), 3), targets)
    return unsuited(prepare(config, dataset=data).data)


def classes(rows: int, rare: float, count: int = 2) -> torch.Tensor:
    """Return labels of which class 1 has the share `rare` and the others the rest alike."""
    few = round(rare * rows)
    others = torch.arange(rows - few) % (count - 1)
    return torch.cat([torch.ones(few), others + (others >= 1)]).long()


def test_the_stream_is_not_recommended_for_few_rows_or_a_rare_class() -> None:
    """The kinds of reports/held-out/stream.md: 4000 rows, and classes of 1 and 5 %."""
    assert "there are 3600 rows" in told(classes(4000, 0.5))["kfac-stream"]
    for rare in (0.01, 0.049):
        assert f"{100 * rare:.2g} % of the rows" in told(classes(20000, rare))["kfac-stream"]
    assert told(classes(20000, 0.24)) == {}, "adult's rarer class"
    assert told(classes(20000, 1 / 26, 26)) == {}, "letter's classes are alike, though each has 4 %"
    assert told(torch.randn(20000)) == {} and "kfac-stream" in told(torch.randn(3000))


def entry(strategy: str, samples: int, l2: float) -> Law:
    return Law(strategy, samples, l2, "units", (1.0,), (1.0,), (2.0,), "made up")


def test_a_prediction_says_where_its_laws_do_not_reach() -> None:
    laws = [entry("adam", 1000, 1e-3), entry("adam", 50_000, 1e-2), entry("sgd", 10, 1.0)]
    assert limits_of(laws, "adam", 1000, 1e-3) == [] and limits_of(laws, "adam", 100_000, 3e-2) == []
    assert limits_of(laws, "adam", 10**6, 1e-3) == [
        "adam was measured on 1000 to 50000 samples, here are 1000000: the prediction may miss"
    ]
    assert "here are 400" in limits_of(laws, "adam", 400, 1e-3)[0]
    assert limits_of(laws, "adam", 1000, 0.0) == [
        "the nearest L2 strength at which adam was measured is 0.001, here it is 0"
    ]
    assert limits_of(laws, "lbfgs on 70", 1, 5.0) == []


def test_what_is_unsuited_is_chosen_only_where_nothing_else_is_known() -> None:
    def row(name: str, cost: float | None) -> Prediction:
        units: Any = None if cost is None else Range(cost, cost)
        return Prediction(name, "", units, units, units, ())

    rows = [row("kfac-stream", 1.0), row("sgd", 5.0), row("adam", None)]
    cheapest, suited = recommend(rows, "units"), recommend(rows, "units", {"kfac-stream": "why"})
    assert cheapest is not None and cheapest.strategy == "kfac-stream"
    assert suited is not None and suited.strategy == "sgd"
    alone = recommend(rows[::2], "units", {"kfac-stream": "why"})
    assert alone is not None and alone.strategy == "kfac-stream"
