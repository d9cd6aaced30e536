"""Chunks that do not fit are halved, and data that do not fit are streamed; both against an objective that has room."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from subsetopt.errors import SettingError
from subsetopt.objective import Objective, chunks
from subsetopt.objective.guard import PROBE_SAMPLES
from subsetopt.objective.memory import MemoryLimits
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
    assert tight.chunk_size == 59 and tight.samples.limits.chunk_size == 59 and roomy.samples.limits.chunk_size is None
    before = tight.value_and_gradient(w)[1]
    fixed = objective(room=100, chunk_size=tight.chunk_size)
    assert torch.equal(before, fixed.value_and_gradient(w)[1]), "the size tells all that a resumed run must know"
    assert tight.chunk_size == 59, "found once"
    torch.testing.assert_close(tight.value(w), roomy.value(w), rtol=1e-14, atol=0)
    assert tight.identity == roomy.identity
    assert tight.meter.samples["gradient"] == 2 * K + PROBE_SAMPLES, "attempts that failed are not charged"


def test_chunks_that_are_not_ours_to_cut_are_refused_in_one_line() -> None:
    for settings in ({"chunk_size": 200}, {"track_noise": True}):
        tight = objective(room=16, **settings)
        with pytest.raises(SettingError, match=r"^chunk_size = \d+: .*memory.*smaller"):
            tight.value_and_gradient(tight.initial())
    nothing = objective()
    nothing.flat._module.room = 0
    with pytest.raises(SettingError, match="chunk_size = 1:"):
        nothing.value_and_gradient(nothing.initial())


class Occupied:
    """The memory that the graph of some samples takes, as long as it lives."""

    living: ClassVar[weakref.WeakSet[Occupied]] = weakref.WeakSet()

    def __init__(self, samples: int, room: int) -> None:
        gc.collect()
        if samples + sum(other.samples for other in self.living) > room:
            raise torch.OutOfMemoryError(f"no room for {samples} samples")
        self.samples = samples
        self.living.add(self)


class Occupy(torch.autograd.Function):
    """The identity, whose graph holds an `Occupied`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, occupied: Occupied) -> Tensor:
        ctx.occupied = occupied
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class Crowded(nn.Sequential):
    """A network on a device that has memory for the graphs of `room` samples, kept ones included."""

    def __init__(self, room: int) -> None:
        super().__init__(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, M))
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=make_generator(0, str(parameter.shape)))
        self.room = room

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Occupy.apply(super().forward(x), Occupied(len(x), self.room))
        return out


@pytest.mark.parametrize("kind", ["hvp", "ggnvp"])
@pytest.mark.parametrize(("room", "chunk", "kept"), [(300, 250, 0), (600, 500, 0), (1100, 1000, 1)])
def test_products_keep_fewer_graphs_and_then_halve_their_chunks(kind: str, room: int, chunk: int, kept: int) -> None:
    roomy, tight = (Objective(Crowded(size).double(), *samples(), l2=0.1) for size in (10 * K, room))
    w, v = roomy.initial(), torch.linspace(-1, 1, roomy.size, dtype=torch.float64)
    expected = getattr(roomy.linearise(w), kind)(v)
    for _ in range(2):
        products = tight.linearise(w)
        for _ in range(2):
            torch.testing.assert_close(getattr(products, kind)(v), expected, rtol=1e-12, atol=1e-14)
        assert (tight.chunk_size, products.stored_chunks(kind)) == (chunk, kept)
    assert tight.meter.samples[kind] == 4 * K, "attempts that failed are not charged"


def test_an_evaluation_that_lacks_memory_takes_it_from_kept_graphs_first() -> None:
    tight, roomy = (Objective(Crowded(room).double(), *samples(), chunk_size=100) for room in (K, 10 * K))
    w = tight.initial()
    products = tight.linearise(w)
    first = products.hvp(w)
    assert products.stored_chunks("hvp") == 10
    assert torch.equal(tight.value_and_gradient(w)[1], roomy.value_and_gradient(w)[1])
    assert products.stored_chunks("hvp") == 0 and torch.equal(products.hvp(w), first)
    assert products.stored_chunks("hvp") == 5 and tight.chunk_size == 100
    part = tight.part(0.5, make_generator(0, "part"))
    torch.testing.assert_close(
        part.linearise(w).hvp(w), roomy.part(0.5, make_generator(0, "part")).linearise(w).hvp(w), rtol=1e-12, atol=0
    )


def test_what_was_found_holds_for_all_objectives_on_one_model() -> None:
    limits = MemoryLimits()
    before, tight, fixed = (objective(room=100, memory_limits=limits, chunk_size=size) for size in (None, None, 80))
    tight.value(tight.initial())
    after = objective(room=100, memory_limits=limits)
    assert (before.chunk_size, tight.chunk_size, after.chunk_size, fixed.chunk_size) == (K, 59, 59, 77)
    before.value(before.initial())
    assert before.chunk_size == 59


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Nothing is resident; the list says at each chunk read how many chunks are in memory."""
    monkeypatch.setattr(chunks, "RESIDENT_BYTES", 0)
    original, living, counts = chunks.PlacedSamples.staged, weakref.WeakSet(), []

    def observed(data: chunks.PlacedSamples, start: int, stop: int) -> Tensor:
        piece = original(data, start, stop).clone()
        living.add(piece)
        counts.append(len(living))
        return piece

    monkeypatch.setattr(chunks.PlacedSamples, "staged", observed)
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
