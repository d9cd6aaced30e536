"""What an objective promises besides its numbers: no synchronisation, no side effects, refusals, identity, charges."""

from __future__ import annotations

import random
import weakref
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from subsetopt.errors import DataError, ModelError, SettingError, UserError
from subsetopt.objective import BudgetExhausted, CountingMeter, FlatModel, Objective
from subsetopt.objective.chunks import bounds
from tests.objective.objective_nets import problem, vector_like


class CountSynchronisations(TorchDispatchMode):
    """Counts reads of a device scalar by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_no_host_synchronisation_in_evaluations_and_products(name: str, loss: str) -> None:
    model, x, y = problem(name, 46, loss)
    objective = Objective(model, x, y, loss, l2=0.1, chunk_size=6, track_noise=True, linearisation_memory=20_000)
    w = objective.initial()
    products = objective.linearise(w)
    with CountSynchronisations() as counter:
        assert torch.zeros(1).item() == 0
        assert counter.count == 1, "the counter itself does not work"
        objective.value(w)
        objective.value_and_gradient(w)
        products.hvp(w)
        products.ggnvp(w)
    assert counter.count == 1


def test_global_random_states_are_untouched_even_by_a_model_with_dropout_of_its_own() -> None:
    class Careless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.layer(x), 0.5)

    model, x, y = problem("mlp")
    careless = Careless().double()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    objective = Objective(model, x, y)
    objective.value_and_gradient(objective.initial())
    objective.linearise(objective.initial()).hvp(objective.initial())
    with pytest.raises(ModelError, match=r"two evaluations .* differ .* nn\.Dropout"):
        Objective(careless, x, y)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()
    assert Objective(careless, x, y, check_deterministic=False).size == 21


def test_gradient_is_a_new_tensor_and_w_stays() -> None:
    model, x, y = problem("mlp")
    objective = Objective(model, x, y, l2=0.1)
    w = objective.initial()
    kept = w.clone()
    first = objective.value_and_gradient(w)[1]
    copy = first.clone()
    second = objective.value_and_gradient(w)[1]
    assert first.data_ptr() != second.data_ptr() and torch.equal(first, copy)
    assert not first.requires_grad and torch.equal(w, kept)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_float32_model_under_any_default_dtype_gives_float32_gradients_of_float64_quality_sums(
    default: torch.dtype,
) -> None:
    """Peers fault 8: float32 under a float64 default dtype. Reference: the same objective in float64."""
    model, x, y = problem("cnn")
    torch.set_default_dtype(default)
    try:
        objective = Objective(model, x, y, l2=0.1, chunk_size=6, dtype=torch.float32)
        value, gradient = objective.value_and_gradient(objective.initial())
        hvp, ggnvp = (
            getattr(objective.linearise(objective.initial()), n)(objective.initial()) for n in ("hvp", "ggnvp")
        )
    finally:
        torch.set_default_dtype(torch.float32)
    reference = Objective(model, x, y, l2=0.1)
    w = objective.initial().double()
    assert value.dtype == torch.float64 and gradient.dtype == hvp.dtype == ggnvp.dtype == torch.float32
    torch.testing.assert_close(value, reference.value(w), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), reference.value_and_gradient(w)[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(hvp.double(), reference.linearise(w).hvp(w), rtol=1e-4, atol=1e-5)


def _inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.clone().requires_grad_(),
        _inference,
        lambda x: x.repeat_interleave(2, 0)[::2],
        lambda x: x.float(),
    ],
)
def test_any_layout_of_the_inputs_gives_the_same_function(change: Callable[[Tensor], Tensor]) -> None:
    model, x, y = problem("cnn")
    x = x.float().double()
    expected = Objective(model, x, y, chunk_size=5)
    changed = Objective(model, change(x), y, chunk_size=5)
    w = expected.initial()
    for a, b in zip(expected.value_and_gradient(w), changed.value_and_gradient(w), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    v = vector_like(w)
    torch.testing.assert_close(expected.linearise(w).hvp(v), changed.linearise(w).hvp(v), rtol=1e-10, atol=1e-12)


def test_callers_no_grad_inference_mode_and_autocast_change_nothing() -> None:
    model, x, y = problem("cnn")
    objective = Objective(model, x, y, chunk_size=5, dtype=torch.float32)
    w = objective.initial()
    expected = objective.value_and_gradient(w)
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            got = objective.value_and_gradient(w)
            objective.linearise(w).hvp(w)
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_float32_precision_is_full_inside_and_the_users_setting_returns() -> None:
    seen = []

    class Spy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.get_float32_matmul_precision())
            return super().forward(x)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        objective = Objective(Spy(6, 3), torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64))
        objective.value_and_gradient(objective.initial())
        after = torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision(before)
    assert after == "medium" and set(seen) == {"highest"}, seen


def test_uint8_inputs_stay_bytes_and_are_preprocessed_per_chunk() -> None:
    model, _, y = problem("cnn")
    x = torch.randint(0, 256, (23, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = []

    def preprocess(chunk: Tensor) -> Tensor:
        assert chunk.dtype == torch.uint8
        sizes.append(len(chunk))
        return chunk.float() / 255

    objective = Objective(model, x, y, chunk_size=8, preprocess=preprocess)
    sizes.clear()
    expected = Objective(model, x.double() / 255, y).value(objective.initial())
    torch.testing.assert_close(objective.value(objective.initial()), expected, rtol=1e-7, atol=0)
    assert sizes == [8, 8, 7]


def test_identity_changes_exactly_with_the_function() -> None:
    model, x, y = problem("tied")
    make = lambda **changes: Objective(**({"model": model, "inputs": x, "targets": y, "indices": range(12)} | changes))  # noqa: E731
    base = make().identity
    assert base == make().identity
    assert base == make(chunk_size=5).identity
    other = problem("tied")[0]
    with torch.no_grad():
        other.frozen.bias += 1
    changed = x.clone()
    changed[3, 0] += 1
    for changes in (
        {"indices": range(13)},
        {"indices": range(1, 13)},
        {"l2": 0.1},
        {"loss": lambda z, t: F.cross_entropy(z, t)},
        {"model": other},
        {"inputs": changed},
        {"targets": (y + 1) % 3},
        {"model": problem("mlp")[0]},
    ):
        assert make(**changes).identity != base, changes
    shared = x.clone()
    objective = Objective(model, shared, y)
    before = objective.identity
    shared[0] = 0
    assert objective.identity != before


class Limited(CountingMeter):
    def __init__(self, kinds: str) -> None:
        super().__init__()
        self.kinds = kinds

    def charge(self, kind: Any, samples: int, purpose: Any) -> None:
        if kind in self.kinds.split() and purpose != "calibration":
            raise BudgetExhausted
        super().charge(kind, samples, purpose)


def test_calls_are_charged_before_the_work_by_kind_and_purpose() -> None:
    model, x, y = problem("mlp")
    meter = CountingMeter()
    objective = Objective(model, x, y, chunk_size=6, meter=meter)
    assert meter.samples_by_purpose == {"calibration": 48}
    meter.samples.clear()
    w = objective.initial()
    objective.value(w, "line_search")
    objective.value_and_gradient(w)
    products = objective.linearise(w)
    products.hvp(w), products.hvp(w), products.ggnvp(w)
    assert meter.samples == {"forward": 23, "gradient": 23, "linearise": 46, "hvp": 46, "ggnvp": 23}
    assert meter.samples_by_purpose == {"calibration": 48, "line_search": 23, "train": 23, "product": 115}


@pytest.mark.parametrize("kinds", ["gradient", "linearise", "hvp"])
def test_an_exhausted_budget_leaves_everything_usable(kinds: str) -> None:
    model, x, y = problem("resnet")
    meter = Limited(kinds)
    objective = Objective(model, x, y, chunk_size=6, meter=meter)
    w = objective.initial()
    before, products = objective.flat.buffers(), objective.linearise(w)
    with pytest.raises(BudgetExhausted):
        objective.value_and_gradient(w)
        products.hvp(w)
    meter.kinds = ""
    fresh = Objective(model, x, y, chunk_size=6)
    assert torch.equal(products.hvp(w), fresh.linearise(w).hvp(w))
    assert torch.equal(objective.value_and_gradient(w)[1], fresh.value_and_gradient(w)[1])
    assert all(torch.equal(before[name], value) for name, value in objective.flat.buffers().items())


class SavedPeak:
    """Tracks the bytes that live autograd graphs hold, and their peak."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._holders: Counter[int] = Counter()
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda token: token.tensor)

    def __enter__(self) -> SavedPeak:
        self._hooks.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.__exit__()

    def _pack(self, tensor: Tensor) -> Any:
        token = type("Token", (), {})()
        token.tensor = tensor.detach()
        storage = tensor.untyped_storage().data_ptr()
        self._holders[storage] += 1
        if self._holders[storage] == 1:
            self.now += tensor.nbytes
            self.peak = max(self.peak, self.now)
        weakref.finalize(token, self._release, storage, tensor.nbytes)
        return token

    def _release(self, storage: int, nbytes: int) -> None:
        self._holders[storage] -= 1
        if self._holders[storage] == 0:
            self.now -= nbytes


