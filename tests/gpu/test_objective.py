"""Loss, gradient and curvature products on every device against float64 on the CPU, whatever precision is switched on.

The small networks cover convolutions, pooling, BatchNorm, shared and frozen weights, activations; the two wide ones are
where TF32 would show.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from gpu_cases import close
from torch import Tensor, nn

from subsetopt.objective import Objective, chunks
from subsetopt.seeding import make_generator, seeded_globals
from tests.objective.objective_nets import NETS, problem, vector_like


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("name", NETS)
def test_everything_an_objective_tells_is_that_of_the_cpu(
    name: str, loss: str, dtype: torch.dtype, device: torch.device
) -> None:
    model, x, y = problem(name, loss=loss)
    reference = Objective(model, x, y, loss=loss, l2=0.03, chunk_size=8)
    on_device = Objective(model, x, y, loss=loss, l2=0.03, chunk_size=8, dtype=dtype, device=device)
    w = reference.initial()
    v = vector_like(w)
    w_there, v_there = w.to(device, dtype), v.to(device, dtype)
    value, gradient = on_device.value_and_gradient(w_there)
    assert value.device.type == gradient.device.type == device.type and value.dtype == torch.float64
    expected_value, expected_gradient = reference.value_and_gradient(w)
    close(value, expected_value, dtype)
    close(on_device.value(w_there), expected_value, dtype)
    close(gradient, expected_gradient, dtype)
    there, here = on_device.linearise(w_there), reference.linearise(w)
    close(there.hvp(v_there), here.hvp(v), dtype)
    close(there.ggnvp(v_there), here.ggnvp(v), dtype)
    close(on_device.outputs(w_there), reference.outputs(w), dtype)
    assert there.note == "" and on_device.identity[1] == 0


@pytest.mark.parametrize("batch_dependent", [False, True], ids=["plain", "norm"])
def test_noise_and_metrics_are_those_of_the_cpu(batch_dependent: bool, device: torch.device) -> None:
    model, x, y = problem("resnet" if batch_dependent else "mlp", 64)
    told = []
    for place in (torch.device("cpu"), device):
        objective = Objective(model, x, y, track_noise=True, device=place)
        _, gradient = objective.value_and_gradient(objective.initial())
        told.append((objective.gradient_noise, gradient))
    close(told[1][0], told[0][0])
    close(told[1][1], told[0][1])


WIDE = 512


def wide(kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A model with sums over 512 and more products, float32, and its data."""
    draw = make_generator(0, "wide")
    with seeded_globals(0, kind):
        if kind == "linear":
            model = nn.Sequential(nn.Linear(WIDE, WIDE), nn.Tanh(), nn.Linear(WIDE, 10))
            x = torch.randn(64, WIDE, generator=draw)
        else:
            model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.Tanh(), nn.Conv2d(64, 10, 6), nn.Flatten())
            x = torch.randn(32, 64, 8, 8, generator=draw)
    return model, x, torch.randint(0, 10, (len(x),), generator=draw)


def new_switches() -> None:
    """Those of torch 2.9 and later."""
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("before torch 2.9")
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "tf32"


def old_switches() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


SWITCHES: dict[str, Callable[[], object]] = {
    "default": lambda: None,
    "old": old_switches,
    "new": new_switches,
    "high": lambda: torch.set_float32_matmul_precision("high"),
}


