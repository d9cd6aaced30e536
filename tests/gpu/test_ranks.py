"""One rank of NCCL (of gloo on the CPU): collectives and an objective on them, on every device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gpu_cases import close, dense, vectors

from subsetopt.distributed import ProcessRanks
from subsetopt.objective import Objective
from subsetopt.solvers import minimize


@pytest.fixture
def ranks(device: torch.device, tmp_path: Path) -> Iterator[ProcessRanks]:
    if not dist.is_available():
        pytest.skip("torch without torch.distributed")
    if device.type == "cuda" and not dist.is_nccl_available():
        pytest.skip("torch without NCCL")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield ProcessRanks()
    dist.destroy_process_group()


def test_collectives_of_one_rank_change_nothing(ranks: ProcessRanks, device: torch.device) -> None:
    """Tensors on the device go by its backend, numbers and states of generators by that of the host."""
    a, b = torch.linspace(0, 1, 5, device=device), torch.tensor(2.5, dtype=torch.float64, device=device)
    before = a.clone(), b.clone()
    ranks.sum_(a, b)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])
    rows = torch.arange(6, device=device).view(3, 2)
    gathered = ranks.gather_rows(rows, 3)
    assert torch.equal(gathered, rows) and gathered.device.type == device.type
    assert ranks.broadcast({"x": 0.1}) == {"x": 0.1} and ranks.gather([1, None]) == [[1, None]]
    told = ranks.broadcast_tensors({"w": a}, 0)["w"]
    assert told.device.type == "cpu" and torch.equal(told, a.cpu())
    assert ranks.agree(True, False, figure=1.5) == [True, False] and ranks.together(lambda: 3) == 3


def test_a_solve_on_one_rank_is_the_solve_without(ranks: ProcessRanks, device: torch.device) -> None:
    data = vectors(120).train
    results = [
        minimize(
            Objective(dense(), data.inputs, data.targets, l2=0.05, dtype=torch.float64, device=device, ranks=given),
            method="lbfgs",
            gtol=1e-7,
        )
        for given in (None, ranks)
    ]
    assert all(result.converged for result in results)
    close(results[1].x, results[0].x)
