"""Compiled and graph-captured evaluations against the plain one, and the chunk-size search against a made-up clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from subsetopt.objective import CountingMeter, FlatModel, Objective, tuned_chunk_size
from subsetopt.objective.acceleration import ChunkGraphs
from subsetopt.objective.guard import PROBE_SAMPLES
from subsetopt.objective.tuning import REPEATS
from tests.objective.objective_nets import problem


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "resnet", "tied"])
def test_compiled_loss_and_gradient_equal_plain_ones_to_rounding(name: str) -> None:
    model, x, y = problem(name)
    plain, fast = (Objective(model, x, y, l2=0.1, chunk_size=12, compile=compiled) for compiled in (False, True))
    w = plain.initial()
    before = fast.flat.buffers()
    for a, b in zip(plain.value_and_gradient(w), fast.value_and_gradient(w), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(plain.value(w), fast.value(w), rtol=1e-12, atol=1e-14)
    assert fast._sums.compiled is not None and fast._sums.compiled._compiled is not None, "it fell back"
    assert all(torch.equal(before[name], value) for name, value in fast.flat.buffers().items())


def test_a_failing_compiler_gives_one_warning_and_plain_results(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: Callable[..., object], **_: object) -> Callable[..., object]:
        def fail(*_: object) -> None:
            raise RuntimeError("no compiler found\nlong story")

        return fail

    monkeypatch.setattr(torch, "compile", refuse)
    model, x, y = problem("cnn")
    plain, fast = (Objective(model, x, y, chunk_size=12, compile=compiled) for compiled in (False, True))
    w = plain.initial()
    with pytest.warns(UserWarning, match=r"compile: not possible here \(RuntimeError: no compiler found\)") as caught:
        first, second = fast.value_and_gradient(w), fast.value_and_gradient(w)
    assert len(caught) == 1
    assert torch.equal(first[1], plain.value_and_gradient(w)[1]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "tied"])
def test_graphs_on_fixed_buffers_equal_the_plain_evaluation_at_changing_points(name: str) -> None:
    """What CUDA records is run as it is: buffers, shapes and sums are the same on any device."""
    model, x, y = problem(name)
    plain, graphed = Objective(model, x, y, l2=0.1, chunk_size=6), Objective(model, x, y, l2=0.1, chunk_size=6)
    captured = []

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        step()  # as a warm-up does: what it leaves in the buffers must not count
        captured.append(step)
        return step

    graphed._sums.graphs = ChunkGraphs(graphed.flat, graphed.loss, graphed.n_samples, torch.float64, capture)
    w = plain.initial()
    for scale in (1.0, 0.5):
        for a, b in zip(plain.value_and_gradient(scale * w), graphed.value_and_gradient(scale * w), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert len(captured) == 2, "one graph per chunk shape: 23 samples make chunks of 6 and 5"


def test_a_failed_capture_and_another_device_fall_back_with_a_warning() -> None:
    def capture(step: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    model, x, y = problem("cnn")
    with pytest.warns(UserWarning, match="cuda_graphs: the device is cpu"):
        objective = Objective(model, x, y, chunk_size=6, cuda_graphs=True)
    w = objective.initial()
    expected = objective.value_and_gradient(w)
    objective._sums.graphs = ChunkGraphs(objective.flat, objective.loss, objective.n_samples, torch.float64, capture)
    with pytest.warns(UserWarning, match="not permitted") as caught:
        got = [objective.value_and_gradient(w) for _ in range(2)]
    assert len(caught) == 1 and all(torch.equal(expected[1], gradient) for _, gradient in got)


class ClockByChunks(CountingMeter):
    """A clock under which one evaluation takes as long as `cost` says of its chunk size."""

    def __init__(self, sizes: list[int], cost: Callable[[int], float]) -> None:
        super().__init__()
        self.ticks = [tick for _ in range(1 + REPEATS) for size in sizes for tick in (0.0, cost(size))]

    def __call__(self) -> float:
        return self.ticks.pop(0)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [(lambda size: 1 / size, 512), (lambda size: float(size), 32), (lambda size: 1.0 if size == 128 else 0.99, 128)],
)
def test_the_search_takes_the_fastest_size_but_not_for_noise(
    cost: Callable[[int], float], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subsetopt.objective.samples.automatic_chunk_size", lambda *_: 128)
    model, x, y = problem("mlp", 4096)
    clock = ClockByChunks([32, 64, 128, 256, 512], cost)

    # The first, untimed round reads the clock once per candidate only.
    clock.ticks = [0.0] * 5 + clock.ticks[10:]
    assert tuned_chunk_size(FlatModel(model), x, y, meter=clock, clock=clock) == expected
    probes = 6 * PROBE_SAMPLES  # of the objectives made
    assert clock.samples["gradient"] - probes == 5 * (1 + REPEATS) * 512 <= 5 * 4096
    assert set(clock.samples_by_purpose) == {"calibration"}


def test_nothing_is_timed_with_batch_norm_or_few_samples() -> None:
    for name, samples in (("resnet", 4096), ("mlp", 100)):
        model, x, y = problem(name, samples)
        meter = CountingMeter()
        size = tuned_chunk_size(FlatModel(model), x, y, meter=meter)
        assert meter.samples["gradient"] == PROBE_SAMPLES
        assert size == Objective(model, x, y).samples.preferred_chunk_size