@pytest.fixture
def precision() -> Iterator[None]:
    """Put torch's switches back, the old ones first: setting these overwrites the new."""
    new = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]
    values = [getattr(owner, "fp32_precision", None) for owner in new]
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for owner, value in zip(new, values, strict=True):
        if value is not None:
            owner.fp32_precision = value


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_no_tf32_in_an_objective_whatever_is_switched_on(
    kind: str, switch: str, device: torch.device, precision: None
) -> None:
    """In float32 sums of 512 products are right to about 1e-6; with the 10 bits of TF32 to about 1e-3."""
    model, x, y = wide(kind)
    exact = Objective(model, x.double(), y, dtype=torch.float64)
    w = exact.initial()
    v = vector_like(w)
    _, expected = exact.value_and_gradient(w)
    products = exact.linearise(w)
    expected_products = products.hvp(v), products.ggnvp(v)
    SWITCHES[switch]()
    objective = Objective(model, x, y, device=device)
    w32, v32 = w.to(device, torch.float32), v.to(device, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's on its old switches
        _, gradient = objective.value_and_gradient(w32)
        there = objective.linearise(w32)
        got = gradient, there.hvp(v32), there.ggnvp(v32)
    for found, reference in zip(got, (expected, *expected_products), strict=True):
        error = float((found.cpu().double() - reference).norm() / reference.norm())
        assert error < 2e-5, f"{kind} under {switch}: relative error {error:.1e}"


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_the_test_above_would_see_tf32(kind: str, cuda: torch.device, precision: None) -> None:
    old_switches()
    model, x, y = wide(kind)
    exact = Objective(model, x.double(), y, dtype=torch.float64)
    _, expected = exact.value_and_gradient(exact.initial())
    coarse = Objective(model, x, y, device=cuda, allow_tf32=True)
    _, gradient = coarse.value_and_gradient(coarse.initial())
    assert float((gradient.cpu().double() - expected).norm() / expected.norm()) > 5e-5


def test_switches_are_put_back_and_models_may_use_cudnn_flags_inside(device: torch.device, precision: None) -> None:
    """`torch.backends.cudnn.flags` reads the old switch, and raises where the new ones contradict it."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            with seeded_globals(0, "recurrent"):
                self.cell, self.head = nn.RNN(4, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.backends.cudnn.flags(enabled=False):  # cuDNN has no second derivative of it
                states, _ = self.cell(x)
            out: Tensor = self.head(states[:, -1])
            return out

    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    draw = make_generator(0, "sequences")
    x, y = torch.randn(12, 6, 4, generator=draw), torch.arange(12) % 3
    model = Recurrent()
    reference = Objective(model, x.double(), y, dtype=torch.float64)
    objective = Objective(model, x, y, device=device)
    w = objective.initial()
    v = vector_like(w)
    close(objective.linearise(w).hvp(v), reference.linearise(w.cpu().double()).hvp(v.cpu().double()), torch.float32)
    assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == before


def test_autocast_around_an_objective_does_not_reach_into_it(device: torch.device) -> None:
    model, x, y = wide("linear")
    objective = Objective(model, x, y, device=device)
    w = objective.initial()
    value, gradient = objective.value_and_gradient(w)
    product = objective.linearise(w).hvp(w)
    with torch.autocast(device.type, torch.bfloat16):
        again = objective.value_and_gradient(w)
        close(objective.linearise(w).hvp(w), product, torch.float32)
    close(again[0], value, torch.float32)
    close(again[1], gradient, torch.float32)


def test_a_wide_convolution_repeats_though_cudnn_would_not(device: torch.device) -> None:
    """cuDNN's default weight gradient of this convolution varies on an H200 (environment.json); objectives hold it."""
    model = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3))
    rows = 64 if device.type == "cuda" else 4
    x = torch.randn(rows, 3, 32, 32, generator=make_generator(0, "wide"))
    objective = Objective(model, x, torch.arange(rows) % 3, device=device, chunk_size=rows)
    w = objective.initial()
    gradients = [objective.value_and_gradient(w)[1].clone() for _ in range(10)]
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])
    assert not torch.backends.cudnn.deterministic, "the caller's setting is as it was"


@pytest.mark.parametrize("name", ["mlp", "pooled", "tied", "resnet", "cnn"])
def test_sums_are_the_same_bits_every_time(name: str, device: torch.device) -> None:
    """Nothing of the library's own adds up by atomics, and cuDNN is held to one order."""
    model, x, y = problem(name, 200)
    objective = Objective(model, x.float(), y, dtype=torch.float32, device=device, chunk_size=32)
    w = objective.initial()
    v = vector_like(w)
    told = []
    for _ in range(4):
        value, gradient = objective.value_and_gradient(w)
        products = objective.linearise(w)
        told.append((value, gradient, products.hvp(v), products.ggnvp(v)))
    for other in told[1:]:
        assert all(torch.equal(a, b) for a, b in zip(told[0], other, strict=True))


@pytest.mark.parametrize("where", ["host", "device"])
def test_data_that_stream_give_what_resident_data_give(
    where: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From page-locked memory to a GPU, read one chunk ahead; also where the data are there and a subset is not."""
    draw = make_generator(0, "stream")
    x, y = torch.randn(400, 6, generator=draw), torch.arange(400) % 3
    rows = torch.randperm(400, generator=draw)[:300]
    model, _, _ = problem("mlp")
    inputs, targets = (x.to(device), y.to(device)) if where == "device" else (x, y)

    def objective() -> Objective:
        return Objective(
            model,
            inputs,
            targets,
            indices=rows,
            dtype=torch.float32,
            device=device,
            chunk_size=16,
            linearisation_memory=0,
        )

    resident = objective()
    monkeypatch.setattr(chunks, "resident_bytes", lambda _: 0)
    streamed = objective()
    assert streamed.samples.data.streams and not resident.samples.data.streams
    if device.type == "cuda" and where == "host":
        assert streamed.samples.data.staged(0, 16).is_pinned()
    w = resident.initial()
    first, again, expected = (o.value_and_gradient(w) for o in (streamed, streamed, resident))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    # Not to the bit: matrix products round by the alignment of their operands.
    for a, b in zip(first, expected, strict=True):
        close(a, b, torch.float32, rtol=1e-5, atol=1e-6)
    close(streamed.linearise(w).hvp(w), resident.linearise(w).hvp(w), torch.float32, rtol=1e-5, atol=1e-6)
    assert streamed.identity == resident.identity
