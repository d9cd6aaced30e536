"""Settings of `subsetopt.optim.LBFGS`: what torch takes is taken, what is wrong is one line under its own name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from subsetopt.errors import UserError
from subsetopt.optim import LBFGS


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.linspace(1.0, 2.0, math.prod(shape), dtype=torch.float64).reshape(shape))


def square(optimizer: Any, *parameters: Tensor) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(((p - 3).abs() ** 2).sum() for p in parameters if p.requires_grad)
        assert isinstance(loss, Tensor)
        loss.backward()
        return loss.detach()

    return closure


ACCEPTED: list[dict[str, Any]] = [
    {"max_iter": np.int64(5), "history_size": np.int32(7), "max_eval": np.uint8(9)},
    {"lr": np.float32(0.5), "tolerance_grad": np.float64(0), "tolerance_change": np.float32(1e-9)},
    {"lr": torch.tensor(0.5), "max_iter": torch.tensor(5)},
    {"lr": torch.tensor([1.0])},
    {"max_iter": 5.0},
    {"lr": 1},
    {"tolerance_grad": -math.inf, "tolerance_change": -1},
    {"history_size": None},
]


@pytest.mark.parametrize("settings", ACCEPTED, ids=str)
def test_numbers_of_any_library_are_numbers(settings: dict[str, Any]) -> None:
    x = parameter(3)
    optimizer = LBFGS([x], **settings)
    start = (x.detach() - 3).abs().max()
    optimizer.step(square(optimizer, x))
    assert (x.detach() - 3).abs().max() < 0.1 * start


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"lr": -1.0}, "lr = -1.0"),
    ({"lr": math.nan}, "lr = nan"),
    ({"lr": math.inf}, "lr = inf"),
    ({"lr": "fast"}, "lr = 'fast'"),
    ({"lr": torch.ones(2)}, "lr = (2,)"),
    ({"lr": None}, "lr = None"),
    ({"max_iter": 0}, "max_iter = 0"),
    ({"max_iter": 2.5}, "max_iter = 2.5"),
    ({"max_iter": "20"}, "max_iter = '20'"),
    ({"max_eval": 0}, "max_eval = 0"),
    ({"history_size": 0}, "history_size = 0"),
    ({"history_size": True}, "history_size = True"),
    ({"tolerance_grad": math.nan}, "tolerance_grad = nan"),
    ({"tolerance_change": None}, "tolerance_change = None"),
    ({"line_search_fn": "wolfe"}, "strong_wolfe"),
    ({"line_search_fn": True}, "line_search_fn"),
    ({"keep_curvature": 1}, "keep_curvature = 1"),
    ({"fixed_closure": "yes"}, "fixed_closure = 'yes'"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_mistakes_are_one_line_under_the_name_that_was_typed(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        LBFGS([parameter(2)], **settings)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_setting_that_is_spoilt_later_is_refused_at_the_next_step() -> None:
    x = parameter(2)
    optimizer = LBFGS([x])
    optimizer.param_groups[0]["max_iter"] = -3
    with pytest.raises(UserError, match="max_iter = -3"):
        optimizer.step(square(optimizer, x))


def test_several_groups_are_refused_and_one_group_with_settings_is_taken() -> None:
    with pytest.raises(UserError, match="one flat list"):
        LBFGS([{"params": [parameter(2)]}, {"params": [parameter(3)]}])
    x = parameter(2)
    optimizer = LBFGS([{"params": [x], "max_iter": 3}])
    with pytest.raises(UserError, match="one flat list"):
        optimizer.add_param_group({"params": [parameter(1)]})
    assert optimizer.param_groups[0]["max_iter"] == 3


def test_named_parameters_keep_their_names() -> None:
    model = nn.Linear(2, 1)
    optimizer = LBFGS(model.named_parameters())
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Parameter(torch.zeros(2, device="meta")), "meta"),
        (lambda: nn.LazyLinear(3).weight, "lazy"),
    ],
)
def test_parameters_that_hold_no_numbers_are_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        LBFGS([make()])


@pytest.mark.parametrize("lr", [0, 0.0, torch.tensor(0.0)])
def test_at_learning_rate_zero_a_step_evaluates_and_counts_as_torch_does(lr: Any) -> None:
    seen = []
    for kind in (LBFGS, torch.optim.LBFGS):
        x = parameter(2)
        optimizer: Any = kind([x], lr=lr)
        loss = optimizer.step(square(optimizer, x))
        seen.append((float(loss), x.tolist(), optimizer.state_dict()["state"][0]["n_iter"]))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("first", [0.0, 1e-300, 1e-12])
def test_a_schedule_that_starts_at_or_near_zero_does_not_freeze(first: float) -> None:
    x = parameter(4)
    optimizer = LBFGS([x])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: max(first, epoch / 4))
    for _ in range(5):
        optimizer.step(square(optimizer, x))
        scheduler.step()
    torch.testing.assert_close(x.detach(), torch.full((4,), 3.0, dtype=torch.float64))


def test_frozen_parameters_stay_and_may_be_unfrozen_later() -> None:
    moving, frozen = parameter(2), parameter(3)
    frozen.requires_grad_(False)
    optimizer = LBFGS([moving, frozen], history_size=5)
    optimizer.step(square(optimizer, moving, frozen))
    assert torch.equal(frozen, parameter(3).detach())
    frozen.requires_grad_(True)
    optimizer.step(square(optimizer, moving, frozen))
    torch.testing.assert_close(frozen.detach(), torch.full((3,), 3.0, dtype=torch.float64))


def test_all_frozen_evaluates_and_moves_nothing_as_torch_does() -> None:
    for kind in (LBFGS, torch.optim.LBFGS):
        x = torch.ones(2)
        optimizer: Any = kind([x])
        assert optimizer.step(lambda: torch.tensor([10])).tolist() == [10]
        assert x.tolist() == [1.0, 1.0] and optimizer.state_dict()["state"][0]["func_evals"] == 1


def test_complex_parameters_are_pairs_of_real_ones() -> None:
    draw = torch.Generator().manual_seed(0)
    z = nn.Parameter(torch.randn(5, dtype=torch.complex128, generator=draw))
    pair = nn.Parameter(torch.view_as_real(z.detach()).clone())
    factor = torch.randn(5, 5, dtype=torch.complex128, generator=draw)
    for p, of in ((z, lambda: z), (pair, lambda: torch.view_as_complex(pair))):
        optimizer = LBFGS([p], max_iter=20)

        def closure(optimizer: LBFGS = optimizer, of: Callable[[], Tensor] = of) -> Tensor:
            optimizer.zero_grad()
            loss = ((factor @ of() - 1).abs() ** 2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
    torch.testing.assert_close(torch.view_as_real(z.detach()), pair.detach(), rtol=1e-9, atol=1e-9)
    assert float((factor @ z - 1).abs().max().detach()) < 1e-3


def test_parameters_of_two_dtypes_reach_the_minimum_that_each_can_hold() -> None:
    wide, narrow = parameter(3), nn.Parameter(torch.ones(2))
    optimizer = LBFGS([narrow, wide], max_iter=50)
    optimizer.step(square(optimizer, wide, narrow))
    torch.testing.assert_close(wide.detach(), torch.full((3,), 3.0, dtype=torch.float64), rtol=1e-7, atol=0)
    torch.testing.assert_close(narrow.detach(), torch.full((2,), 3.0))
    before = wide.detach().clone()
    optimizer.step(square(optimizer, wide, narrow))
    assert torch.equal(wide.detach(), before), "the point is recognised although w is wider than a parameter"


def test_sparse_gradients_count_as_dense_ones() -> None:
    ends = []
    for sparse in (True, False):
        table = nn.Embedding.from_pretrained(torch.arange(10.0).reshape(5, 2), freeze=False, sparse=sparse)
        optimizer = LBFGS(table.parameters())

        def closure(optimizer: LBFGS = optimizer, table: nn.Embedding = table) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = (table(torch.tensor([1, 2, 2])) ** 2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        ends.append(table.weight.detach().clone())
    assert torch.equal(*ends) and float(ends[0][1:3].abs().max()) < 1e-6


def test_another_history_size_keeps_the_newest_pairs() -> None:
    """The step after the change is that of a solver that had this size all along and learnt the same pairs."""
    scale = torch.arange(1.0, 7.0, dtype=torch.float64)
    ends = []
    for first, then in ((10, 10), (10, 2), (2, 10), (2, 2)):
        x = parameter(6)
        optimizer = LBFGS([x], max_iter=3, history_size=first)

        def closure(optimizer: LBFGS = optimizer, x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss = (scale * (x - 3) ** 4).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        optimizer.param_groups[0]["history_size"] = then
        optimizer.step(closure)
        optimizer.step(closure)
        ends.append(x.detach().clone())
    torch.testing.assert_close(ends[1], ends[3], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(ends[0], ends[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("then", "same"), [(50, True), (5, False)])
def test_another_history_size_keeps_what_its_pairs_say_of_a_diagonal(then: int, same: bool) -> None:
    """H0 stays a diagonal where the pairs kept are more than make one; after few pairs nothing of it is left."""
    scale, ends = torch.logspace(0, 3, 15, dtype=torch.float64), []
    for sizes in ((60, 60, 60), (60, then, 60)):
        x = parameter(15)
        optimizer = LBFGS([x], max_iter=7, history_size=sizes[0], line_search_fn="strong_wolfe")

        def closure(optimizer: LBFGS = optimizer, x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss = torch.sqrt(1 + scale * (x - 3) ** 2).sum()
            loss.backward()
            return loss

        for size, iterations in zip(sizes, (7, 1, 1), strict=True):
            optimizer.param_groups[0].update(history_size=size, max_iter=iterations)
            optimizer.step(closure)
        ends.append(x.detach().clone())
    assert torch.allclose(*ends, rtol=1e-6, atol=1e-8) == same


def test_a_model_converted_midway_goes_on_in_its_new_dtype() -> None:
    model = nn.Linear(3, 1)
    optimizer = LBFGS(model.parameters(), max_iter=2)
    optimizer.step(square(optimizer, *model.parameters()))
    model.double()
    for _ in range(3):
        optimizer.step(square(optimizer, *model.parameters()))
    assert all(torch.allclose(p, torch.full_like(p, 3.0), rtol=1e-7) for p in model.parameters())
