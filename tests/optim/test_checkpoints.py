"""State of `subsetopt.optim.LBFGS`: torch's checkpoints, copies, pickles, and what is not ours to load."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subsetopt.errors import UserError
from subsetopt.optim import LBFGS
from subsetopt.seeding import make_generator, seeded_globals


class Fit(nn.Module):
    """A tanh network with its data and optimizer: copying it copies a training under way."""

    def __init__(self, kind: Callable[..., Any] = LBFGS, **settings: Any) -> None:
        super().__init__()
        draw = make_generator(0, "data")
        self.x = torch.randn(30, 3, generator=draw, dtype=torch.float64)
        self.y = torch.sin(self.x.sum(1, keepdim=True))
        with seeded_globals(0, "init"):
            self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
        self.optimizer = kind(self.net.parameters(), **settings)
        self.calls = 0

    def closure(self) -> Tensor:
        self.calls += 1
        self.optimizer.zero_grad()
        loss: Tensor = ((self.net(self.x) - self.y) ** 2).mean()
        loss.backward()
        return loss

    def step(self) -> float:
        return float(self.optimizer.step(self.closure).detach())

    @property
    def w(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.net.parameters()])


@pytest.mark.parametrize("way", [copy.deepcopy, lambda fit: pickle.loads(pickle.dumps(fit))], ids=["copy", "pickle"])
def test_a_copy_goes_on_to_the_bit_and_shares_nothing(way: Callable[[Fit], Fit]) -> None:
    fit = Fit(max_iter=4)
    for _ in range(3):
        fit.step()
    other = way(fit)
    here = fit.w
    losses = [other.step() for _ in range(3)]
    assert torch.equal(fit.w, here)
    assert [fit.step() for _ in range(3)] == losses
    assert torch.equal(fit.w, other.w)
    assert fit.optimizer.stop_reason == other.optimizer.stop_reason
    assert (
        fit.optimizer.state_dict()["state"][0]["func_evals"] == other.optimizer.state_dict()["state"][0]["func_evals"]
    )


def test_a_copy_has_all_public_attributes_and_prints() -> None:
    optimizer = LBFGS(nn.Linear(2, 1).parameters())
    other = copy.deepcopy(optimizer)
    assert {k for k in vars(optimizer) if k[0] != "_"} == {k for k in vars(other) if k[0] != "_"}
    assert "history_size: 100" in repr(other)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_torch_checkpoint_goes_on_with_its_counts_settings_and_curvature(search: str | None) -> None:
    theirs = Fit(torch.optim.LBFGS, max_iter=6, history_size=4, lr=0.7, line_search_fn=search)
    for _ in range(4):
        theirs.step()
    file = io.BytesIO()
    torch.save(theirs.optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    ours = Fit()
    ours.net.load_state_dict(theirs.net.state_dict())
    ours.optimizer.load_state_dict(saved)
    group = ours.optimizer.param_groups[0]
    assert (group["lr"], group["max_iter"], group["line_search_fn"], group["history_size"]) == (0.7, 6, search, 4)
    loss, n_iter = theirs.closure(), theirs.optimizer.state_dict()["state"][0]["n_iter"]
    group["max_iter"], group["lr"] = 1, 1.0
    w, g = theirs.w, torch.cat([p.grad.reshape(-1) for p in theirs.net.parameters() if p.grad is not None])
    direction = torchs_direction(theirs.optimizer.state_dict()["state"][0], g)
    assert ours.step() == float(loss.detach())
    assert ours.optimizer.state_dict()["state"][0]["n_iter"] == n_iter + 1
    moved = ours.w - w
    cosine = float(moved @ direction / moved.norm() / direction.norm())
    assert cosine > 0.999, "the first direction is the one of torch's pairs"
    assert float(moved @ -g / moved.norm() / g.norm()) < 0.99, "which is not that of the gradient"


def torchs_direction(state: dict[str, Any], g: Tensor) -> Tensor:
    """-H g by dense BFGS updates of the pairs in torch's state, with our choice of H0."""
    ys, ss = list(state["old_dirs"]), list(state["old_stps"])
    ys.append(g - state["prev_flat_grad"])
    ss.append(state["d"] * state["t"])
    ys, ss = ys[-4:], ss[-4:]
    gamma = max(float(s @ y / (y @ y)) for s, y in zip(ss, ys, strict=True))
    H, eye = gamma * torch.eye(len(g), dtype=g.dtype), torch.eye(len(g), dtype=g.dtype)
    for s, y in zip(ss, ys, strict=True):
        V = eye - torch.outer(y, s) / (s @ y)
        H = V.T @ H @ V + torch.outer(s, s) / (s @ y)
    return -H @ g


