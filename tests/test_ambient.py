"""Runs under whatever modes of torch the caller has switched on: the same bits as without."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from subsetopt import Objective, SubsetTrainer, minimize
from subsetopt.ambient import ordinary_torch
from subsetopt.data import dataset_from_arrays
from subsetopt.objective.arithmetic import exact_arithmetic
from subsetopt.seeding import make_generator, seeded_globals

X = torch.randn(120, 6, generator=make_generator(0, "ambient"))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
DATA = dataset_from_arrays(X, Y)
with seeded_globals(0, "ambient"):
    NET = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 3))


@contextmanager
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES: dict[str, AbstractContextManager[None]] = {
    "no_grad": torch.no_grad(),
    "inference_mode": torch.inference_mode(),
    "autocast": torch.autocast("cpu", torch.bfloat16),
    "default device": torch.device("meta"),
    "default dtype": double_by_default(),
}


def fitted(solver: str) -> Tensor:
    length = {"solver_epochs": 2} if solver == "kfac-stream" else {"max_iterations": 3}
    trainer = SubsetTrainer(NET, DATA, subset_frac=0.5, solver=solver, handoff="sgd", handoff_epochs=1, **length).fit()
    assert trainer.evaluate(X, Y)["loss"] > 0 and len(trainer.predictor.predict(X)) == len(X)
    return torch.cat([parameter.detach().reshape(-1) for parameter in trainer.model.parameters()])


@pytest.fixture(scope="module")
def references() -> dict[str, Tensor]:
    return {solver: fitted(solver) for solver in ("lbfgs", "newton-cg", "kfac-stream")}


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "kfac-stream"])
@pytest.mark.parametrize("mode", MODES)
def test_fit_gives_the_same_bits(mode: str, solver: str, references: dict[str, Tensor]) -> None:
    with MODES[mode] if mode != "default dtype" else double_by_default():
        found = fitted(solver)
    assert torch.equal(found, references[solver])


def test_all_made_in_inference_mode_gives_the_same_bits(references: dict[str, Tensor]) -> None:
    global NET, DATA
    before = NET, DATA
    try:
        with torch.inference_mode(), seeded_globals(0, "ambient"):
            NET = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 3))
            DATA = dataset_from_arrays(X.clone(), Y.clone())
            found = {solver: fitted(solver) for solver in references}
    finally:
        NET, DATA = before
    assert all(torch.equal(found[solver], references[solver]) for solver in references)


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode", "autocast"])
def test_objectives_do_too(mode: str) -> None:
    def solved(context: AbstractContextManager[None]) -> Tensor:
        with context:
            objective = Objective(NET, X, Y, l2=1e-3)
            products = objective.linearise(objective.initial())
            return minimize(objective, max_iterations=3).x + products.ggnvp(products.hvp(objective.initial()))

    assert torch.equal(solved(MODES[mode]).clone(), solved(nullcontext()))


def test_the_callers_modes_come_back() -> None:
    with torch.no_grad(), double_by_default(), torch.device("meta"), torch.autocast("cpu"):
        with ordinary_torch():
            inside = torch.is_grad_enabled(), torch.zeros(1).dtype, torch.zeros(1).device.type
            assert inside == (True, torch.float32, "cpu") and not torch.is_autocast_enabled("cpu")
        outside = torch.is_grad_enabled(), torch.zeros(1).dtype, torch.zeros(1).device.type
        assert outside == (False, torch.float64, "meta") and torch.is_autocast_enabled("cpu")


def test_a_switch_of_the_process_is_restored_by_the_last_thread_that_needs_it() -> None:
    """Two threads whose stays overlap: the first one to leave must not restore it under the other."""
    inside, leave = threading.Event(), threading.Event()
    seen: list[torch.dtype] = []

    def stays() -> None:
        with ordinary_torch():
            inside.set()
            leave.wait(10)
            seen.append(torch.zeros(1).dtype)

    with double_by_default():
        thread = threading.Thread(target=stays)
        with ordinary_torch():
            thread.start()
            inside.wait(10)
        leave.set()
        thread.join()
        assert seen == [torch.float32] and torch.zeros(1).dtype == torch.float64


def test_so_is_the_precision_of_products() -> None:
    inside, leave = threading.Event(), threading.Event()
    seen: list[str] = []

    def stays() -> None:
        with exact_arithmetic(torch.device("cpu")):
            inside.set()
            leave.wait(10)
            seen.append(torch.get_float32_matmul_precision())

    torch.set_float32_matmul_precision("medium")
    try:
        thread = threading.Thread(target=stays)
        with exact_arithmetic(torch.device("cpu")):
            thread.start()
            inside.wait(10)
        leave.set()
        thread.join()
        assert seen == ["highest"] and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
