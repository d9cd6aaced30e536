"""Small data, models and phases that the tests on devices share; what is random is drawn on the CPU, alike for all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.objective.host import observe_reads
from subsetopt.seeding import make_generator, seeded_globals
from subsetopt.training.budget import Budget
from subsetopt.training.context import RunContext
from subsetopt.training.phases.factory import build_phases
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config
from subsetopt.training.training_data import TrainingData

TOLERANCE = {torch.float64: {"rtol": 1e-9, "atol": 1e-11}, torch.float32: {"rtol": 2e-4, "atol": 2e-5}}
"""Of a result on a device against the same in float64 on the CPU."""

SIDE = 10


def close(got: Tensor, expected: Tensor, dtype: torch.dtype = torch.float64, **given: float) -> None:
    """Compare on the CPU in float64, with the tolerance of `dtype`."""
    tolerance = {**TOLERANCE[dtype], **given}
    torch.testing.assert_close(got.detach().cpu().double(), expected.detach().cpu().double(), **tolerance)


def images(n: int = 160, channels: int = 3) -> Dataset:
    """Noise around one pattern per class, uint8."""
    draw = make_generator(0, "gpu images")
    targets = torch.arange(n) % 3
    patterns = torch.randint(0, 256, (3, channels, SIDE, SIDE), generator=draw)
    noise = torch.randint(0, 256, (n, channels, SIDE, SIDE), generator=draw)
    pixels = ((patterns[targets] + 3 * noise) // 4).to(torch.uint8)
    return dataset_from_arrays(pixels, targets, pixels[:30], targets[:30], normalize="standard")


def vectors(n: int = 240) -> Dataset:
    """Six features and three classes that overlap."""
    draw = make_generator(0, "gpu vectors")
    x = torch.randn(n, 6, generator=draw)
    y = (x[:, :3] + 0.5 * torch.randn(n, 3, generator=draw)).argmax(1)
    return dataset_from_arrays(x, y)


def convnet(norm: bool = False, dropout: float = 0.0) -> nn.Module:
    with seeded_globals(0, "gpu convnet"):
        middle = [nn.BatchNorm2d(4)] if norm else []
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), *middle, nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, 3)
        )


def dense(norm: bool = False, dropout: float = 0.0) -> nn.Module:
    with seeded_globals(0, "gpu dense"):
        middle = [nn.BatchNorm1d(8)] if norm else []
        return nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


class Running(NamedTuple):
    """One phase of a run, and where it is."""

    phase: Any
    data: TrainingData
    budget: Budget
    run: RunContext
    state: Any

    def steps(self, number: int) -> Running:
        state = self.state
        for _ in range(number):
            if self.phase.terminate(state) is None:
                state = self.phase.step(state)
        return self._replace(state=state)

    @property
    def w(self) -> Tensor:
        """The parameters."""
        return self.phase.iterate(self.state).detach()


def begin(device: torch.device, model: nn.Module, dataset: Dataset, **settings: Any) -> Running:
    """Prepare a run on `device` and start its last phase."""
    given = {"handoff": "none", "dtype": "float64", "l2": 0.01, **settings, "device": device.type}
    data, budget, run = prepare(make_config(given), copy.deepcopy(model), dataset)
    phase = build_phases(data, budget, run)[-1]
    budget.ledger.open_phase(phase.config.epochs)
    return Running(phase, data, budget, run, phase.start(run.model.flat.initial()))


def resumed(running: Running, again: Running) -> Running:
    """Return `again` where `running` is, by way of what a checkpoint holds: tensors on the CPU, and numbers."""
    tensors, numbers = running.phase.save(running.state)
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    again.run.model.flat.load_buffers({name: b.cpu() for name, b in running.run.model.flat.buffers().items()})
    again.budget.ledger.restore(running.budget.ledger.save())
    return again._replace(state=again.phase.restore(tensors, copy.deepcopy(numbers)))


class HiddenWaitError(AssertionError):
    """The host has waited for the device outside `host_read`."""


class _Reading(TorchFunctionMode):
    """Lets the copy within `host_read` pass, and nothing else."""

    def __init__(self, cuda: bool) -> None:
        super().__init__()
        self._cuda, self.reads, self._announced = cuda, 0, False

    def announce(self) -> None:
        """What `observe_reads` calls when `host_read` is about to copy."""
        self.reads += 1
        self._announced = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.tolist or not self._announced:
            return func(*args, **(kwargs or {}))
        self._announced = False
        if not self._cuda:
            return func(*args, **(kwargs or {}))
        torch.cuda.set_sync_debug_mode("default")
        try:
            return func(*args, **(kwargs or {}))
        finally:
            torch.cuda.set_sync_debug_mode("error")


class _NoScalars(TorchDispatchMode):
    """What a CPU can tell: no floating-point number is read on the host but by `host_read` (which calls tolist)."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten._local_scalar_dense and args[0].is_floating_point():
            raise HiddenWaitError(f"{func} outside host_read")
        return func(*args, **(kwargs or {}))


@contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[Callable[[], int]]:
    """Raise where the host waits for `device` outside `host_read`; yields what counts its calls."""
    reading = _Reading(device.type == "cuda")
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            with observe_reads(reading.announce), reading:
                yield lambda: reading.reads
        finally:
            torch.cuda.set_sync_debug_mode("default")
    else:
        with observe_reads(reading.announce), reading, _NoScalars():
            yield lambda: reading.reads
