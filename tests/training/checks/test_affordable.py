"""A plan in which a phase can take no step is refused before any work. Reference: what is asked for is enough."""

from __future__ import annotations

import re
from typing import Any

import pytest

from subsetopt import SubsetTrainer, UserError
from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.seeding import make_generator
from subsetopt.training.run import train as run_training


@pytest.fixture(scope="module")
def data() -> Dataset:
    import torch

    x = torch.randn(300, 6, generator=make_generator(0, "affordable"))
    return dataset_from_arrays(x, (x[:, :3]).argmax(1))


def fit(data: Dataset, **settings: Any) -> dict[str, Any]:
    return SubsetTrainer("linear", data, **settings).fit().result


ONLY = {"solver": "none"}
PLANS: dict[str, tuple[str, dict[str, Any]]] = {
    "first order": ("handoff_epochs", {**ONLY, "handoff": "sgd", "handoff_epochs": 0.1}),
    "selection before the first step": (
        "handoff_epochs",
        {**ONLY, "handoff": "glister", "handoff_epochs": 0.3, "handoff_args": {"warmup": 0}},
    ),
    "candidates": ("handoff_epochs", {**ONLY, "handoff": "gradient-matching", "handoff_epochs": 0.05}),
    "held-out check": (
        "handoff_epochs",
        {**ONLY, "handoff": "adam", "handoff_epochs": 0.25, "handoff_stop_at": "validation"},
    ),
    "solver": ("solver_epochs", {"solver_epochs": 0.1, "handoff": "none"}),
    "newton-cg": ("solver_epochs", {"solver": "newton-cg", "solver_epochs": 0.15, "handoff": "none"}),
    "hand-off to a solver": ("handoff_epochs", {"handoff": "full", "handoff_epochs": 1.5}),
    "several subsets": ("solver_epochs", {"subsets": 3, "solver_epochs": 0.5, "handoff": "none"}),
    "growing": (
        "grow_epochs",
        {"grow": 2.0, "grow_start": 0.1, "grow_stop": "cost", "grow_epochs": 0.1, "handoff": "none"},
    ),
    "stream": (
        "solver_epochs",
        {"solver": "kfac-stream", "solver_epochs": 1e-3, "solver_args": {"factor_samples": 2}, "handoff": "none"},
    ),
    "run": ("max_epochs", {**ONLY, "handoff": "sgd", "max_epochs": 0.1}),
    "used up before": ("max_epochs", {"warmup": "sgd", "warmup_epochs": 0.5, "max_epochs": 0.55, "handoff": "none"}),
    "explicit": ("phase.0.epochs", {"phase": [{"method": "sgd", "data": "full", "epochs": 0.1}]}),
    "a few samples": ("max_epochs", {"max_epochs": 1e-5}),
}


@pytest.mark.parametrize(("name", "settings"), PLANS.values(), ids=PLANS.keys())
def test_nothing_to_train_is_refused_and_what_is_asked_for_is_enough(
    name: str, settings: dict[str, Any], data: Dataset, tmp_path: Any
) -> None:
    """Before: exit 0 with untrained parameters and "planned steps done", or an internal error."""
    output = tmp_path / "run"
    with pytest.raises(UserError, match=f"^{re.escape(name)} = .*would (train nothing|be trained)") as caught:
        fit(data, **settings, output=output)
    assert "\n" not in str(caught.value) and not output.exists()
    wanted = re.search(r"use ([\d.]+) or more", str(caught.value))
    assert wanted is not None
    enough = float(wanted[1])
    if name.startswith("phase"):
        settings = {"phase": [{**settings["phase"][0], "epochs": enough}]}
    else:
        settings = {**settings, name: enough}
    if {settings.get("solver"), settings.get("handoff")} & {"kfac-stream", "glister", "gradient-matching"}:
        return  # for six inputs, their own arithmetic costs more than the model; see the test below
    steps = [phase["iterations"] for phase in fit(data, **settings)["phases"]]
    assert steps[0] > 0 and (all(steps) or name in ("max_epochs", "grow_epochs"))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("solver_epochs", {"solver": "kfac-stream", "solver_epochs": 0.06, "handoff": "none"}),
        ("handoff_epochs", {**ONLY, "handoff": "craig", "handoff_epochs": 0.61, "handoff_args": {"warmup": 0}}),
        ("max_seconds", {**ONLY, "handoff": "sgd", "max_seconds": 1e-6}),
    ],
)
def test_what_only_the_run_can_tell_is_refused_at_its_end(name: str, settings: dict[str, Any], data: Dataset) -> None:
    with pytest.raises(
        UserError, match=rf"^{name} = .*nothing was trained.*could take no step.*; use (\S+ or )?more$"
    ) as refused:
        fit(data, **settings)
    if name == "max_seconds":  # of which nobody knows how many a step takes
        return
    number = float(str(refused.value).split()[-3])
    assert number == pytest.approx(2 * settings[name], rel=0.1)  # rounded up to two digits


@pytest.mark.parametrize("sampler", ["craig", "gradmatch"])
def test_a_budget_below_a_scan_is_spent_on_the_warm_up_and_said(sampler: str, data: Dataset) -> None:
    """0.3 epoch-equivalents hold three epochs of a tenth, and no forward over all samples after one of them."""
    result = fit(data, solver="none", handoff=sampler, handoff_epochs=0.3)
    assert result["handoff"]["sampling"]["scans"] == 0 and result["cost"]["epoch_equivalents"] > 0.25
    assert any(f"{sampler} selected nothing" in text for text in result["warnings"])
    enough = fit(data, solver="none", handoff=sampler, handoff_epochs=30)
    assert enough["handoff"]["sampling"]["scans"] >= 1
    assert not any("selected nothing" in text for text in enough["warnings"])


def test_a_comparison_takes_it_for_a_finding(data: Dataset) -> None:
    """At equal cost a method may be too dear for the budget: its cell has the model as it was."""
    trainer = SubsetTrainer("linear", data, solver="none", handoff="full")
    config = trainer.config.model_copy(update={"max_epochs": 1.5})
    with pytest.raises(UserError, match="would train nothing"):
        run_training(config, dataset=data, keep=False)
    outcome = run_training(config, dataset=data, keep=False, may_idle=True)
    assert outcome.result["phases"][0]["iterations"] == 0 and outcome.result["warnings"]


def test_a_phase_without_a_step_behind_one_with_steps_is_said(data: Dataset) -> None:
    """The solve may use up what the hand-off needs: the run counts, and its result says what did not happen."""
    trainer = SubsetTrainer("linear", data, gtol=1e-12, handoff="full", max_epochs=2.3)
    outcome = run_training(trainer.config, model=None, dataset=data, keep=False)
    last = outcome.result["phases"][-1]
    assert last["iterations"] == 0 and last["stop_reason"] == "budget"
    assert any("the hand-off by lbfgs took no step" in text for text in outcome.result["warnings"])
