"""The settings of a study, and every mistake in one line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from subsetopt.compare.cells import CellMaker
from subsetopt.compare.config import make_study
from subsetopt.errors import UserError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("compare-*.toml"))


def test_texts_of_flags_become_lists() -> None:
    config = make_study({"methods": "adam, sgd", "budget": "1,3", "seeds": "2", "target": "0.5"}).config
    assert config.methods == ("adam", "sgd") and config.budget == (1.0, 3.0)
    assert config.seeds == (0, 1) and config.target == (0.5,)
    assert make_study({"seeds": "3,5"}).config.seeds == (3, 5)


def test_study_toml_is_a_study_file() -> None:
    study = make_study({"methods": "adam", "l2": 0.01, "model": "linear", "seeds": 2})
    assert make_study(study.to_toml()) == study


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"methds": "adam"}, "did you mean 'methods'?"),
        ({"subset_frac": 0.1}, "[[method]]"),
        ({"max_epochs": 3}, "set by the study itself"),
        ({"budget": "0"}, "above 0"),
        ({"budget": "one"}, "budget"),
        ({"seeds": "none"}, "must be a number of seeds"),
        ({"seeds": "1,1"}, "twice"),
        ({"seeds": "13-11"}, "must be a number of seeds"),
        ({"seeds": [0, 1_000_000]}, "tuning_seeds and seeds overlap"),
        ({"seeds": "7-9", "tuning_seeds": "9-11"}, "overlap in 9"),
        ({"seeds": 5, "tuning_seeds": [1_000_000]}, "tuning_seeds lists 1 for 5 seeds"),
        ({"tune": "l2"}, "must be rate, or rate,l2, or none"),
        ({"tune": 3}, "must be rate, or rate,l2, or none"),
        ({"methods": "adam,sgd", "baseline": "adm"}, "did you mean 'adam'?"),
        ({"tune": "rate,l2", "l2": 0.0}, "leaves 'lbfgs@0.1+full' nothing to search"),
        ({"method": [{"name": "mine", "l2": 0.1}]}, "it would minimise another objective"),
        ({"methods": "sgd", "handoff_weight_decay": 0.1}, "gives method 'sgd' another objective"),
        ({"method": [{"name": "mine", "handoff": "adamw", "handoff_weight_decay": 0.01}]}, "another objective"),
        ({"validation_fraction": 0.0}, "tuning needs held-out data"),
        ({"l2": -1}, "l2"),
        ({"methods": "adam,adam"}, "listed twice"),
        ({"method": [{"handoff": "adam"}]}, "has no name"),
        ({"method": [{"name": "mine", "seed": 3}]}, "cannot set it"),
        ({"method": [{"name": "mine", "handof": "adam"}]}, "did you mean 'handoff'?"),
    ],
)
def test_a_mistake_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        CellMaker(make_study(settings))
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_study_is_valid(path: Path) -> None:
    study = make_study(tomllib.loads(path.read_text()))
    assert path.stem.startswith("compare-") and study.shared["dataset"] in path.stem
    maker = CellMaker(study)
    for name in maker.methods:
        maker.cell(name, 1.0, 0, None)