@pytest.mark.parametrize("call", ["value_and_gradient", "hvp", "ggnvp"])
def test_peak_memory_of_graphs_is_flat_in_the_subset_size(call: str) -> None:
    """At a fixed chunk size ten times the samples hold no more bytes; ten times the chunk size does."""

    def peak(samples: int, chunk_size: int) -> int:
        model, x, y = problem("cnn", samples)
        objective = Objective(model, x, y, chunk_size=chunk_size, linearisation_memory=0)
        w = objective.initial()
        target = objective if call == "value_and_gradient" else objective.linearise(w)
        getattr(target, call)(w)
        with SavedPeak() as tracker:
            getattr(target, call)(w)
        return tracker.peak

    assert peak(640, 16) == peak(64, 16)
    assert peak(640, 16) <= 1.2 * peak(16, 16), "graphs of two chunks lived side by side"
    assert peak(640, 640) > 20 * peak(640, 16)


@pytest.mark.parametrize("kind", ["hvp", "ggnvp"])
def test_stored_graphs_stay_within_the_linearisation_memory(kind: str) -> None:
    model, x, y = problem("cnn", 640)
    budget = 1_200_000
    objective = Objective(model, x, y, chunk_size=16, linearisation_memory=budget)
    products = objective.linearise(objective.initial())
    products.record("hvp" if kind == "hvp" else "ggnvp")
    few = products.stored_chunks(kind)
    with SavedPeak() as tracker:
        objective.linearise(objective.initial()).record(kind)
    assert 2 <= few < 40
    assert 0.5 * budget < tracker.peak < 1.3 * budget


