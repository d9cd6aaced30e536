"""Closures as people write them: changing data, missing parts, other frameworks' calling patterns."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from subsetopt.errors import UserError
from subsetopt.optim import LBFGS
from subsetopt.seeding import make_generator, seeded_globals
from subsetopt.solvers import StopReason


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


class Bowl:
    """(x - target)² with a target that the caller may move."""

    def __init__(self, kind: Callable[..., Any] = LBFGS, **settings: Any) -> None:
        self.x, self.target, self.calls = parameter(4.0, -2.0), 1.0, 0
        self.optimizer = kind([self.x], **settings)

    def __call__(self) -> Tensor:
        self.calls += 1
        self.optimizer.zero_grad()
        loss = ((self.x - self.target) ** 2).sum()
        loss.backward()
        return loss

    def step(self) -> float:
        return float(self.optimizer.step(self).detach())


@pytest.mark.parametrize("keep", [True, False])
def test_a_minimum_that_moves_is_followed_and_no_stale_loss_is_reported(keep: bool) -> None:
    bowl = Bowl(keep_curvature=keep)
    bowl.step()
    for target in (5.0, -3.0, 0.25):
        before = bowl.x.detach().clone()
        bowl.target = target
        assert bowl.step() == float(((before - target) ** 2).sum())
        torch.testing.assert_close(bowl.x.detach(), torch.full_like(before, target))
        assert bowl.optimizer.stop_reason == StopReason.GRADIENT


def test_new_data_of_equal_loss_are_noticed_by_the_gradient() -> None:
    x = parameter(0.0)
    optimizer = LBFGS([x], max_iter=1)
    for target in (1.0, -1.0):  # at 0 both losses are 1
        with torch.no_grad():
            x.zero_()

        def closure(target: float = target) -> Tensor:
            optimizer.zero_grad()
            loss = ((x - target) ** 2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        assert float(x.detach()) * target > 0


def mini_batches(optimizer: Any, model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> list[int]:
    """Run the usual loader loop; return the closure calls of every step."""
    calls: list[int] = []
    draw = make_generator(0, "batches")
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=draw).split(32):
            calls.append(0)

            def closure(rows: Tensor = rows) -> Tensor:
                calls[-1] += 1
                optimizer.zero_grad()
                loss: Tensor = nn.functional.mse_loss(model(x[rows]), y[rows])
                loss.backward()
                return loss

            optimizer.step(closure)
    return calls


@pytest.mark.parametrize("max_iter", [1, 4])
def test_every_mini_batch_moves_the_parameters(max_iter: int) -> None:
    draw = make_generator(0, "data")
    x = torch.randn(256, 4, generator=draw)
    y = x @ torch.ones(4, 1) + 0.1 * torch.randn(256, 1, generator=draw)
    with seeded_globals(0, "init"):
        model = nn.Linear(4, 1)
    optimizer = LBFGS(model.parameters(), max_iter=max_iter)
    start = float(nn.functional.mse_loss(model(x), y).detach())
    calls = mini_batches(optimizer, model, x, y, epochs=3)
    assert min(calls) >= 2, "a batch that is not looked at teaches nothing"
    assert float(nn.functional.mse_loss(model(x), y).detach()) < 0.02 * start
    assert optimizer.state_dict()["state"][0]["func_evals"] == sum(calls)
    assert optimizer.state_dict()["state"][0]["n_iter"] >= len(calls)


@pytest.mark.parametrize(("keep", "new", "newton"), [(True, 50.0, True), (False, 50.0, False), (True, 5000.0, False)])
def test_keep_curvature_decides_whether_pairs_outlive_data_that_are_not_wholly_other(
    keep: bool, new: float, newton: bool
) -> None:
    bowl = Bowl(keep_curvature=keep, max_iter=1)
    bowl.target = 900.0
    bowl.step()
    bowl.step()  # the pair is exact now; move away from the minimum by hand
    with torch.no_grad():
        bowl.x.sub_(400.0)
    bowl.optimizer.param_groups[0]["lr"] = 0.0
    bowl.step()
    bowl.optimizer.param_groups[0]["lr"] = 1.0
    bowl.target = new
    bowl.step()
    assert (float((bowl.x.detach() - new).abs().max()) < 1e-6 * new) == newton


def test_counts_are_those_of_torch() -> None:
    ours, theirs = Bowl(max_iter=3), Bowl(torch.optim.LBFGS, max_iter=3, lr=0.3)
    for bowl in (ours, theirs):
        seen = []
        for target in (1.0, 2.0, 7.0):
            bowl.target = target
            bowl.step()
            seen.append(bowl.optimizer.state_dict()["state"][0])
            seen[-1] = (seen[-1]["n_iter"], seen[-1]["func_evals"])
        assert all(a[0] < b[0] for a, b in itertools.pairwise(seen))
        assert seen[-1][1] == bowl.calls


def test_a_step_beyond_the_precision_floor_counts_an_attempt() -> None:
    bowl = Bowl(tolerance_grad=-1.0)  # torch's way to switch the test off

    def closure() -> Tensor:
        loss = bowl()
        bowl.x.grad += 1e-3  # no zero of this gradient is a minimum of the loss
        return loss

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(1, 6):
            bowl.optimizer.step(closure)
            assert bowl.optimizer.state_dict()["state"][0]["n_iter"] >= step


NO_LOSS: list[tuple[Callable[[], Any], str]] = [
    (lambda: None, "returns None"),
    (lambda: {"loss": 1.0}, "returns dict"),
    (lambda: "0.5", "returns str"),
    (lambda: torch.zeros(3), "shape (3,)"),
    (lambda: torch.zeros((), dtype=torch.complex64), "complex64"),
    (lambda: torch.zeros((), dtype=torch.bfloat16), "autocast"),
]


@pytest.mark.parametrize(("returned", "said"), NO_LOSS, ids=[said for _, said in NO_LOSS])
def test_a_closure_without_a_loss_is_one_line(returned: Callable[[], Any], said: str) -> None:
    bowl = Bowl()
    start = bowl.x.detach().clone()

    def closure() -> Any:
        bowl()
        return returned()

    with pytest.raises(UserError) as caught:
        bowl.optimizer.step(closure)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert torch.equal(bowl.x.detach(), start)


LOSSES: list[Callable[[Tensor], Any]] = [
    lambda loss: loss,
    lambda loss: loss.reshape(1),
    lambda loss: loss.item(),
    lambda loss: np.float64(loss.item()),
    lambda loss: np.float32(loss.item()),
    lambda loss: np.array(loss.item()),
    lambda loss: loss.detach().numpy(),
    lambda loss: loss.float(),
]


@pytest.mark.parametrize("form", range(len(LOSSES)))
def test_a_loss_comes_in_every_form_that_torch_takes_and_is_returned_in_it(form: int) -> None:
    bowl = Bowl(max_iter=3)

    def closure() -> Any:
        return LOSSES[form](bowl())

    first = closure()
    returned = bowl.optimizer.step(closure)
    assert type(returned) is type(first) and float(np.asarray(returned).item()) == 18.0
    assert float(bowl().detach()) < 1e-6


def test_a_closure_without_backward_is_one_line() -> None:
    bowl = Bowl()
    with pytest.raises(UserError, match="backward"):
        bowl.optimizer.step(lambda: ((bowl.x - 1) ** 2).sum())
    start = bowl.x.detach().clone()
    ((bowl.x - 1) ** 2).sum().backward()  # once, outside
    with pytest.raises(UserError, match="backward"):
        bowl.optimizer.step(lambda: ((bowl.x - 1) ** 2).sum())
    assert torch.equal(bowl.x.detach(), start)


def test_gradients_set_by_hand_or_accumulated_in_place_are_gradients() -> None:
    ends = []
    for way in range(3):
        bowl = Bowl()

        def closure(bowl: Bowl = bowl, way: int = way) -> Tensor:
            loss = ((bowl.x - 1) ** 2).sum()
            if way == 0:
                (bowl.x.grad,) = torch.autograd.grad(loss, bowl.x)
            elif way == 1:
                bowl.optimizer.zero_grad(set_to_none=False)
                loss.backward()
            else:
                if bowl.x.grad is None:
                    bowl.x.grad = torch.zeros_like(bowl.x)
                bowl.x.grad.data.copy_(torch.autograd.grad(loss, bowl.x)[0])  # leaves no trace in the version counter
            return loss

        bowl.optimizer.step(closure)
        ends.append(bowl.x.tolist())
    assert ends[0] == ends[1] == ends[2] and ends[0] == pytest.approx([1.0, 1.0])


def test_a_linear_loss_has_the_same_gradient_everywhere() -> None:
    x = parameter(1.0)
    optimizer = LBFGS([x], max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=False)
        loss = 3 * x.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(x.detach()) < 1.0


def test_zero_gradients_without_backward_move_nothing_as_in_torch() -> None:
    bowl = Bowl()
    bowl.x.grad = torch.zeros_like(bowl.x)
    start = bowl.x.detach().clone()
    assert bowl.optimizer.step(lambda: torch.tensor([1.0])).tolist() == [1.0]
    assert torch.equal(bowl.x.detach(), start)


@pytest.mark.parametrize("given", [(), (None,), (0.5,)])
def test_a_step_without_a_closure_is_one_line(given: tuple[Any, ...]) -> None:
    with pytest.raises(UserError, match=r"step\(closure\)"):
        Bowl().optimizer.step(*given)


def test_a_scaler_and_autocast_are_refused_in_one_line_and_leave_no_trace() -> None:
    bowl = Bowl()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(((bowl.x - 1) ** 2).sum()).backward()
    for arguments in ((), (bowl,)):
        with pytest.raises(UserError, match="GradScaler"):
            scaler.step(bowl.optimizer, *arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(UserError, match="autocast"):
        bowl.step()
    with torch.inference_mode(), pytest.raises(UserError, match="inference_mode"):
        bowl.step()
    with torch.no_grad():
        bowl.step()
    assert bowl.x.tolist() == pytest.approx([1.0, 1.0])


def test_a_gradient_that_contradicts_the_loss_is_said_once() -> None:
    bowl = Bowl()

    def closure() -> Tensor:
        bowl.optimizer.zero_grad()
        loss = ((bowl.x - 1) ** 2).sum()
        (2.0**16 * loss).backward()
        return loss

    with pytest.warns(UserWarning, match="no step along the closure's gradient lowers its loss") as said:
        for _ in range(3):
            bowl.optimizer.step(closure)
    assert len(said) == 1


def test_a_batch_of_nan_is_passed_over_and_the_next_one_trained_on() -> None:
    bowl = Bowl()
    start = bowl.x.detach().clone()
    bowl.target = math.nan
    assert math.isnan(bowl.step())
    assert torch.equal(bowl.x.detach(), start)
    bowl.target = 1.0
    bowl.step()
    assert bowl.x.tolist() == pytest.approx([1.0, 1.0])


def test_dropout_in_the_closure_still_trains() -> None:
    draw = make_generator(0, "data")
    x = torch.randn(200, 5, generator=draw)
    y = x.sum(1, keepdim=True)
    with seeded_globals(0, "init"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.1), nn.Tanh(), nn.Linear(40, 1))
        optimizer = LBFGS(model.parameters(), max_iter=1)
        for _ in range(60):

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss: Tensor = nn.functional.mse_loss(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
        model.eval()
        assert float(nn.functional.mse_loss(model(x), y).detach()) < 0.3 * float(y.var())


def test_skorchs_pattern_reads_what_the_closure_stored() -> None:
    bowl = Bowl()
    bowl.step()
    for _ in range(3):  # at the minimum
        stored: list[Tensor] = []

        def closure(stored: list[Tensor] = stored) -> Tensor:
            stored.append(bowl())
            return stored[-1]

        bowl.optimizer.step(closure)
        assert float(stored[0].detach()) < 1e-12
