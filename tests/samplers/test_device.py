"""Where the work happens: no hidden synchronisations, and the same batches on every device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from subsetopt.samplers import SAMPLERS, make_sampler

NAMES = [entry.name for entry in SAMPLERS]


class HostReads(TorchDispatchMode):
    """Counts operators whose result the host has to wait for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
            torch.ops.aten.masked_select,
            torch.ops.aten.is_nonzero,
            torch.ops.aten.equal,
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_reads_at_most_once_from_the_device(name, problem, bound, loop):
    """Gradient matching reads by one transfer of its Gram matrix, which a CPU run cannot count."""
    sampler = bound(name, problem)
    loop(sampler, problem, sampler.steps_per_epoch + 2)
    for _ in range(5):
        with HostReads() as reads:
            loop(sampler, problem, 1)
        allowed = {"selective-backprop": 1}.get(name, 0)
        assert sampler.scan_due or reads.count <= allowed


@pytest.mark.parametrize("name", NAMES)
def test_batches_on_a_device_are_those_on_the_cpu(name, problem, loop, device):
    """Reference: the CPU run, weights up to rounding."""
    there = type(problem)(*(getattr(problem, field).to(device) for field in vars(problem)))
    cpu, gpu = make_sampler(name, 90, 8), make_sampler(name, 90, 8, device=device)
    cpu.bind(problem.features)
    gpu.bind(there.features)
    expected, got = loop(cpu, problem, 30), loop(gpu, there, 30)
    for left, right in zip(expected, got, strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            assert right.indices.device.type == device.type and torch.equal(left.indices, right.indices.cpu())
            if left.weights is not None:
                torch.testing.assert_close(left.weights, right.weights.cpu(), rtol=1e-3, atol=1e-4)
