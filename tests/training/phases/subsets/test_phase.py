"""Several subsets together: which rows, what the average is, what it is compared with, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.errors import SettingError
from subsetopt.report.summary import summary
from subsetopt.seeding import make_generator
from subsetopt.training.context import PreparedRun
from subsetopt.training.phases.factory import build_phases
from subsetopt.training.phases.subsets.phase import SubsetsPhase
from subsetopt.training.phases.subsets.solve import SubsetSolve
from subsetopt.training.preparation import prepare
from subsetopt.training.run import check_run, train
from subsetopt.training.settings.run import make_config
from subsetopt.training.splits import SplitName

SETTINGS = {"subsets": 3, "subset_frac": 0.2, "handoff": "none", "dtype": "float64", "l2": 1e-2, "gtol": 1e-7}


def regression_data(n: int = 300) -> Dataset:
    generator = make_generator(2, "regression")
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    y = x[:, :1] - 0.5 * x[:, 1:2] + torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return dataset_from_arrays(x, y, x[:40], y[:40], normalize="none")


def linear() -> torch.nn.Module:
    model = torch.nn.Linear(4, 1).double()
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    return model


def prepared(**settings: Any) -> PreparedRun:
    return prepare(make_config({**SETTINGS, **settings}), linear(), regression_data())


def solved(**settings: Any) -> Any:
    return train(make_config({**SETTINGS, **settings}), model=linear(), dataset=regression_data(), keep=False)


def ridge(x: torch.Tensor, y: torch.Tensor, l2: float) -> torch.Tensor:
    """The minimiser of mean (x w + b - y)^2 + l2/2 (||w||^2 + b^2), by the normal equations."""
    design = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    gram = 2 * design.T @ design / len(x) + l2 * torch.eye(design.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, 2 * design.T @ y / len(x)).flatten()


def test_subsets_are_disjoint_of_the_right_size_and_the_first_is_the_runs_own() -> None:
    data, _, run = prepare(make_config({"subsets": 4, "subset_frac": 0.2}))
    parts = data.disjoint_subsets(4)
    assert torch.equal(parts[0], data.subset)
    assert {len(part) for part in parts} == {len(data.subset)}
    assert len(torch.cat(parts).unique()) == 4 * len(data.subset)
    union = data.for_phase(run.config.phases()[0]).subset
    assert torch.equal(union, torch.cat(parts).unique())


def test_each_minimum_is_that_of_its_own_subset_and_the_average_their_mean() -> None:
    data, _, run = prepared()
    x, y = data.dataset.train.inputs, data.dataset.train.targets
    expected = [ridge(x[rows], y[rows], 1e-2) for rows in data.disjoint_subsets(3)]
    outcome = solved()
    final = torch.cat([parameter.detach().flatten() for parameter in outcome.model.parameters()])
    assert torch.allclose(final, torch.stack(expected).mean(0), atol=1e-6)
    record = outcome.result["solve"]["subsets"]
    full = run.model.objective(data, SplitName.TRAIN)
    losses = [float(full.value(w)) for w in [*expected, torch.stack(expected).mean(0)]]
    assert [entry["objective_full"] for entry in record["minima"]] == pytest.approx(losses[:3], rel=1e-6)
    assert record["average"]["objective_full"] == pytest.approx(losses[3], rel=1e-6)
    assert outcome.result["solve"]["stop_reason"] == "joined" and not outcome.result["solve"]["converged"]
    held_out = [entry["validation_loss"] for entry in record["minima"]]
    assert record["best"] == held_out.index(min(held_out))
    assert record["average_beats"] == [record["average"]["validation_loss"] < loss for loss in held_out]


def test_the_best_is_handed_on_and_its_choice_is_charged() -> None:
    by_training = solved(subsets_then="best", subsets_select="train").result
    record = by_training["solve"]["subsets"]
    losses = [entry["objective_full"] for entry in record["minima"]]
    assert record["best"] == losses.index(min(losses))
    n, prices = by_training["dataset"]["train"], by_training["cost"]["prices"]
    selection = by_training["cost"]["by_purpose"]["selection"]
    assert selection["samples"] == 3 * n and selection["epoch_equivalents"] == pytest.approx(3 * prices["forward"])
    held_out = solved(subsets_then="best").result["cost"]["by_purpose"]["selection"]["samples"]
    assert held_out == 3 * by_training["dataset"]["validation"]
    assert "selection" not in solved().result["cost"]["by_purpose"], "an average chooses nothing"


def test_resolving_starts_at_the_average_and_ends_at_the_minimum_of_all_subsets_together() -> None:
    outcome = solved(subsets_then="resolve")
    data, _, _ = prepared()
    rows = torch.cat(data.disjoint_subsets(3))
    x, y = data.dataset.train.inputs[rows], data.dataset.train.targets[rows]
    final = torch.cat([parameter.detach().flatten() for parameter in outcome.model.parameters()])
    assert torch.allclose(final, ridge(x, y, 1e-2), atol=1e-6)
    together, again = outcome.result["phases"]
    assert (together["samples"], again["samples"]) == (len(rows), len(rows))
    assert again["iterations"] < together["iterations"] and again["loss"] < together["loss"]


def test_the_solve_of_one_subset_depends_on_the_run_and_its_number_alone() -> None:
    data, budget, run = prepared()
    (config,) = run.config.phases()
    record = solved().result["solve"]["subsets"]["minima"]
    before = budget.ledger.save()
    for index in (2, 0, 1):
        solve, reason = SubsetSolve(config, data, budget, run, index), None
        while reason is None:
            reason = solve.advance(run.model.flat.initial(), math.inf)
        assert solve.end(reason).record.items() <= record[index].items()
    assert budget.ledger.save() == before, "what a solve costs is entered by whoever runs it"


def test_a_budget_is_shared_equally_and_a_solve_cut_short_counts() -> None:
    result = solved(max_epochs=3.0, gtol=1e-14).result
    assert result["cost"]["epoch_equivalents"] <= 3.0 + 1e-9
    minima = result["solve"]["subsets"]["minima"]
    evaluations = [entry["evaluations"] for entry in minima]
    assert len(minima) == 3 and max(evaluations) - min(evaluations) <= 1
    assert result["solve"]["stop_reason"] == "budget"
    with pytest.raises(SettingError, match=r"max_epochs = 0\.5: the solve by lbfgs would train nothing"):
        solved(max_epochs=0.5)


def test_a_phase_saves_and_restores_in_the_middle_of_any_solve() -> None:
    def phase_and_ledger() -> tuple[SubsetsPhase, PreparedRun]:
        made = prepared(max_epochs=50.0)
        (phase,) = build_phases(*made)
        assert isinstance(phase, SubsetsPhase)
        return phase, made

    phase, (_, budget, run) = phase_and_ledger()
    state, saved = phase.start(run.model.flat.initial()), []
    while phase.terminate(state) is None:
        tensors, numbers = phase.save(state)
        saved.append(({k: v.clone() for k, v in tensors.items()}, json.dumps(numbers), budget.ledger.save()))
        state = phase.step(state)
    whole = phase.finish(state)
    assert len({json.loads(numbers)["underway"] == {} for _, numbers, _ in saved}) == 2, "between solves, too"
    for tensors, numbers, ledger in saved[::4] + [entry for entry in saved if json.loads(entry[1])["underway"] == {}]:
        again, other = phase_and_ledger()
        resumed = again.restore(tensors, json.loads(numbers))
        other.budget.ledger.restore(ledger)
        while again.terminate(resumed) is None:
            resumed = again.step(resumed)
        assert torch.equal(again.finish(resumed).w, whole.w)
        assert other.budget.ledger.cost == budget.ledger.cost


def test_the_summary_says_in_words_what_the_average_is_worth() -> None:
    result = solved().result
    text = " ".join(summary(result, None).split())
    for number, entry in enumerate(result["solve"]["subsets"]["minima"], start=1):
        assert f"Minimum {number} of 3: objective {entry['loss']:.4g} on its own subset" in text
    assert f"it beats {sum(result['solve']['subsets']['average_beats'])} of 3" in text
    assert "Handed on: the average." in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"subsets": 6}, "disjoint subsets of 0.2 of the data each do not fit; use subset_frac=0.167"),
        ({"subset_frac": None, "subset_size": 150}, "3 disjoint subsets do not fit into 270 rows"),
        ({"solver": "none", "handoff": "sgd"}, "needs a full-batch solver"),
        ({"subsets_select": "validation", "validation_fraction": 0}, "needs held-out data"),
        ({"subsets": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        build_phases(*prepared(**settings))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_everything_is_checked_before_the_run_begins() -> None:
    with pytest.raises(SettingError, match="disjoint subsets"):
        check_run(make_config({"subsets": 3, "subset_size": 600}))