def test_chunks_are_near_equal_and_cover_everything_once() -> None:
    for samples in (1, 2, 7, 23, 100):
        for size in (1, 3, 8, 100):
            edges = bounds(samples, size)
            sizes = [stop - start for start, stop in edges]
            assert edges[0][0] == 0 and edges[-1][1] == samples and max(sizes) <= size and max(sizes) - min(sizes) <= 1
            assert all(a[1] == b[0] for a, b in pairwise(edges))


GOOD = {"model": nn.Linear(2, 3), "inputs": torch.zeros(4, 2), "targets": torch.tensor([0, 1, 2, 0])}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"targets": torch.tensor([0, 1, 2, 3])}, DataError, "classes 0 to 3, but the model has 3 outputs"),
        ({"targets": torch.tensor([0, -1, 2, 0])}, DataError, "classes -1"),
        ({"targets": torch.zeros(4)}, DataError, "integer classes"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, DataError, "for 4 inputs"),
        ({"inputs": torch.zeros(0, 2), "targets": torch.zeros(0, dtype=torch.int64)}, DataError, "no samples"),
        ({"inputs": torch.tensor([[0.0, 1], [0, 1], [0, torch.nan], [0, 1]])}, DataError, "row 2"),
        ({"inputs": torch.zeros(4, 5)}, ModelError, "it fails on inputs of shape"),
        ({"model": nn.Sequential(nn.Linear(2, 3), nn.Flatten(0))}, ModelError, "outputs of shape"),
        ({"model": nn.Sequential(nn.Linear(2, 3), nn.Unflatten(1, (3, 1)))}, ModelError, "cross_entropy needs logits"),
        ({"loss": "mse", "targets": torch.zeros(4)}, ModelError, "mse needs the shape of the targets"),
        ({"loss": "mse", "targets": torch.full((4, 3), torch.inf)}, DataError, "NaN or infinite"),
        ({"loss": "cross_entropi"}, SettingError, "did you mean 'cross_entropy'"),
        ({"loss": nn.CrossEntropyLoss(reduction="sum")}, SettingError, "reduction='mean'"),
        ({"loss": lambda z, y: z}, ModelError, "losses or their mean"),
        (
            {"loss": lambda z, y: (z - y).square().mean(1), "targets": torch.zeros(4, 7)},
            ModelError,
            "it fails on outputs",
        ),
        ({"l2": -1.0}, SettingError, "l2 = -1.0"),
        ({"l2": float("nan")}, SettingError, "l2"),
        ({"chunk_size": 0}, SettingError, "chunk_size = 0"),
        ({"indices": [0, 4]}, SettingError, r"must lie in 0\.\.3"),
        ({"indices": torch.ones(4, dtype=torch.bool)}, SettingError, "row numbers"),
        (
            {"model": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), "chunk_size": 3, "indices": [0]},
            ModelError,
            "than 1",
        ),
        (
            {"model": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), "chunk_size": 1},
            SettingError,
            "BatchNorm needs",
        ),
        ({"indices": []}, SettingError, "row numbers"),
        ({"track_noise": True}, SettingError, "at least 8 samples"),
        ({"model": FlatModel(nn.Linear(2, 3)), "dtype": torch.float64}, SettingError, "leave dtype out"),
    ],
)
def test_the_users_mistakes_are_refused_in_one_line(
    changes: dict[str, Any], error: type[UserError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        Objective(**(GOOD | changes))
    assert "\n" not in str(caught.value)


def test_w_of_the_wrong_shape_or_dtype_is_refused() -> None:
    objective = Objective(**GOOD)
    for w in (torch.zeros(3), torch.zeros(9, dtype=torch.float64), torch.zeros(3, 3)):
        with pytest.raises(ModelError, match="as initial"):
            objective.value_and_gradient(w)
