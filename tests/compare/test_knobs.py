"""The search for a method's setting, on functions whose minimum is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from subsetopt.compare.knobs import Knob, best_index, decay_knob, is_inside, knob_of, next_index, start_grid
from subsetopt.compare.methods import parse_method
from subsetopt.training.settings.run import make_config


def _search(score: Callable[[float], float], knob: Knob, trials: int = 7) -> dict[float, float]:
    scores = {index: score(knob.value(index[0])) for index in start_grid(1)}
    while (index := next_index(scores, (knob,), trials)) is not None:
        scores[index] = score(knob.value(index[0]))
    return {index[0]: found for index, found in scores.items()}


def _best(scores: dict[float, float]) -> float:
    return best_index({(index,): score for index, score in scores.items()})[0]


def test_the_grid_grows_until_the_best_lies_inside_and_then_narrows() -> None:
    scores = _search(lambda lr: (math.log10(lr) - math.log10(0.03)) ** 2, Knob("lr", 1e-3))
    assert sorted(scores) == [-1, 0, 1, 2, 2.5, 3, 4] and _best(scores) == 3


@pytest.mark.parametrize("optimum", [-9.0, -4.1, -3.0, -2.2, 3.0])
def test_every_search_has_the_same_number_of_trials(optimum: float) -> None:
    scores = _search(lambda lr: abs(math.log10(lr) - optimum), Knob("lr", 1e-3))
    assert len(scores) == 7
    nearest = min(scores, key=lambda index: abs(math.log10(Knob("lr", 1e-3).value(index)) - optimum))
    assert _best(scores) == nearest


def test_divergence_leads_to_smaller_rates() -> None:
    scores = _search(lambda lr: math.inf if lr > 1e-4 else 1.0 - lr, Knob("lr", 1e-3), trials=5)
    assert Knob("lr", 1e-3).value(_best(scores)) == pytest.approx(1e-4)


def test_a_setting_without_effect_keeps_its_default() -> None:
    scores = _search(lambda _: 2.5, Knob("memory", 32.0, whole=True))
    assert len(scores) == 7 and _best(scores) == 0


def test_of_equal_scores_the_middle_of_the_grid_wins() -> None:
    assert best_index({(-1.0,): 2.0, (0.0,): 1.0, (1.0,): 1.0, (2.0,): 1.0, (3.0,): 2.0}) == (1.0,)


def test_a_logit_grid_stays_between_zero_and_one_and_whole_numbers_stay_whole() -> None:
    share = Knob("solve_share", 0.5, "logit")
    assert [share.value(index) for index in (-2, -1, 0, 1, 2)] == [0.1, 0.25, 0.5, 0.75, 0.9]
    memory = Knob("memory", 1.0, whole=True)
    assert memory.value(-1) == memory.value(-2) == 1
    tried = [memory.value(index) for index in _search(lambda value: value, memory, trials=4)]
    assert sorted(set(tried)) == [1, 2, 3, 6] or len(set(tried)) == 4, (
        "smaller than one pair there is none: larger ones"
    )


def test_two_knobs_are_searched_on_a_grid_with_as_many_trials_for_every_optimum() -> None:
    """Reference: a quadratic in the logarithms, with its minimum beyond the first grid, or in its middle."""
    knobs = (Knob("lr", 1e-3), Knob("l2", 1e-3, factor=10.0))
    for optimum in ((2.0, 0.0), (0.0, -2.0), (0.0, 0.0)):
        scores = {index: _far(index, optimum) for index in start_grid(2)}
        while (index := next_index(scores, knobs, 13)) is not None:
            scores[index] = _far(index, optimum)
        assert len(scores) == 13 and best_index(scores) == optimum and is_inside(scores)


def _far(index: tuple[float, ...], optimum: tuple[float, ...]) -> float:
    return sum((at - best) ** 2 for at, best in zip(index, optimum, strict=True))


@pytest.mark.parametrize(
    ("name", "l2", "knob"),
    [("adam", 1e-3, ("l2", 1e-3)), ("lbfgs@0.1+full", 0.1, ("l2", 0.1)), ("adamw", 1e-3, ("weight_decay", 0.01))],
)
def test_the_regularisation_of_a_method_is_its_l2_or_its_decoupled_decay(
    name: str, l2: float, knob: tuple[str, float]
) -> None:
    found = decay_knob(make_config(parse_method(name).settings).phases()[-1], l2, name)
    assert (found.name, found.centre) == knob and found.value(1) == pytest.approx(10 * found.centre)


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
