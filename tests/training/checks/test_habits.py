"""Habits of other frameworks: what would be trained on in silence is said, and what is meant is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from subsetopt import SubsetTrainer
from subsetopt.errors import UserError, command_line
from subsetopt.training.checks.habits import phase_notes, unused_notes
from subsetopt.training.settings.run import RunConfig, make_config

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4)).astype(np.float32)
LABELS = (X @ RNG.normal(size=(4, 3))).argmax(1)


def warnings(y: Any, *last: nn.Module, outputs: int = 3, **settings: Any) -> str:
    model = nn.Sequential(nn.Linear(4, outputs), *last)
    trainer = SubsetTrainer(model, (X, y), subset_frac=0.5, max_iterations=2, handoff="none", **settings)
    return " ".join(trainer.fit().result["warnings"])


@pytest.mark.parametrize("loss", [None, nn.CrossEntropyLoss(label_smoothing=0.1)])
def test_a_softmax_before_cross_entropy_is_named(loss: Any) -> None:
    settings = {} if loss is None else {"loss": loss}
    assert "leave a softmax at its end out" in warnings(LABELS, nn.Softmax(1), **settings)
    for last in ((), (nn.Softplus(),), (nn.LogSoftmax(1),)):
        assert "softmax" not in warnings(LABELS, *last, **settings)


def test_a_sigmoid_before_logits_is_named() -> None:
    y = (LABELS == 1).astype(np.float32)[:, None]
    assert "leave a sigmoid at its end out" in warnings(y, nn.Sigmoid(), outputs=1, loss=nn.BCEWithLogitsLoss())
    assert "sigmoid" not in warnings(y, nn.Sigmoid(), outputs=1, loss=nn.BCELoss())
    assert "sigmoid" not in warnings(y, outputs=1, loss=nn.BCEWithLogitsLoss())


def test_a_class_of_losses_and_channels_last_are_refused_with_what_to_give() -> None:
    with pytest.raises(UserError, match=r"CrossEntropyLoss'?: is a class; give an object of it: CrossEntropyLoss\(\)"):
        warnings(LABELS, loss=nn.CrossEntropyLoss)
    images = RNG.integers(0, 256, (40, 12, 12, 1)).astype(np.uint8)
    with pytest.raises(UserError, match=r"channels last; give them as x\.transpose\(0, 3, 1, 2\)"):
        SubsetTrainer("cnn", (images, np.arange(40) % 2), subset_frac=0.5, max_iterations=1, handoff="none").fit()


@pytest.mark.parametrize("settings", [{"subset_frac": 0.5}, {"subset_size": 40}, {"max_iterations": 7}])
def test_settings_of_a_solve_that_is_not_made_are_said_to_have_no_effect(settings: dict[str, Any]) -> None:
    def notes(**more: Any) -> str:
        trainer = SubsetTrainer(nn.Linear(4, 3), (X, LABELS), handoff_epochs=1, **settings, **more)
        return " ".join(trainer.fit().result["warnings"])

    (name, value), *_ = settings.items()
    assert f"{name}={value} has no effect with" in notes(solver="none")
    assert f"{name}={value} has no effect with" in notes(solver="kfac-stream", solver_epochs=2)
    assert "no effect" not in notes(solver="none", warmup="adam")  # which is on the subset
    assert "no effect" not in notes(solver="lbfgs")


def test_a_solver_as_hand_off_is_refused_with_how_to_ask_for_it() -> None:
    for name in ("lbfgs", "kfac-stream"):
        with pytest.raises(UserError, match=f"is a solver; use handoff='full' with handoff_solver='{name}'"):
            SubsetTrainer(nn.Linear(4, 3), (X, LABELS), handoff=name).fit()
        trainer = SubsetTrainer(nn.Linear(4, 3), (X, LABELS), handoff="full", handoff_solver=name, handoff_epochs=2)
        assert trainer.fit().result["handoff"] is not None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"handoff": "none", "handoff_lr": 0.1}, "handoff_lr=0.1 has no effect with handoff='none'"),
        ({"handoff": "none", "handoff_epochs": 3}, "handoff_epochs=3.0 has no effect with handoff='none'"),
        ({"handoff": "none", "warmup_epochs": 2}, "warmup_epochs=2.0 has no effect with warmup='none'"),
        ({"handoff": "adam", "handoff_momentum": 0.5}, "handoff_momentum=0.5 has no effect with handoff='adam'"),
    ],
)
def test_settings_of_a_part_that_is_left_out_are_said_to_have_no_effect(settings: dict[str, Any], named: str) -> None:
    trainer = SubsetTrainer(nn.Linear(4, 3), (X, LABELS), subset_frac=0.5, max_iterations=2, **settings).fit()
    assert named in trainer.result["warnings"]


LISTED = {"phase": [{"method": "lbfgs", "data": "full", "max_iterations": 2}]}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"handoff": "adam"}, "handoff: no effect beside [[phase]]"),
        ({"gtol": 1e-3, "subset_draw": "residual"}, "gtol, subset_draw: no effect"),
        ({"grow": 2, "warmup": "adam", "warmup_lr": 0.1, "max_iterations": 7}, "and others: no effect"),
        ({"l2": 0.1, "max_epochs": 9, "subset_frac": 0.5, "seed": 3}, None),
    ],
)
def test_settings_that_plan_phases_have_no_effect_beside_listed_ones(
    settings: dict[str, Any], named: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert phase_notes(make_config(settings)) == []
    found = phase_notes(make_config(settings, LISTED))
    assert [named in note for note in found] == ([True] if named else []), found
    SubsetTrainer(nn.Linear(4, 3), (X, LABELS), **settings, **LISTED)
    assert [record.getMessage() for record in caplog.records] == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"betas": 0.9}, "betas = 0.9: takes 2 values; for example betas=0.9,0.999"),
        ({"betas": [0.9, 0.9, 0.9]}, "takes 2 values"),
        ({"betas": [1.5, 0.9]}, "Invalid beta parameter"),
        ({"eps": -1.0}, "Invalid epsilon value"),
    ],
)
@pytest.mark.parametrize("place", ["warmup", "handoff"])
def test_arguments_that_an_optimizer_cannot_take_are_refused_before_the_first_step(
    arguments: dict[str, Any], message: str, place: str
) -> None:
    """An internal error in the middle of the run, in torch's step."""
    for method in ("adam", "torch.optim:Adam"):
        settings = {place: method, f"{place}_args": arguments}
        iterations: list[Any] = []
        with pytest.raises(UserError, match=message):
            SubsetTrainer(nn.Linear(4, 3), (X, LABELS), on_iteration=iterations.append, **settings).fit()
        assert not iterations


def test_classes_are_said_to_have_no_part_in_a_draw_by_residuals() -> None:
    def notes(**more: Any) -> str:
        config = RunConfig(subset_draw="residual", handoff="none", **more)
        return " ".join(unused_notes(config))

    said = "has no effect with --subset-draw residual"
    with command_line(["train", "--subset-draw", "residual", "--stratify"]):
        assert notes() == f"--stratify {said}, which draws by residuals, not by class"
    with command_line(["train", "--subset-draw=residual", "--no-stratify"]):
        assert notes(stratify=False).startswith(f"--no-stratify {said}")
    assert notes(stratify=False).startswith("stratify=False has no effect with subset_draw='residual'")
    with command_line(["train", "--subset-draw", "residual"]):
        assert notes() == notes(stratify=True) == ""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "huber"}, "or give a loss of torch.nn, such as loss=torch.nn.HuberLoss()"),
        ({"dtype": "bfloat16"}, "'float32' or 'float64'"),
        ({"grow": 2, "subsets": 3}, "give one of them"),
    ],
)
def test_remedies_in_python_are_not_of_the_command_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        SubsetTrainer(nn.Linear(4, 3), (X, LABELS), **settings)
    assert said in str(caught.value)
    assert "subsetopt train" not in str(caught.value)
