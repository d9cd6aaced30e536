"""The search for a method's setting, on functions whose minimum is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from subsetopt.compare.knobs import START, Knob, best_index, knob_of, next_index
from subsetopt.compare.methods import parse_method
from subsetopt.training.settings.run import make_config


def _search(score: Callable[[float], float], knob: Knob, limit: int = 4) -> dict[int, float]:
    scores = {index: score(knob.value(index)) for index in START}
    while (index := next_index(scores, knob, limit)) is not None:
        scores[index] = score(knob.value(index))
    return scores


def test_the_grid_grows_until_the_best_lies_inside() -> None:
    scores = _search(lambda lr: (math.log10(lr) - math.log10(0.03)) ** 2, Knob("lr", 1e-3))
    assert sorted(scores) == [-1, 0, 1, 2, 3, 4] and best_index(scores) == 3


def test_a_best_value_inside_needs_no_extension_and_the_limit_holds() -> None:
    assert sorted(_search(lambda lr: abs(math.log10(lr) + 3), Knob("lr", 1e-3))) == [-1, 0, 1]
    assert len(_search(lambda lr: lr, Knob("lr", 1e-3), limit=2)) == 5


def test_divergence_leads_to_smaller_rates() -> None:
    scores = _search(lambda lr: math.inf if lr > 1e-4 else 1.0 - lr, Knob("lr", 1e-3))
    assert Knob("lr", 1e-3).value(best_index(scores)) == pytest.approx(1e-4)


def test_a_setting_without_effect_keeps_its_default() -> None:
    scores = _search(lambda _: 2.5, Knob("memory", 32.0, whole=True))
    assert sorted(scores) == [-1, 0, 1] and best_index(scores) == 0


def test_a_logit_grid_stays_between_zero_and_one_and_whole_numbers_stay_whole() -> None:
    share = Knob("solve_share", 0.5, "logit")
    assert [share.value(index) for index in (-2, -1, 0, 1, 2)] == [0.1, 0.25, 0.5, 0.75, 0.9]
    memory = Knob("memory", 1.0, whole=True)
    assert memory.value(-1) == memory.value(-2) == 1
    assert next_index({-1: 0.0, 0: 1.0, 1: 2.0}, memory, 4) is None, "smaller than one pair there is none"


@pytest.mark.parametrize(
    ("name", "knob"),
    [
        ("adam", "lr"),
        ("srs@0.1", "lr"),
        ("lbfgs@0.1+srs", "lr"),
        ("lbfgs@0.1+full", "solve_share"),
        ("lbfgs", "memory"),
        ("lbfgs@0.1", "memory"),
        ("lbfgs@0.01x2+sgd", "lr"),
        ("lbfgs@0.01x2", "noise_theta"),
        ("newton-cg", "forcing"),
        ("ncg", "curvature"),
    ],
)
def test_every_method_has_one_knob(name: str, knob: str) -> None:
    found = knob_of(make_config(parse_method(name).settings).phases(), 0.5)
    assert found is not None and found.name == knob


def test_a_reference_solver_has_none() -> None:
    assert knob_of(make_config(parse_method("scipy:BFGS").settings).phases(), 0.5) is None
