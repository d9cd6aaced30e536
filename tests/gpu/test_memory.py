"""Where memory runs out: on a GPU by a limit on what this process may take, so that CUDA itself refuses."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from gpu_cases import close
from torch import Tensor, nn

from subsetopt.objective import Objective
from subsetopt.seeding import make_generator, seeded_globals

MIB = 2**20
WIDTH, DEPTH, SAMPLES = 4096, 12, 8192
"""Activations of all samples: 12 layers of 4096 numbers, and what their derivatives save, some 3 GB; 128 MB of data."""


@pytest.fixture
def limit(cuda: torch.device) -> Iterator[None]:
    """Let this process take 900 MiB on top of what it holds."""
    gc.collect()
    torch.cuda.empty_cache()
    index = torch.cuda.current_device()  # the limit is set by number alone
    total = torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved(cuda) + 900 * MIB) / total), index)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, index)
    gc.collect()
    torch.cuda.empty_cache()


class Deep(nn.Module):
    """Few parameters and many activations: elementwise layers of a wide state."""

    def __init__(self) -> None:
        super().__init__()
        with seeded_globals(0, "deep"):
            self.first, self.head = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 3)
            self.scales = nn.Parameter(1 + 0.1 * torch.randn(DEPTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for scale in self.scales:
            x = torch.tanh(x * scale)
        out: Tensor = self.head(x)
        return out


def objective(cuda: torch.device, chunk_size: int | None) -> Objective:
    x = torch.randn(SAMPLES, 8, generator=make_generator(0, "deep data"))
    return Objective(Deep(), x, torch.arange(SAMPLES) % 3, device=cuda, chunk_size=chunk_size)


def test_chunks_are_halved_under_a_real_limit_and_the_sums_stay(
    cuda: torch.device, limit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = objective(cuda, 128).value_and_gradient(objective(cuda, 128).initial())
    monkeypatch.setattr("subsetopt.objective.samples.automatic_chunk_size", lambda *_: SAMPLES)
    tight = objective(cuda, None)
    assert tight.chunk_size == SAMPLES
    value, gradient = tight.value_and_gradient(tight.initial())
    assert 32 <= tight.chunk_size < SAMPLES and tight.samples.limits.chunk_size == tight.chunk_size
    close(value, expected[0], torch.float32)
    close(gradient, expected[1], torch.float32)
    assert torch.isfinite(tight.linearise(tight.initial()).hvp(gradient)).all()


def test_kept_graphs_are_given_up_before_chunks_are_halved(cuda: torch.device, limit: None) -> None:
    free = objective(cuda, 128)
    w = free.initial()
    v = torch.linspace(-1, 1, len(w), device=cuda)
    free.samples._linearisation_memory = 0
    expected = free.linearise(w).ggnvp(v)
    greedy = objective(cuda, 128)
    greedy.samples._linearisation_memory = 2**40
    products = greedy.linearise(w)
    close(products.ggnvp(v), expected, torch.float32)
    assert greedy.chunk_size == 128 and products.stored_chunks("ggnvp") < SAMPLES // 128
    assert greedy.samples.limits.graph_bytes is not None
