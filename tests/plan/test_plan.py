"""Plans from hand-made laws, speeds and pilots whose costs can be reckoned by hand, and from a false clock."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from subsetopt.analysis.excess import samples_for_excess
from subsetopt.documents.plan import PlanDocument
from subsetopt.errors import SettingError
from subsetopt.plan.laws import Law, Range, cost_of, pilot_range, shipped_laws
from subsetopt.plan.pilot import STREAM_BATCH, Pilot, Speeds, measure_speeds, run_pilot
from subsetopt.plan.plan import _why, make_plan
from subsetopt.plan.predictions import SUBSET_LEVEL, PlannedRun, Prediction, lbfgs_units, predict, recommend, strategies
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config

LEVELS = (1.0, 0.1, 0.01)
SPEEDS = Speeds(unit=2.0, hvp=4.0, ggnvp=3.0, step=0.01, small_gradient=0.02, held_out=0.1)


def law(strategy: str, low: tuple[Any, ...], samples: int = 1000, **settings: Any) -> Law:
    given = {"l2": 1e-3, "unit": "units", "high": tuple(None if x is None else 2 * x for x in low), **settings}
    return Law(strategy, samples, levels=LEVELS, low=low, source=f"{strategy} at {samples}", **given)


LAWS = (
    law("lbfgs", (10.0, 20.0, 40.0)),
    law("sgd", (2.0, 8.0, None)),
    law("grow", (0.5, 0.5, 0.25), unit="share", high=(0.5, 0.5, 0.5)),
    law("kfac-stream", (1.0, None, None), calls=30.0),
    law("kfac-stream+lbfgs", (0.3, 0.6, 0.6), unit="share", high=(0.3, 0.6, 0.6)),
)


def pilot(converged: bool = True) -> Pilot:
    curve = ((1, 4.0), (5, 1.5), (9, 1.05), (12, 1.0))
    return Pilot(
        100, curve, converged, loss=0.9, penalty=0.1, held_out=1.9, overhead=0.5, epoch_equivalents=1.2, seconds=3.0
    )


def problem(excess: float = 0.1, with_pilot: Pilot | None = None, samples: int = 1000) -> PlannedRun:
    return PlannedRun(samples, 1e-3, excess, SPEEDS, with_pilot, "--dataset d")


def test_a_law_is_log_log_between_levels_and_silent_beyond_what_was_reached() -> None:
    full, sgd = LAWS[0], LAWS[1]
    assert full.at(0.1) == pytest.approx(Range(20.0, 40.0)) and full.at(5.0) == pytest.approx(Range(10.0, 20.0))
    halfway = full.at(math.sqrt(0.1 * 0.01))
    assert halfway is not None and halfway.low == pytest.approx(math.sqrt(20 * 40))
    assert full.at(0.005) is None and sgd.at(0.05) is None and sgd.at(0.1) == pytest.approx(Range(8.0, 16.0))


def test_between_sizes_the_cost_is_interpolated_and_the_nearest_strength_counts() -> None:
    laws = (law("lbfgs", (10.0,) * 3), law("lbfgs", (40.0,) * 3, 100_000), law("lbfgs", (7.0,) * 3, l2=1.0))
    assert cost_of(laws, "lbfgs", 0.1, 500, 1e-4)[0] == pytest.approx(Range(10.0, 20.0))
    middle, used = cost_of(laws, "lbfgs", 0.1, 10_000, 1e-4)
    assert middle is not None and middle.low == pytest.approx(20.0) and set(used) == set(laws[:2])
    assert cost_of(laws, "lbfgs", 0.1, 10**6, 1e-4)[0] == pytest.approx(Range(40.0, 80.0))
    assert cost_of(laws, "lbfgs", 0.1, 1000, 0.5)[0] == pytest.approx(Range(7.0, 14.0))
    assert cost_of(laws, "lbfgs", 0.1, 1000, 0.0)[0] == pytest.approx(Range(10.0, 20.0))
    assert cost_of(laws, "adam", 0.1, 1000, 1e-3) == (None, ())
    shallow = (laws[0], law("lbfgs", (40.0, None, None), 100_000))
    assert cost_of(shallow, "lbfgs", 0.1, 50_000, 1e-4)[0] is None, "the nearest size did not reach it"
    assert cost_of(shallow, "lbfgs", 0.1, 2000, 1e-4) == (laws[0].at(0.1), (laws[0],))


def test_costs_without_a_pilot_are_those_of_the_laws_times_the_speeds() -> None:
    found = {prediction.strategy: prediction for prediction in predict(problem(), LAWS)}
    assert list(found) == [strategy.name for strategy in strategies()]
    assert found["lbfgs"].units == pytest.approx(Range(20.0, 40.0)) and found["lbfgs"].seconds == pytest.approx(
        Range(40.0, 80.0)
    )
    assert found["grow"].units == pytest.approx(Range(10.0, 20.0)) and found["grow"].calls == pytest.approx(
        Range(20.0, 40.0)
    )
    both = found["kfac-stream+lbfgs"]
    assert both.units == pytest.approx(Range(12.0, 24.0))
    assert both.calls == pytest.approx(Range(12.0 + 2 * 30, 24.0 + 2 * 30))
    stream = 0.02 * 1000 / STREAM_BATCH  # seconds of an epoch-equivalent of small subsets
    assert both.seconds == pytest.approx(Range(2.0 * (12 - 2) + 2 * stream, 2.0 * (24 - 2) + 2 * stream))
    sgd, steps = found["sgd"], 1000 / 64
    assert sgd.calls == pytest.approx(Range(8 * steps, 16 * steps)) and sgd.seconds == pytest.approx(
        Range(*(0.01 * x for x in sgd.calls or ()))
    )
    assert sgd.command == "subsetopt train --dataset d --solver none --handoff sgd --handoff-epochs 16"
    assert found["adam"].units is None and found["kfac-stream"].units is None
    coarse = {p.strategy: p for p in predict(problem(1.0), LAWS)}["kfac-stream"]
    assert coarse.calls == pytest.approx(Range(30.0, 60.0))
    assert coarse.seconds == pytest.approx(Range(0.02 * 1000 / 512, 0.04 * 1000 / 512))


def test_the_pilot_replaces_the_law_and_prices_the_subset_that_is_enough() -> None:
    ratio, _ = pilot_range(0.1)
    seen = problem(with_pilot=pilot())
    assert lbfgs_units(seen, LAWS)[0] == ratio.times(9), "9 evaluations to 10 % above the pilot's minimum"
    assert lbfgs_units(problem(with_pilot=pilot(False)), LAWS)[0] == pytest.approx(Range(20.0, 40.0)), (
        "out of time: the law"
    )
    minimum = pilot().full_minimum
    assert minimum == pytest.approx(2 / (1 / 1.0 + 1 / 2.0)), "harmonic mean of the two objectives"
    p = pilot().effective_parameters
    assert minimum is not None
    assert p == pytest.approx(2 * 100 * (2.0 - minimum))
    alone = predict(problem(with_pilot=pilot()), LAWS)[-1]
    assert p is not None
    size = samples_for_excess(p, 0.1 * minimum, 1000)
    assert alone.strategy == f"lbfgs on {size}" and f"--subset-size {size} --handoff none" in alone.command
    deep, _ = pilot_range(SUBSET_LEVEL)
    units = deep.times(12 * size / 1000)
    assert alone.units == pytest.approx(units)
    assert alone.seconds == pytest.approx(
        Range(*(2.0 * u + 0.5 * c for u, c in zip(units, deep.times(12), strict=True)))
    )


def test_the_cheapest_is_recommended_by_what_was_asked_for() -> None:
    predictions = predict(problem(), LAWS)
    by_seconds, by_units = recommend(predictions, "seconds"), recommend(predictions, "units")
    assert by_seconds is not None and by_seconds.strategy == "sgd", "1.3 to 2.5 s against 20 to 40"
    assert by_units is not None and by_units.strategy == "sgd"
    slow = [p for p in predict(problem(0.01), LAWS) if p.strategy not in ("grow", "kfac-stream+lbfgs")]
    deep = recommend(slow, "seconds")
    assert deep is not None and deep.strategy == "lbfgs", "sgd was not seen to come so close"
    assert recommend(predict(problem(1e-4), LAWS), "units") is None


def test_the_shipped_table_is_sound_and_every_strategy_has_a_law() -> None:
    laws = shipped_laws()
    assert {law.strategy for law in laws} == {strategy.name for strategy in strategies()}
    for entry in laws:
        assert entry.source and entry.unit in ("units", "share")
        for low, high in zip(entry.low, entry.high, strict=True):
            assert (low is None) == (high is None) and (low is None or high is None or low <= high)
    with pytest.raises(SettingError, match="one cost per level"):
        law("lbfgs", (1.0, 2.0))


@pytest.fixture(scope="module")
def prepared() -> Any:
    return prepare(make_config({"dataset": "digits", "model": "linear", "l2": 0.1}))


def ticking(seconds: float = 1.0) -> Callable[[], float]:
    """A clock that moves on by so much whenever it is read."""
    counter = itertools.count()
    return lambda: seconds * next(counter)


def test_speeds_are_scaled_medians_of_the_clock(prepared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subsetopt.plan.pilot.TIMED_ROWS", 647)
    speeds = measure_speeds(prepared, ticking())
    assert speeds.unit == speeds.hvp == pytest.approx(1294 / 647), "one tick for half of the rows"
    assert speeds.small_gradient == 1.0 and speeds.held_out == 1.0
    assert speeds.step == pytest.approx(1 / 24, rel=0.05), "one tick for 24 steps"
    assert prepared.budget.ledger.by_purpose()["calibration"]["samples"] >= 4 * 647


def test_a_pilot_ends_at_its_minimum_or_when_the_clock_says_so(prepared: Any) -> None:
    whole = run_pilot(prepared, 1e9, ticking())
    assert whole.converged and whole.samples == 129 and whole.epoch_equivalents > 0
    first, last = whole.evaluations(1.0), whole.evaluations(0.001)
    assert first is not None and last is not None and first < last <= whole.curve[-1][0]
    assert (
        whole.held_out is not None
        and whole.full_minimum is not None
        and whole.loss < whole.full_minimum < whole.held_out + whole.penalty
    )
    cut = run_pilot(prepared, 3.0, ticking())
    assert not cut.converged and cut.evaluations(0.1) is None and len(cut.curve) <= 5
    assert cut.full_minimum is None and cut.effective_parameters is None


def test_a_plan_says_what_it_rests_on_and_a_target_loss_becomes_an_excess() -> None:
    config = make_config({"dataset": "digits", "model": "linear", "l2": 0.1})
    plan = make_plan(config, excess=0.05, flags=["--l2", "0.1"], laws=LAWS, clock=ticking(1e-6)).content()
    assert PlanDocument.read(json.loads(json.dumps(plan))).content() == plan
    chosen = plan["recommendation"]
    assert chosen["command"].startswith("subsetopt train --l2 0.1 ") and chosen["why"]
    assert all(row["rests_on"] for row in plan["strategies"] if row["epoch_equivalents"])
    assert plan["cost"]["epoch_equivalents"] > plan["pilot"]["epoch_equivalents"] > 0
    held_out = make_plan(config, target_loss=2.0, laws=LAWS, clock=ticking(1e-6)).content()["wanted"]
    assert held_out["excess"] == pytest.approx((2.0 - held_out["held_out_minimum"]) / held_out["full_minimum"])
    without = make_plan(config, pilot_seconds=0.0, laws=LAWS, clock=ticking(1e-6)).content()
    assert without["pilot"] is None and without["wanted"]["excess"] == 0.1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"excess": -1.0}, "excess = -1.0"),
        ({"excess": 0.1, "target_loss": 0.1}, "give one of them"),
        ({"target_loss": 1e-9}, "the full minimum's is predicted to be"),
        ({"target_loss": 0.5, "pilot_seconds": 0.0}, "use excess"),
        ({"pilot_seconds": -1.0}, "pilot_seconds"),
    ],
)
def test_mistakes(settings: dict[str, Any], words: str) -> None:
    config = make_config({"dataset": "digits", "model": "linear", "l2": 0.1})
    with pytest.raises(SettingError, match=words):
        make_plan(config, laws=LAWS, **settings)


def test_a_tie_is_called_one() -> None:
    """Before: "is predicted to take 1 times as many"."""

    def row(name: str, cost: float) -> Prediction:
        return Prediction(name, "", Range(cost, cost), Range(cost, cost), Range(cost, cost), ())

    first, level, behind = row("a", 100.0), row("b", 103.0), row("c", 200.0)
    assert _why(first, [first, level], "units").startswith(
        "fewest epoch-equivalents, but b is predicted to take as many"
    )
    assert _why(first, [first, behind], "seconds").endswith("c is predicted to take 2 times as many")
    assert "2 times" not in _why(first, [first, level, behind], "units")
    near = row("d", 140.0)
    assert "1.4 times as many; seeds scatter as much" in _why(first, [first, near], "units"), "points have no overlap"


def test_the_calls_of_a_stream_are_those_of_the_nearest_size() -> None:
    """Before: of the first law in the table, 12 calls for a million samples."""
    laws = (law("kfac-stream", (1.0,) * 3, calls=10.0), law("kfac-stream", (1.0,) * 3, 100_000, calls=100.0))
    for samples, calls in ((2000, 10.0), (60_000, 100.0)):
        found = {p.strategy: p for p in predict(problem(samples=samples), laws)}["kfac-stream"]
        assert found.calls == pytest.approx(Range(calls, 2 * calls))
