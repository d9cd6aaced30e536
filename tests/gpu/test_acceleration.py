"""CUDA graphs on a GPU against the plain evaluation, and what they hold in memory on any device."""

from __future__ import annotations

import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable

import pytest
import torch
from gpu_cases import close

from subsetopt.objective import Objective, chunks
from subsetopt.objective.acceleration import ChunkGraphs
from subsetopt.solvers import minimize
from tests.objective.objective_nets import problem


@pytest.mark.parametrize("name", ["mlp", "cnn", "pooled", "resnet", "tied"])
def test_captured_graphs_equal_the_plain_evaluation_at_changing_points(
    name: str, cuda: torch.device, repeatable: None
) -> None:
    """23 samples make chunks of 6 and 5: two graphs. No warning, which would say that nothing was captured."""
    model, x, y = problem(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain, graphed = (
            Objective(model, x, y, l2=0.1, chunk_size=6, device=cuda, cuda_graphs=graphs) for graphs in (False, True)
        )
        w = plain.initial()
        for scale in (1.0, 0.5, -0.3):
            for a, b in zip(plain.value_and_gradient(scale * w), graphed.value_and_gradient(scale * w), strict=True):
                close(b, a, rtol=1e-11, atol=1e-13)
    assert graphed._sums.graphs is not None and len(graphed._sums.graphs._recordings) == 2


def softmax_regression() -> torch.nn.Module:
    """One minimum, at which both solves end."""
    model = torch.nn.Linear(6, 3).double()
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    return model


def test_a_solve_with_graphs_is_the_solve_without(cuda: torch.device) -> None:
    _, x, y = problem("mlp", 120)
    results = []
    for graphs in (False, True):
        model = softmax_regression()
        objective = Objective(model, x, y, l2=0.1, chunk_size=32, device=cuda, cuda_graphs=graphs)
        results.append(minimize(objective, method="lbfgs", gtol=1e-8))
    assert all(result.converged for result in results)
    close(torch.tensor(results[1].loss), torch.tensor(results[0].loss), rtol=1e-10)


REFUSED = """
import warnings
import torch
from subsetopt.objective import Objective

class Reads(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) * (1.0 if float(x.sum()) < 1e30 else 2.0)

x, y = torch.linspace(-1, 1, 138, dtype=torch.float64).view(23, 6), torch.arange(23) % 3
model = torch.nn.Sequential(Reads(6, 3)).double()
plain, graphed = (Objective(model, x, y, device="cuda", cuda_graphs=graphs) for graphs in (False, True))
w = plain.initial()
expected = plain.value_and_gradient(w)[1]
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    got = [graphed.value_and_gradient(w)[1] for _ in range(2)]
assert len([each for each in said if "cuda_graphs: not possible here" in str(each.message)]) == 1, said
for gradient in got:
    torch.testing.assert_close(gradient, expected)
torch.cuda.empty_cache()
assert torch.isfinite(torch.randn(1000, device="cuda").sum())
"""


def test_what_cannot_be_captured_falls_back_with_one_warning(cuda: torch.device) -> None:
    """In a process of its own, which has to go on: a capture that fails could leave torch in the middle of it."""
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_graphs_hold_one_chunk_of_data_that_stream(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the step itself stands for its recording: what is kept of the data is the same."""
    monkeypatch.setattr(chunks, "resident_bytes", lambda _: 0)
    model, x, y = problem("mlp", 200)
    objective = Objective(model, x, y, indices=torch.arange(200), chunk_size=5, device=device)
    assert objective.samples.data.streams
    living, most = weakref.WeakSet[torch.Tensor](), 0
    placed = chunks.PlacedSamples.placed

    def watched(data: chunks.PlacedSamples, rows: torch.Tensor) -> torch.Tensor:
        nonlocal most
        piece = placed(data, rows).clone()
        living.add(piece)
        most = max(most, len(living))
        return piece

    monkeypatch.setattr(chunks.PlacedSamples, "placed", watched)

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        step()
        return step

    w = objective.initial()
    expected = objective.value_and_gradient(w)
    most = 0
    objective._sums.graphs = ChunkGraphs(objective.flat, objective.loss, objective.n_samples, torch.float64, capture)
    for a, b in zip(objective.value_and_gradient(w), expected, strict=True):
        close(a, b, rtol=1e-12, atol=1e-14)
    assert most <= 3
