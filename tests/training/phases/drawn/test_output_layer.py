"""The output layer solved for within an evaluation: closed forms, the plain objective, and which models have one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt.data import dataset_from_arrays
from subsetopt.objective import Objective
from subsetopt.objective.preconditioning import make_preconditioner
from subsetopt.seeding import make_generator
from subsetopt.training.phases.drawn.output_layer import OutputLayer, SettledObjective
from subsetopt.training.phases.factory import build_phases
from subsetopt.training.preparation import prepare
from subsetopt.training.resume import resume_run
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config

G = make_generator(8, "output layer")
X = torch.randn(240, 5, generator=G, dtype=torch.float64)
LABELS = (X[:, :3].square() + 0.3 * torch.randn(240, 3, generator=G, dtype=torch.float64)).argmax(1)
VALUES = X[:, :3].square() + 0.3 * torch.randn(240, 3, generator=G, dtype=torch.float64)
FACTORS = torch.rand(240, generator=G, dtype=torch.float64) + 0.2
SETTINGS: dict[str, Any] = {
    "subset_draw": "residual",
    "handoff": "none",
    "dtype": "float64",
    "l2": 1e-2,
    "gtol": 1e-8,
    "draw_start": 1.0,
    "draw_evaluations": 5,
    "draw_share": 0.25,
}
PLAIN: dict[str, Any] = {"validation_fraction": 0, "normalize": "none"}


def net(bias: bool = True, width: int = 8) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, width), nn.Tanh(), nn.Linear(width, 3, bias=bias))


def objective_of(model: nn.Module, loss: str = "mse", **given: Any) -> Objective:
    targets = VALUES if loss == "mse" else LABELS
    return Objective(model.double(), X, targets, loss=loss, l2=1e-2, sample_factor=FACTORS, **given)


def settled(objective: Objective, slope: Tensor | None = None) -> SettledObjective:
    layer = OutputLayer.of(objective)
    assert layer is not None
    w = objective.initial()
    return SettledObjective(objective, torch.zeros_like(w) if slope is None else slope, w, layer=layer)


@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_of_squared_loss_is_that_of_ridge_regression_on_the_features(bias: bool) -> None:
    model = net(bias, width=3)
    objective = objective_of(model)
    w, settling = objective.initial(), settled(objective)
    for _ in range(12):
        settling.value_and_gradient(w)
    h = model[:-1](X).detach()
    h = torch.cat([h, torch.ones(len(h), 1, dtype=h.dtype)], 1) if bias else h
    weighted = 2 / 3 * FACTORS[:, None] * h / len(h)
    solution = torch.linalg.solve(weighted.T @ h + 1e-2 * torch.eye(h.shape[1], dtype=h.dtype), weighted.T @ VALUES)
    tail = w[-solution.numel() :]
    found = torch.cat([tail[:9].view(3, 3), tail[9:][:, None]], 1) if bias else tail.view(3, 3)
    torch.testing.assert_close(found, solution.T, atol=1e-8, rtol=1e-7)
    assert torch.equal(w[: -solution.numel()], objective.initial()[: -solution.numel()])


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("with_factors", [True, False])
def test_value_and_gradient_are_those_of_the_point_that_w_has_become(loss: str, with_factors: bool) -> None:
    objective = objective_of(net(), loss)
    w = objective.initial()
    slope = 0.01 * torch.randn(len(w), generator=G, dtype=torch.float64)
    settling = settled(objective, slope)
    if with_factors:
        settling.estimate = make_preconditioner("kfac", objective.flat, objective.loss)
        settling.estimate.update(w, *objective.piece(0, 100), make_generator(0, "factors"))
        assert settling._inverse() is not None
    before = float(objective.value(w))
    value, gradient = settling.value_and_gradient(w)
    expected, expected_gradient = objective.value_and_gradient(w)
    moved = w - objective.initial()
    torch.testing.assert_close(value, expected + slope @ moved)
    torch.testing.assert_close(gradient, expected_gradient + slope)
    assert float(value) < before and not moved[:-27].any()
    assert float(gradient[-27:].norm()) < 0.3 * float(objective.value_and_gradient(objective.initial())[1][-27:].norm())


def test_a_layer_that_is_near_enough_stays_and_costs_nothing() -> None:
    objective = objective_of(net())
    w, settling = objective.initial(), settled(objective)
    settling.tolerance = 1e9
    value, gradient = settling.value_and_gradient(w)
    assert torch.equal(w, objective.initial())
    torch.testing.assert_close(gradient, objective.value_and_gradient(w)[1])
    assert float(value) == pytest.approx(float(objective.value(w)))


def test_graphs_that_are_not_kept_are_made_again_and_charged() -> None:
    kept, cut = objective_of(net(), chunk_size=32), objective_of(net(), chunk_size=32, linearisation_memory=1)
    points, results = [], []
    for objective in (kept, cut):
        w = objective.initial()
        results.append(settled(objective).value_and_gradient(w))
        points.append(w)
    torch.testing.assert_close(*points)
    torch.testing.assert_close(*results)
    forwards = [each.meter.samples.get("forward", 0) for each in (kept, cut)]  # type: ignore[attr-defined]  # counts
    assert forwards[1] - forwards[0] == 240


def test_the_inverse_of_a_layer_is_that_of_the_whole() -> None:
    objective = objective_of(net(), "cross_entropy")
    kfac: Any = make_preconditioner("kfac", objective.flat, objective.loss)
    kfac.update(objective.initial(), *objective.piece(0, 100), make_generator(0, "factors"))
    v = torch.randn(27, generator=G, dtype=torch.float64)
    inverse = kfac.layer_inverse(4, 0.01)
    padded = torch.cat([torch.zeros(objective.size - 27, dtype=v.dtype), v])
    shift = 0.01 + float(kfac._blocks.values[-1].all(3, 9).mean())
    torch.testing.assert_close(inverse(v), kfac.apply(padded, shift)[-27:])
    assert kfac.layer_inverse(1, 0.01) is None


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.last(self.first(x)))


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 5), nn.Linear(5, 5)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh())


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))


def frozen() -> nn.Module:
    model = net()
    model[-1].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(5, 3),
        nn.Sequential(nn.Linear(5, 3), nn.Softmax(1)),
        nn.Sequential(nn.Linear(5, 4), nn.Tanh(), Scaled(4, 3)),
        Twice(),
        Tied(),
        normed(),
        frozen(),
    ],
    ids=["nothing before it", "not the end", "another forward", "called twice", "shared", "weight norm", "frozen bias"],
)
def test_models_without_an_output_layer_to_solve_for(model: nn.Module) -> None:
    outputs = model.double()(X[:2]).shape[1]
    assert OutputLayer.of(Objective(model, X, torch.zeros(240, outputs).double(), loss="mse")) is None


@pytest.mark.parametrize(("width", "solver", "solved"), [(8, "lbfgs", True), (8, "ncg", False), (600, "lbfgs", False)])
def test_only_lbfgs_solves_for_a_layer_and_only_where_it_is_cheap(width: int, solver: str, solved: bool) -> None:
    model = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))
    model = model if width > 8 else net()
    data = dataset_from_arrays(X, LABELS, **PLAIN)
    settings = make_config(SETTINGS, {"solver": solver, "dtype": "float64"})
    phase: Any = build_phases(*prepare(settings, model.double(), data))[1]
    assert (phase._objectives.layer is not None) is solved


def test_rounds_with_the_layer_solved_for_end_at_the_minimum_and_resume_to_the_bit(tmp_path: Path) -> None:
    given: dict[str, Any] = {"dataset": dataset_from_arrays(X, LABELS, **PLAIN), "figure": False}
    for limit in (9.0, 21.0):
        settings = make_config(SETTINGS, {"max_epochs": limit, "output": tmp_path / str(limit)})
        train(settings, model=net().double(), **given)
    resume_run(tmp_path / "9.0", limits={"max_epochs": 21.0}, model=net().double(), **given)
    raised, larger = ((tmp_path / limit / "model.safetensors").read_bytes() for limit in ("9.0", "21.0"))
    assert raised == larger
    longer = train(make_config(SETTINGS, {"gtol": 1e-6}), model=net().double(), dataset=given["dataset"], keep=False)
    solve, w = longer.result["solve"], list(longer.model.parameters())
    assert solve["converged"] and solve["stop_reason"] == "gradient"
    square = sum(each.square().sum() for each in w)
    loss = F.cross_entropy(longer.model(X), LABELS) + 0.5e-2 * square
    gradient = torch.cat([each.flatten() for each in torch.autograd.grad(loss, w)])
    assert float(gradient.abs().max()) < 1e-5


def test_a_checkpoint_from_before_layers_were_solved_for_goes_on_without(tmp_path: Path) -> None:
    data = dataset_from_arrays(X, LABELS, **PLAIN)

    def phase_of() -> tuple[Any, Tensor]:
        prepared = prepare(make_config(SETTINGS, {"draw_start": 0.0}), net().double(), data)
        return build_phases(*prepared)[0], prepared.run.model.flat.initial()

    before, w = phase_of()
    before._objectives.layer = None
    state = before.step(before.start(w))
    tensors, numbers = before.save(state)
    assert numbers["settles"] is False
    after, _ = phase_of()
    assert after._objectives.layer is not None
    again = after.restore(tensors, {name: value for name, value in numbers.items() if name != "settles"})
    for _ in range(9):
        state, again = before.step(state), after.step(again)
    assert state.number > 0 and torch.equal(state.solver.w, again.solver.w)
