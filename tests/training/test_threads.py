"""Several threads at once: each gets what it would get alone, bit for bit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from joblib import Parallel, delayed
from torch import Tensor, nn

from subsetopt import Objective, SubsetTrainer, build_model, minimize
from subsetopt.data import dataset_from_arrays
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.seeding import borrowed_generators, make_generator, seeded_globals

X = torch.randn(160, 8, generator=make_generator(0, "threads"))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
DATA = dataset_from_arrays(X, Y)
THREADS = 3


def net(p: float) -> nn.Module:
    with seeded_globals(0, "threads"):
        return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Dropout(p), nn.Linear(12, 3))


def together(work: Callable[[int], Any]) -> list[Any]:
    """Run `work` in threads that start at one moment, and take turns as often as the interpreter can make them."""
    start = threading.Barrier(THREADS)

    def run(index: int) -> Any:
        start.wait()
        return work(index)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def trained(handoff: str, solver: str = "lbfgs") -> Tensor:
    length = {"solver_epochs": 2} if solver == "kfac-stream" else {"max_iterations": 4}
    trainer = SubsetTrainer(
        net(0.3),
        DATA,
        subset_frac=0.5,
        solver=solver,
        handoff=handoff,
        handoff_epochs=2,
        handoff_batch_size=8,
        **length,
    ).fit()
    return torch.cat([parameter.detach().reshape(-1) for parameter in trainer.model.parameters()])


@pytest.mark.parametrize(("handoff", "solver"), [("sgd", "lbfgs"), ("none", "kfac-stream")])
def test_models_that_draw_random_numbers_train_as_if_alone(handoff: str, solver: str) -> None:
    alone = trained(handoff, solver)
    assert all(torch.equal(alone, found) for found in together(lambda _: trained(handoff, solver)))


def test_joblib_threads_do_too() -> None:
    alone = trained("adam")
    found = Parallel(n_jobs=2, backend="threading")(delayed(trained)("adam") for _ in range(3))
    assert all(torch.equal(alone, each) for each in found)


@pytest.mark.parametrize("method", ["lbfgs", "ncg", "newton-cg"])
def test_one_objective_serves_several_threads(method: str) -> None:
    objective = Objective(net(0.0), X, Y, l2=1e-3, chunk_size=9)
    starts = [objective.initial() + 0.1 * index for index in range(THREADS)]

    def solve(index: int) -> tuple[Tensor, dict[str, int]]:
        result = minimize(objective, starts[index], method=method, gtol=0.0, max_iterations=8)
        return result.x, dict(result.counts)

    alone = [solve(index) for index in range(THREADS)]
    for (x, counts), (expected, expected_counts) in zip(together(solve), alone, strict=True):
        assert torch.equal(x, expected) and counts == expected_counts


def test_factors_noise_and_modules_of_one_objective_are_each_threads_own() -> None:
    objective = Objective(net(0.0), X, Y, chunk_size=9, track_noise=True)
    points = [objective.initial() + 0.1 * index for index in range(THREADS)]

    def work(index: int) -> list[Tensor]:
        found = []
        for _ in range(3):
            objective.value_and_gradient(points[index])
            kfac = Kfac(objective.flat, objective.loss)
            kfac.update(points[index], X, Y, make_generator(0, "kfac"))
            module = objective.flat.module(points[index])
            found += [objective.gradient_noise, kfac.product(points[index]), next(module.parameters()).detach()]
        return found

    alone = [work(index) for index in range(THREADS)]
    assert all(all(map(torch.equal, a, b)) for a, b in zip(together(work), alone, strict=True))


def test_models_are_built_as_if_alone() -> None:
    def build(index: int) -> Tensor:
        models = [build_model("mlp", in_shape=(8,), n_outputs=3, seed=index) for _ in range(10)]
        return torch.stack([next(model.parameters()).detach() for model in models])

    alone = [build(index) for index in range(THREADS)]
    assert all(map(torch.equal, together(build), alone))


def test_a_fit_in_a_thread_leaves_signals_and_grad_mode_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    with torch.no_grad():
        found = together(lambda _: (trained("none"), torch.is_grad_enabled())[1])
        assert not torch.is_grad_enabled()
    assert found == [True] * THREADS and signal.getsignal(signal.SIGINT) is before


def test_an_interrupted_holder_gives_the_generators_back() -> None:
    with pytest.raises(KeyboardInterrupt), borrowed_generators():
        raise KeyboardInterrupt
    assert together(lambda index: trained("none").numel())[0] > 0
