"""Chunks that do not fit are halved, and data that do not fit are streamed; both against an objective that has room."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subsetopt.errors import SettingError
from subsetopt.objective import Objective, chunks
from subsetopt.seeding import make_generator

K, D, M = 1000, 5, 3


class Limited(nn.Module):
    """A linear model on a device that has memory for `room` samples."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.linear, self.room, self.seen = nn.Linear(D, M), room, 0
        nn.init.constant_(self.linear.weight, 0.1)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError(f"no room for {len(x)} samples")
        out: Tensor = self.linear(x)
        return out


def samples() -> tuple[Tensor, Tensor]:
    draw = make_generator(0, "memory limits")
    return torch.randn(K, D, generator=draw, dtype=torch.float64), torch.randint(0, M, (K,), generator=draw)


def objective(room: int = K, **settings: Any) -> Objective:
    return Objective(Limited(room).double(), *samples(), l2=0.1, **settings)


def test_chunks_are_halved_until_they_fit_and_stay_so() -> None:
    roomy, tight = objective(), objective(room=100)
    assert roomy.chunk_size == K
    w = roomy.initial() + 0.1
    for one, other in zip(tight.value_and_gradient(w), roomy.value_and_gradient(w), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-15)
    assert tight.chunk_size == 59 and tight.samples.halvings == 4 and roomy.samples.halvings == 0
    before = tight.value_and_gradient(w)[1]
    fixed = objective(room=100, chunk_size=tight.chunk_size)
    assert torch.equal(before, fixed.value_and_gradient(w)[1]), "the size tells all that a resumed run must know"
    assert tight.samples.halvings == 4
    torch.testing.assert_close(tight.value(w), roomy.value(w), rtol=1e-14, atol=0)
    assert tight.identity == roomy.identity
    assert tight.meter.samples["gradient"] == 2 * K, "attempts that failed are not charged"


def test_chunks_that_are_not_ours_to_cut_are_refused_in_one_line() -> None:
    for settings in ({"chunk_size": 200}, {"track_noise": True}):
        tight = objective(room=16, **settings)
        with pytest.raises(SettingError, match=r"^chunk_size = \d+: .*memory.*smaller"):
            tight.value_and_gradient(tight.initial())
    nothing = objective()
    nothing.flat._module.room = 0
    with pytest.raises(SettingError, match="chunk_size = 1:"):
        nothing.value_and_gradient(nothing.initial())


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Nothing is resident; the list says at each chunk read how many chunks are in memory."""
    monkeypatch.setattr(chunks, "RESIDENT_BYTES", 0)
    original, living, counts = chunks.Data.staged, weakref.WeakSet(), []

    def observed(data: chunks.Data, start: int, stop: int) -> Tensor:
        piece = original(data, start, stop).clone()
        living.add(piece)
        counts.append(len(living))
        return piece

    monkeypatch.setattr(chunks.Data, "staged", observed)
    yield counts


def test_streamed_data_give_the_same_bits_in_flat_memory(staged: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.arange(0, K, 2)
    streamed = objective(indices=rows, chunk_size=10, linearisation_memory=0)
    assert streamed.samples.data.streams
    w = streamed.initial() + 0.1
    value, gradient = streamed.value_and_gradient(w)
    again = streamed.value_and_gradient(w)[1]
    product = streamed.linearise(w).hvp(gradient)
    assert len(staged) > 100 and max(staged) <= 3, "the one in use, the one ahead, and one on its way out"
    monkeypatch.setattr(chunks, "RESIDENT_BYTES", 2**30)
    resident = objective(indices=rows, chunk_size=10, linearisation_memory=0)
    assert not resident.samples.data.streams
    expected = resident.value_and_gradient(w)
    assert torch.equal(value, expected[0]) and torch.equal(gradient, expected[1])
    assert torch.equal(gradient, again) and torch.equal(product, resident.linearise(w).hvp(gradient))
