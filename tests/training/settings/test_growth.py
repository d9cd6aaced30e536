"""Growing subsets: the stages' sizes and rows, the tests that end them, and what is refused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from subsetopt.compare.cells import CellMaker
from subsetopt.compare.config import make_study
from subsetopt.data import dataset_from_arrays, draw
from subsetopt.errors import SettingError
from subsetopt.seeding import make_generator
from subsetopt.training.phases.solver import SolverPhase
from subsetopt.training.preparation import prepare
from subsetopt.training.run import train
from subsetopt.training.settings.growth import growth_stages
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.settings.run import make_config
from subsetopt.training.splits import SplitName


def test_stages_grow_by_the_factor_and_leave_out_what_is_nearly_the_end() -> None:
    assert [stage.share for stage in growth_stages(0.01, 2, 1.0)] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0]
    assert [stage.share for stage in growth_stages(0.05, 2, 1.0)] == [0.05, 0.1, 0.2, 0.4, 1.0]  # 0.8 > 1 / sqrt(2)
    assert [stage.share for stage in growth_stages(0.01, 4, 0.1)] == [0.01, 0.04, 0.1]
    assert all(stage.skip == 0 for stage in growth_stages(0.01, 2, 1.0))


def test_disjoint_stages_follow_each_other_in_the_draw_and_the_last_holds_them() -> None:
    stages = growth_stages(0.1, 2, 1.0, "disjoint")
    assert [tuple(round(x, 9) for x in stage) for stage in stages] == [(0.1, 0.0), (0.2, 0.1), (0.4, 0.3), (1.0, 0.0)]
    shares = [stage.share for stage in growth_stages(0.2, 3, 0.5, "disjoint")]
    assert shares == [0.2, 0.5], "0.6 does not fit behind 0.2 within 0.5"


@pytest.mark.parametrize("mode", ["nested", "disjoint"])
def test_the_rows_of_the_stages(mode: str) -> None:
    settings = {"grow": 2, "grow_start": 0.05, "subset_frac": 0.8, "grow_mode": mode, "handoff": "none", "seed": 3}
    data, _, run = prepare(make_config(settings))
    n, phases = data.full_size, run.config.phases()
    rows = [set(data.for_phase(phase).subset.tolist()) for phase in phases]
    assert [len(part) for part in rows[:-1]] == pytest.approx([0.05 * 2**i * n for i in range(len(rows) - 1)], abs=1)
    assert rows[-1] == set(draw(n, fraction=0.8, seed=3, stratify=data.dataset.train.targets).tolist())
    for smaller, larger in itertools.pairwise(rows):
        assert smaller < larger if mode == "nested" or larger == rows[-1] else not smaller & larger
    counts = torch.bincount(data.dataset.train.targets[sorted(rows[1])], minlength=10)
    expected = torch.bincount(data.dataset.train.targets, minlength=10) * len(rows[1]) / n
    assert (counts - expected).abs().max() <= 2, "a stage keeps the class shares"


def test_growing_to_the_full_set_ends_on_all_samples_and_the_subset_is_the_full_set() -> None:
    config = make_config({"grow": 4, "handoff": "none"})
    assert [phase.data for phase in config.phases()] == ["subset"] * 3 + ["full"]
    data, _, _ = prepare(config)
    assert len(data.subset) == data.full_size
    copies = make_config({"grow": 4, "handoff": "none", "augment_copies": 1}).phases()
    assert copies[-1].data == "subset", "the full set alone has no augmented copies"


def noisy_classes(n: int = 400) -> Any:
    generator = make_generator(1, "noisy classes")
    x = torch.randn(n, 6, generator=generator)
    y = (x[:, :3] + 1.5 * torch.randn(n, 3, generator=generator)).argmax(1)
    return dataset_from_arrays(x, y, x[:50], y[:50], normalize="none")


def softmax_regression() -> torch.nn.Module:
    model = torch.nn.Linear(6, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-0.1, 0.1, 18).reshape(3, 6))
        model.bias.zero_()
    return model


def grown(**settings: Any) -> dict[str, Any]:
    given = {"grow": 2, "grow_start": 0.1, "handoff": "none", "dtype": "float64", "l2": 1e-2, **settings}
    return train(make_config(given), model=softmax_regression(), dataset=noisy_classes(), keep=False).result


@pytest.mark.parametrize("theta", [0.03, 1.0])
def test_a_stage_ends_at_the_first_iterate_whose_gradient_is_below_theta_times_its_noise(theta: float) -> None:
    data, budget, run = prepare(make_config({"dtype": "float64"}), softmax_regression(), noisy_classes())
    phase = SolverPhase(
        PhaseConfig(method="lbfgs", role="grow", share=0.4, stop_at="noise", noise_theta=theta, gtol=1e-9),
        (own := data.for_phase(PhaseConfig(method="lbfgs", share=0.4))),
        budget,
        run,
    )
    state, ratios = phase.start(run.model.flat.initial()), []
    x, y = own.trained(SplitName.SUBSET)
    x = x.double()
    while phase.terminate(state) is None:
        state = phase.step(state)
        ratios.append(noise_ratio(run.config.l2, state.solver.w, x, y))
    assert phase.terminate(state) == "noise"
    # The phase estimates tr(cov) from 8 chunks, here it is exact; 8 chunks of 18 parameters are good to a third or so.
    assert ratios[-1] <= 2 * theta and all(ratio > theta / 2 for ratio in ratios[:-1])


def noise_ratio(l2: float, w: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> float:
    """||g||^2 K / tr(cov g_i) of softmax regression, from per-sample gradients (p - e_y) [x, 1]^T."""
    weight, bias = w[:18].reshape(3, 6), w[18:]
    residual = (x @ weight.T + bias).softmax(1) - torch.nn.functional.one_hot(y, 3)
    each = torch.cat([residual[:, :, None] * x[:, None, :], residual[:, :, None]], dim=2)
    flat = torch.cat([each[:, :, :6].flatten(1), each[:, :, 6]], dim=1)
    gradient = flat.mean(0) + l2 * w
    return float(gradient @ gradient * len(x) / flat.var(dim=0).sum())


def test_theta_reaches_every_stage_and_single_subsets_alike() -> None:
    early, late = grown(noise_theta=3.0), grown(noise_theta=0.01)
    stages = [[phase["iterations"] for phase in result["phases"][:-1]] for result in (early, late)]
    assert sum(stages[0]) < sum(stages[1])
    assert all(phase["stop_reason"] == "noise" for phase in early["phases"][:-1])
    assert early["phases"][-1]["stop_reason"] == late["phases"][-1]["stop_reason"] == "gradient"
    assert early["phases"][-1]["loss"] == pytest.approx(late["phases"][-1]["loss"], rel=1e-8), "one convex minimum"
    single = [
        grown(grow=None, stop_at="noise", subset_frac=0.5, noise_theta=theta)["phases"][0]["iterations"]
        for theta in (3.0, 0.01)
    ]
    assert single[0] < single[1]


def test_a_stage_may_end_by_cost_or_by_held_out_loss() -> None:
    by_cost = grown(grow_stop="cost", grow_epochs=0.5)["phases"]
    assert [phase["stop_reason"] for phase in by_cost[:-1]] == ["budget"] * 3
    assert all(phase["epoch_equivalents"] <= 0.5 + 1e-9 for phase in by_cost[:-1])
    held_out = grown(grow_stop="validation", gtol=1e-12)["phases"]
    assert "validation" in [phase["stop_reason"] for phase in held_out[:-1]]


def test_the_budget_of_the_run_covers_all_stages() -> None:
    result = grown(max_epochs=2.0)
    assert result["cost"]["epoch_equivalents"] <= 2.0 + 1e-9
    assert result["phases"][-1]["stop_reason"] == "budget" and len(result["phases"]) == 4


def test_a_cumulative_limit_counts_from_the_start_of_the_run() -> None:
    phases = [
        {"method": "lbfgs", "role": "grow", "share": share, "epochs": 1.0, "cumulative": True, "gtol": 1e-12}
        for share in (0.1, 0.2, 0.4)
    ]
    result = grown(grow=None, phase=[*phases, {"method": "lbfgs", "data": "full", "epochs": 3}])
    costs = [phase["epoch_equivalents"] for phase in result["phases"]]
    assert sum(costs[:3]) <= 1.0 + 1e-9 and result["phases"][2]["iterations"] == 0
    assert 2.0 < costs[3] <= 3.0 + 1e-9 or result["phases"][3]["stop_reason"] == "gradient"


def test_carried_curvature_saves_evaluations() -> None:
    """Least squares in 41 parameters: the pairs of half the data describe nearly the Hessian of all of them."""
    generator = make_generator(3, "least squares")
    x = torch.randn(2000, 40, generator=generator, dtype=torch.float64) * torch.logspace(-1, 0.5, 40)
    y = x.sum(1, keepdim=True) + torch.randn(2000, 1, generator=generator, dtype=torch.float64)
    data = dataset_from_arrays(x, y, x[:50], y[:50], normalize="none")

    def evaluations(carry: bool) -> list[int]:
        settings = {"grow": 2, "grow_start": 0.25, "handoff": "none", "dtype": "float64", "l2": 0, "grow_carry": carry}
        model = torch.nn.Linear(40, 1).double()
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
        phases = train(make_config(settings), model=model, dataset=data, keep=False).result["phases"]
        assert phases[-1]["stop_reason"] == "gradient"
        return [phase["counts"]["evaluations"] for phase in phases]

    carried, fresh = evaluations(True), evaluations(False)
    assert carried[0] == fresh[0] and sum(carried[1:]) < 0.85 * sum(fresh[1:])


@pytest.mark.parametrize("solver", ["newton-cg", "ncg", "lbfgs"])
def test_every_solver_grows_to_the_minimum(solver: str) -> None:
    result = grown(solver=solver)
    assert result["solve"]["stop_reason"] == "gradient" and result["solve"]["samples"] == result["dataset"]["train"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"grow": 1}, "greater than 1"),
        ({"grow": 2, "grow_start": 0.2, "subset_frac": 0.1}, "grow_start=0.2 leaves nothing to grow to"),
        ({"grow": 2, "grow_start": 0}, "greater than 0"),
        ({"grow": 2, "solver": "none"}, "needs a full-batch solver"),
        ({"grow": 2, "subsets": 2}, "exclude each other"),
        ({"grow": 2, "subset_size": 100}, "subset_frac instead of subset_size"),
        ({"grow": 2, "grow_stop": "cost"}, "grow_stop='cost' needs the cost of each stage, for example grow_epochs"),
        ({"grow": 2, "grow_stop": "validation", "validation_fraction": 0}, "validation_fraction"),
        ({"noise_theta": 0}, "greater than 0"),
    ],
)
def test_contradictions_are_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        make_config(settings)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_first_stage_too_small_names_a_start_that_is_not() -> None:
    data, _, run = prepare(make_config({"grow": 2, "grow_start": 0.005}))
    with pytest.raises(SettingError, match=r"grow_start = 0\.005: is 6 of 1294 samples.*grow_start=0\.008"):
        data.for_phase(run.config.phases()[0])
    enough, _, run = prepare(make_config({"grow": 2, "grow_start": 0.008}))
    assert len(enough.for_phase(run.config.phases()[0]).subset) == 10


def test_a_study_lays_one_share_of_the_budget_on_all_stages_and_tunes_theta() -> None:
    study = make_study({"dataset": "digits", "methods": "lbfgs@0.01x2,lbfgs@0.02x4+sgd", "budget": "10", "seeds": 1})
    maker = CellMaker(study)
    grown, handed = (maker.cell(name, 10.0, 0).config.phases() for name in maker.methods)
    assert {(phase.epochs, phase.cumulative) for phase in grown[:-1]} == {(5.0, True)} and grown[-1].epochs == 10.0
    assert [phase.stop_at for phase in handed] == ["noise"] * 3 + ["noise", "minimum"]
    assert all(phase.epochs == 5.0 and phase.cumulative for phase in handed[:-1]) and not handed[-1].cumulative
    tuned = maker.cell("lbfgs@0.01x2", 10.0, 0, {"noise_theta": 0.3}).config.phases()
    assert {phase.noise_theta for phase in tuned[:-1]} == {0.3} and math.isclose(tuned[-1].noise_theta, 0.1)