def test_a_torch_checkpoint_of_no_step_or_of_a_minimum_loads() -> None:
    empty = Fit(torch.optim.LBFGS)
    ours = Fit()
    ours.optimizer.load_state_dict(empty.optimizer.state_dict())
    first = ours.step()
    done = Fit(torch.optim.LBFGS, tolerance_grad=1e9)
    done.step()
    again = Fit()
    again.optimizer.load_state_dict(done.optimizer.state_dict())
    assert again.step() == first


def test_frozen_parameters_have_no_part_in_torchs_curvature() -> None:
    theirs = Fit(torch.optim.LBFGS)
    theirs.net[0].bias.requires_grad_(False)
    theirs.step()
    ours = Fit()
    ours.net.load_state_dict(theirs.net.state_dict())
    ours.net[0].bias.requires_grad_(False)
    kept = ours.net[0].bias.detach().clone()
    ours.optimizer.load_state_dict(theirs.optimizer.state_dict())
    before = float(ours.closure().detach())
    ours.step()
    assert float(ours.closure().detach()) < before and torch.equal(ours.net[0].bias, kept)


def test_a_checkpoint_saved_again_before_a_step_is_the_same() -> None:
    fit, other = Fit(max_iter=3), Fit()
    fit.step()
    saved = fit.optimizer.state_dict()
    other.optimizer.load_state_dict(saved)
    again = other.optimizer.state_dict()
    assert again["state"][0]["solver"]["numbers"] == saved["state"][0]["solver"]["numbers"]
    assert again["param_groups"] == saved["param_groups"]
    assert again["state"][0]["n_iter"] == saved["state"][0]["n_iter"]


def test_other_data_after_loading_are_noticed() -> None:
    fit = Fit(max_iter=3)
    fit.step()
    other = Fit(max_iter=3)
    other.net.load_state_dict(fit.net.state_dict())
    other.optimizer.load_state_dict(fit.optimizer.state_dict())
    other.y = -other.y
    expected = float(other.closure().detach())
    assert other.step() == expected
    assert float(other.closure().detach()) < expected


WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: torch.optim.Adam(nn.Linear(2, 1).parameters()).state_dict() | {"state": {0: {"step": 1}}}, "another opt"),
    (lambda: {"state": {}, "param_groups": []}, "one parameter group"),
    (lambda: {}, "one parameter group"),
    (lambda: nn.Linear(2, 1).state_dict(), "one parameter group"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_what_is_no_state_of_lbfgs_is_refused_in_one_line(case: int) -> None:
    make, said = WRONG[case]
    with pytest.raises(UserError, match=said) as caught:
        Fit().optimizer.load_state_dict(make())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [LBFGS, torch.optim.LBFGS])
def test_a_checkpoint_of_another_model_is_refused_in_one_line(kind: Callable[..., Any]) -> None:
    wide = [nn.Parameter(torch.ones(n, 4, dtype=torch.float64)) for n in (7, 2, 3, 1)]
    optimizer = kind(wide, max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(((p - 2) ** 2 * torch.arange(1.0, 5.0)).sum() for p in wide)
        assert isinstance(loss, Tensor)
        loss.backward()
        return loss

    optimizer.step(closure)
    fit = Fit()
    fit.optimizer.load_state_dict(optimizer.state_dict())
    start = fit.w
    with pytest.raises(UserError, match="state_dict") as caught:
        fit.step()
    assert "\n" not in str(caught.value) and torch.equal(fit.w, start)


def test_schedulers_and_hooks_see_an_ordinary_optimizer() -> None:
    fit = Fit(max_iter=2)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(fit.optimizer)
    seen: list[str] = []
    fit.optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    fit.optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    for _ in range(3):
        scheduler.step(fit.step())
    assert seen == ["before", "after"] * 3
