"""One objective in a study: decoupled decay gives way to the common L2, or every method tunes its own strength."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from subsetopt.compare.cells import CellMaker
from subsetopt.compare.config import make_study
from subsetopt.compare.run import run_comparison
from subsetopt.compare.summary import _objective
from tests.compare.conftest import SMALL


def _phases(settings: dict[str, Any], name: str, values: dict[str, float] | None = None) -> Any:
    return CellMaker(make_study({**SMALL, **settings})).cell(name, 2.0, 0, values).config


def test_every_first_order_phase_has_the_l2_of_the_study_in_its_gradient() -> None:
    methods = "adam,adamw,sgd,lbfgs@0.2+adamw,lbfgs"
    for name in methods.split(","):
        last = _phases({"methods": methods, "l2": 0.1}, name).phase[-1]
        assert last.coupled_l2 == name.endswith("adamw") and last.weight_decay is None
    table = {"name": "started", "warmup": "adamw", "solver": "lbfgs", "handoff": "none"}
    assert _phases({"method": [table]}, "started").phase[0].coupled_l2


def test_where_regularisation_is_tuned_a_decoupled_decay_is_its_own_knob() -> None:
    settings = {"methods": "adam,adamw,lbfgs@0.2+full", "tune": "rate,l2"}
    adamw = _phases(settings, "adamw", {"lr": 0.01, "weight_decay": 0.1})
    assert adamw.phase[-1].weight_decay == 0.1 and not adamw.phase[-1].coupled_l2 and adamw.l2 == 1e-3
    for name in ("adam", "lbfgs@0.2+full"):
        assert _phases(settings, name, {"l2": 0.01}).l2 == 0.01
    maker = CellMaker(make_study({**SMALL, **settings}))
    knobs = {name: [knob.name for knob in found] for name, found in maker.knobs.items()}
    assert knobs["adam"] == ["lr", "l2"] and knobs["adamw"] == ["lr", "weight_decay"]
    assert knobs["lbfgs@0.2+full"] == ["solve_share", "l2"]


def test_adam_and_adamw_are_one_method_without_decoupled_decay_and_the_study_says_so(tmp_path: Path) -> None:
    settings = {**SMALL, "methods": "adam,adamw,sgd", "budget": "0.5", "tune": False, "baseline": "sgd"}
    summary = run_comparison(make_study(settings), tmp_path / "a").content()
    values = {row["method"]: row["values"] for row in summary["results"]}
    assert values["adam"] == values["adamw"] != values["sgd"]
    assert any(line.startswith("adam and adamw gave the same results") for line in summary["verdict"])
    assert summary["objective"]["kind"] == "same" and summary["objective"]["text"] in summary["verdict"]
    assert [(row["a"], row["b"]) for row in summary["comparisons"][:2]] == [("adam", "sgd"), ("adamw", "sgd")]


def test_rate_and_l2_are_searched_by_as_many_trials_for_every_method(tmp_path: Path) -> None:
    settings = {**SMALL, "methods": "adamw,sgd", "budget": "0.3", "tune": "rate,l2", "max_extensions": 1}
    summary = run_comparison(make_study(settings), tmp_path / "a").content()
    searches = {method["name"]: method["tuning"] for method in summary["methods"]}
    assert {len(search["trials"]) for found in searches.values() for search in found} == {10}
    assert {search["decay_setting"] for search in searches["adamw"]} == {"weight_decay"}
    assert {search["decay_setting"] for search in searches["sgd"]} == {"l2"}
    assert summary["objective"]["kind"] == "tuned" and "tuned its regularisation" in summary["objective"]["text"]


def test_a_loss_of_its_own_is_said_beside_the_common_objective() -> None:
    settings = {"methods": "adam,lbfgs", "handoff_label_smoothing": 0.1}
    objective = _objective(CellMaker(make_study({**SMALL, **settings})))
    assert objective.text.endswith("Label smoothing or augmentation changes what these train on: adam.")
