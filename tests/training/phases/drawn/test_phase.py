"""Draws by residual: unbiased estimates, the minimum of all samples, cost, refusals, and data of unusual kinds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from subsetopt import SubsetTrainer
from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.errors import UserError
from subsetopt.objective.sample_residuals import gradient_and_residuals
from subsetopt.seeding import make_generator
from subsetopt.training.context import PreparedRun
from subsetopt.training.phases.drawn.rounds import (
    FIRST_RELAXATION,
    LEAST_RELAXATION,
    drawn,
    end_of,
    evaluations_of,
    lowest_on_way,
)
from subsetopt.training.phases.factory import build_phases
from subsetopt.training.preparation import prepare
from subsetopt.training.resume import resume_run
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config
from subsetopt.training.splits import SplitName

SETTINGS: dict[str, Any] = {
    "subset_draw": "residual",
    "handoff": "none",
    "dtype": "float64",
    "l2": 1e-2,
    "gtol": 1e-8,
    "draw_start": 0.0,
    "draw_evaluations": 4,
    "draw_share": 0.25,
}
PLAIN: dict[str, Any] = {"validation_fraction": 0, "normalize": "none"}
G = make_generator(4, "drawn")
X = torch.randn(240, 5, generator=G, dtype=torch.float64)
LABELS = (X[:, :3] + torch.randn(240, 3, generator=G, dtype=torch.float64)).argmax(1)
VALUES = X[:, :2] + 0.3 * torch.randn(240, 2, generator=G, dtype=torch.float64)
WEIGHTS = torch.rand(240, generator=G, dtype=torch.float64)


def data_of(task: str, weights: Tensor | None = None) -> Dataset:
    targets = LABELS if task == "classification" else VALUES
    return dataset_from_arrays(X, targets, sample_weight=weights, **PLAIN)


def linear(outputs: int) -> nn.Module:
    model = nn.Linear(5, outputs).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def curved() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def prepared(task: str, weights: Tensor | None = None) -> PreparedRun:
    outputs = 3 if task == "classification" else 2
    return prepare(make_config(SETTINGS), linear(outputs), data_of(task, weights))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_value_and_gradient_on_drawn_samples_are_those_of_all_on_average(task: str, weights: Tensor | None) -> None:
    data, _, run = prepared(task, weights)
    full = run.model.objective(data, SplitName.TRAIN)
    w = full.initial()
    _, _, scores = gradient_and_residuals(full, w)
    elsewhere = w + 0.5 * torch.randn(w.shape, generator=make_generator(0, "w"), dtype=w.dtype)
    value, gradient = full.value_and_gradient(elsewhere)
    draws = 300
    found = []
    for number in range(draws):
        draw = drawn(scores, full.samples.factors, 60, 0.1, 0, number)
        objective = run.model.drawn(data.with_subset(draw.rows), draw.factors)
        drawn_value, drawn_gradient = objective.value_and_gradient(elsewhere)
        found.append(torch.cat([drawn_value.reshape(1), drawn_gradient]))
    samples, target = torch.stack(found), torch.cat([value.reshape(1), gradient])
    error = samples.std(0) / draws**0.5
    assert float(((samples.mean(0) - target).abs() / error).max()) < 4.0
    assert float((samples.mean(0) - target).norm()) < 0.15 * float((samples - target).norm(dim=1).mean())


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "ncg"])
def test_the_end_is_the_minimum_of_all_samples(task: str, solver: str) -> None:
    model, plain = linear(3 if task == "classification" else 2), {"subset_frac": 1.0, "handoff": "none"}
    shared = {key: SETTINGS[key] for key in ("dtype", "l2", "gtol")}
    whole = train(make_config(plain, shared), model=model, dataset=data_of(task, WEIGHTS), keep=False)
    by_draws = train(make_config(SETTINGS, {"solver": solver}), model=model, dataset=data_of(task, WEIGHTS), keep=False)
    solve = by_draws.result["solve"]
    assert solve["converged"] and solve["stop_reason"] == "gradient" and solve["samples"] == 240
    assert solve["rounds"] and all(0 < entry["samples"] < 240 for entry in solve["rounds"])
    for mine, theirs in zip(by_draws.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_a_round_starts_with_the_gradient_of_all_samples_once_correction_is_whole_and_costs_are_exact() -> None:
    data, budget, run = prepare(
        make_config(SETTINGS, {"solver_args": {"preconditioner": "none"}}), linear(3), data_of("classification")
    )
    (phase,) = build_phases(data, budget, run)
    state, before = phase.start(run.model.flat.initial()), 0
    while not state.whole and phase.terminate(state) is None:
        if state.number > before:
            before = state.number
            full = run.model.objective(data, SplitName.TRAIN).value_and_gradient(state.origin, "evaluation")
            assert state.loss == pytest.approx(float(full[0])) and torch.allclose(state.gradient, full[1])
            expected = full[1] + (1 - state.correction) * state.noise
            assert torch.allclose(
                phase._objectives.of(state).value_and_gradient(state.origin, "evaluation")[1], expected
            )
        state = phase.step(state)
    assert before >= 2
    spent = {row: cost["calls"] for row, cost in budget.ledger.by_purpose().items()}
    assert spent["train"] + spent.get("line_search", 0) == state.solver.evaluations


def test_a_round_that_leads_astray_is_taken_back_and_more_is_drawn() -> None:
    """A single outlier with a chance below 1 that is not drawn: all samples disagree."""
    data, budget, run = prepared("regression")
    (phase,) = build_phases(data, budget, run)
    state = phase.start(run.model.flat.initial())
    state = phase.step(state)
    astray = state.solver.w + 100.0
    state.solver = type(state.solver)(**{**vars(state.solver), "w": astray, "evaluations": state.begun + 4})
    following = phase.step(state)
    assert torch.equal(following.origin, state.origin) and following.loss == state.loss
    assert following.share == 2 * state.share and following.history["0"]["kept"] is False


@pytest.mark.parametrize("budget", [4.7, 6.3, 9.0])
def test_the_budget_holds_and_the_best_known_parameters_are_kept(budget: float) -> None:
    outcome = train(
        make_config(SETTINGS, {"max_epochs": budget}),
        model=linear(3),
        dataset=data_of("classification"),
        keep=False,
    )
    assert outcome.result["cost"]["epoch_equivalents"] <= budget * (1 + 1e-6)
    data, _, run = prepared("classification")
    full = run.model.objective(data, SplitName.TRAIN)
    assert outcome.result["solve"]["loss"] < float(full.value(full.initial()))


def test_a_limit_that_is_raised_leads_where_the_larger_one_does(tmp_path: Path) -> None:
    given: dict[str, Any] = {"model": linear(3), "dataset": data_of("classification"), "figure": False}
    for limit in (7.0, 12.0):
        train(make_config(SETTINGS, {"max_epochs": limit, "output": tmp_path / str(limit)}), **given)
    resume_run(tmp_path / "7.0", limits={"max_epochs": 12.0}, **given)
    raised, larger = ((tmp_path / limit / "model.safetensors").read_bytes() for limit in ("7.0", "12.0"))
    assert raised == larger


@pytest.mark.parametrize("kind", ["tiny", "perfect", "outlier", "constant"])
def test_unusual_data(kind: str) -> None:
    x, y = X[:60].clone(), VALUES[:60].clone()
    changes: dict[str, Any] = {"dtype": "float64", "l2": 0.0 if kind == "perfect" else 1e-2}
    if kind == "tiny":
        x, y = x[:3], y[:3]
    elif kind == "perfect":
        y = torch.zeros_like(y)
    elif kind == "outlier":
        y[7] = 1e6
    else:
        x = torch.ones_like(x)
    data = dataset_from_arrays(x, y, **PLAIN)
    outcome = train(make_config(SETTINGS, changes), model=linear(2), dataset=data, keep=False)
    design = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    gram = design.T @ design / len(x) + changes["l2"] * torch.eye(6, dtype=x.dtype)
    expected = torch.linalg.lstsq(gram, design.T @ y / len(x)).solution
    found = torch.cat([outcome.model.weight.T, outcome.model.bias[None]]).detach()
    size = 1 + float(expected.abs().max())
    assert float((design @ (found - expected)).abs().max()) < 1e-5 * size


def test_of_few_samples_all_are_solved_on_after_the_start_for_no_more_than_a_plain_solve_needs() -> None:
    data = dataset_from_arrays(X[:30], VALUES[:30] + X[:30, 2:4].square(), **PLAIN)
    losses = []
    for given in ({"subset_draw": "residual"}, {"subset_frac": 1.0}):
        settings = {"handoff": "none", "dtype": "float64", "max_epochs": 25.0, **given}
        outcome = train(make_config(settings), model=curved(), dataset=data, keep=False)
        losses.append(outcome.result["solve"]["loss"])
    assert losses[0] < 1.2 * losses[1]
    data, budget, run = prepare(
        make_config({**settings, "subset_draw": "residual", "subset_frac": None}), curved(), data
    )
    _, phase = build_phases(data, budget, run)
    assert phase.start(run.model.flat.initial()).whole and "preconditioner" not in phase.details()["settings"]
    assert phase.least_cost == pytest.approx(2.0)


def test_a_checkpoint_of_few_samples_from_before_all_were_solved_on_goes_on_with_its_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {key: value for key, value in SETTINGS.items() if key != "draw_share"}

    def phase_of() -> tuple[Any, Tensor]:
        data, budget, run = prepare(make_config(settings), linear(3), few)
        return build_phases(data, budget, run)[0], run.model.flat.initial()

    few = dataset_from_arrays(X[:90], LABELS[:90], **PLAIN)
    with monkeypatch.context() as earlier:
        earlier.setattr("subsetopt.training.phases.drawn.phase.FEWEST_SAMPLES", 0)
        before, w = phase_of()
        state = before.step(before.start(w))
        tensors, numbers = before.save(state)
    assert not state.whole and state.solver.factors is not None
    after, _ = phase_of()
    again = after.restore(tensors, {name: value for name, value in numbers.items() if name != "fewest"})
    for _ in range(8):
        state, again = before.step(state), after.step(again)
    assert again.number == state.number > 0 and torch.equal(again.solver.w, state.solver.w)


def test_evaluations_of_a_round_cost_four_epoch_equivalents_or_are_twelve_or_sixteen() -> None:
    assert [evaluations_of(share) for share in (0.01, 0.25, 4 / 14, 0.4, 0.75)] == [16, 16, 14, 12, 12]
    settings = {**SETTINGS, "draw_evaluations": None, "gtol": 1e-13, "max_epochs": 40.0}
    outcome = train(make_config(settings), model=linear(3), dataset=data_of("classification"), keep=False)
    assert 16 <= outcome.result["solve"]["rounds"][0]["evaluations"] <= 18  # the last line search is not cut short


def test_settings_of_runs_that_earlier_versions_began_are_taken() -> None:
    assert make_config({"draw_evaluations": 12}).draw_evaluations == 12
    assert make_config({"subset_draw": "residual", "draw_evaluations": 12}).phases()[-2].draw_evaluations == 12
    with pytest.raises(UserError, match="draw_evaluations"):
        make_config({"draw_evaluations": 13})


def test_more_classes_than_a_share_has_samples() -> None:
    x = torch.randn(60, 4, generator=make_generator(1, "many"), dtype=torch.float64)
    data = dataset_from_arrays(x, torch.arange(60) % 30, task="classification", **PLAIN)
    model = nn.Linear(4, 30).double()
    outcome = train(make_config(SETTINGS, {"draw_share": 0.01}), model=model, dataset=data, keep=False)
    assert outcome.result["solve"]["converged"] and outcome.result["solve"]["rounds"][0]["samples"] == 30


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs, targets)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"solver": "kfac-stream"}, "full-batch solver"),
        ({"solver": "none"}, "full-batch solver"),
        ({"subset_frac": 0.5}, "draw_share"),
        ({"subset_size": 20}, "draw_share"),
        ({"grow": 2.0}, "exclude each other"),
        ({"subsets": 2}, "exclude each other"),
        ({"augment_copies": 1}, "exclude each other"),
        ({"stop_at": "noise"}, "minimum"),
        ({"warmup": "adam", "draw_start": 1.0}, "leave one of them out"),
        ({"draw_uniform": 0.0}, "draw_uniform"),
        ({"draw_share": 1.5}, "draw_share"),
        ({"draw_evaluations": 0}, "draw_evaluations"),
        ({"subset_draw": "uniform", "draw_share": 0.5}, "has no use without"),
        ({"subset_draw": "craig"}, "subset_draw"),
    ],
)
def test_what_contradicts_is_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    settings = {**SETTINGS, **({"draw_evaluations": 12, "draw_start": 2.0, "draw_share": None} | changes)}
    with pytest.raises(UserError, match=words) as refused:
        make_config(settings)
    assert "\n" not in str(refused.value)


def test_batch_norm_and_losses_without_samples_are_refused_before_any_work() -> None:
    norm = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    with pytest.raises(UserError, match="BatchNorm"):
        SubsetTrainer(norm, data_of("regression"), **SETTINGS).fit()
    with pytest.raises(UserError, match="solver"):
        SubsetTrainer(linear(2), data_of("regression"), solver="scipy:CG", **SETTINGS).fit()
    with pytest.raises(UserError, match="mean"):
        SubsetTrainer(linear(2), data_of("regression"), loss=mean_loss, **SETTINGS).fit()


@pytest.mark.parametrize(("t", "correction"), [(0.3, 0.0), (0.85, 0.0), (0.85, 0.6)])
def test_a_round_ends_on_its_way_where_the_drawn_objective_is_what_a_quadratic_says(
    t: float, correction: float
) -> None:
    """Squared loss of a linear model is a quadratic: value and gradient at the relaxed end are exact."""
    data, budget, run = prepared("regression")
    (phase,) = build_phases(data, budget, run)
    state = phase.step(phase.step(phase.start(run.model.flat.initial())))
    state.relaxation, state.correction, phase._objectives.at_hand = t, correction, None
    value, gradient = phase._objectives.of(state).value_and_gradient(state.solver.w, "evaluation")
    state.solver = dataclasses.replace(state.solver, loss=float(value), gradient=gradient)
    end, whole = end_of(state), end_of(state, 0.0)
    assert torch.equal(whole.w, state.solver.w) and whole.loss == state.solver.loss
    torch.testing.assert_close(end.w - state.origin, t * (state.solver.w - state.origin))
    value, gradient = phase._objectives.of(state).value_and_gradient(end.w, "evaluation")
    torch.testing.assert_close(gradient, end.gradient)
    loss, there = (float(each) for each in (value, state.solver.loss))
    # The way does not end at the minimiser: beyond a quadratic the slope there would be missing from `End.loss`.
    slope = float(state.solver.gradient @ (state.origin - state.solver.w))
    assert end.loss == pytest.approx(loss - (1 - t) * t * slope, rel=1e-10) and there < loss


@pytest.mark.parametrize("cubic", [(1.0, -1.0, 2.0, 0.0), (3.0, -2.0, 0.7, 0.9), (0.0, -4.0, 3.0, -0.5)])
def test_the_lowest_point_on_the_way_is_that_of_the_cubic(cubic: tuple[float, ...]) -> None:
    value = np.polynomial.Polynomial(cubic)
    slope = value.deriv()
    minima = [root.real for root in slope.roots() if abs(root.imag) < 1e-12 and slope.deriv()(root.real) > 0]
    found = lowest_on_way(value(1.0) - value(0.0), slope(0.0), slope(1.0))
    (minimum,) = minima
    assert found == pytest.approx(min(2.0, minimum))


def test_the_lowest_point_on_the_way_where_there_is_none_or_it_is_far() -> None:
    assert lowest_on_way(-1.0, -1.0, -1.0) == 2.0  # straight down
    assert lowest_on_way(-1.0, -1.0, -1.9) == 2.0  # ever steeper
    assert lowest_on_way(-0.99, -1.0, -0.98) == 2.0  # minimum at 50
    assert lowest_on_way(1.0, 0.5, -1.0) == lowest_on_way(0.5, 0.5, 0.6) == 1.0  # up from the start
    for bad in (math.nan, math.inf):
        assert lowest_on_way(bad, -1.0, 1.0) == 0.5 and lowest_on_way(1.0, -1.0, bad) == 0.5
    assert lowest_on_way(-1e-200, -2e-200, 0.0) in (1.0, 2.0)


def test_a_round_that_went_too_far_makes_the_next_one_go_less_far_and_further_where_it_may() -> None:
    """On all samples (a quadratic) the lowest point of the way is known: -g0.d / d.H d times the way."""
    data, budget, run = prepared("regression")
    (phase,) = build_phases(data, budget, run)
    state = phase.step(phase.start(run.model.flat.initial()))
    full, origin = run.model.objective(data, SplitName.TRAIN), state.origin
    curvature = full.linearise(origin)
    for length in (0.4, 1.1, 3.0, 30.0):
        way = -length * state.gradient / float(state.gradient.norm())
        best = float(-(state.gradient @ way) / (way @ curvature.hvp(way)))
        w = origin + way
        solver = dataclasses.replace(state.solver, w=w, evaluations=state.begun + 4)
        following = phase.step(dataclasses.replace(state, solver=solver))
        assert following.relaxation == pytest.approx(min(1.0, max(LEAST_RELAXATION, best)), rel=1e-6)


def test_rounds_of_earlier_versions_go_all_the_way() -> None:
    def phase_of() -> tuple[Any, Tensor]:
        data, budget, run = prepared("classification")
        return build_phases(data, budget, run)[0], run.model.flat.initial()

    before, w = phase_of()
    state = before.step(before.start(w))
    assert state.relaxation == FIRST_RELAXATION
    tensors, numbers = before.save(state)
    del numbers["round"]["relaxation"]
    after, _ = phase_of()
    state = after.restore(tensors, numbers)
    while state.number == 0:
        end, state = state.solver.w, after.step(state)
    assert state.relaxation is None and torch.equal(state.origin, end)
