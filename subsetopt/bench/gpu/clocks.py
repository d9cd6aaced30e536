"""Times on the device, in CUDA events and by turns; memory, launches and synchronisations of a piece of work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from subsetopt.bench.counters import counting
from subsetopt.bench.timing import sorted_by_turns, synchronise

K = TypeVar("K", bound=Hashable)
Work = Callable[[], object]

WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize")


def timed(work: Work, device: torch.device) -> float:
    """Return the seconds from the first to the last kernel of `work`, host gaps between them included."""
    synchronise(device)
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        synchronise(device)
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        first.record()
        work()
        last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3


def by_turns(
    candidates: Mapping[K, Work], repeats: int, device: torch.device, deadline: float, warm_up: bool = True
) -> dict[K, float]:
    """Return median seconds over `repeats` passes, each alternating in order; fewer after `deadline`, one at least."""
    times: dict[K, list[float]] = {name: [] for name in candidates}
    if warm_up:
        for work in candidates.values():
            work()
    for repeat in range(repeats):
        if repeat and time.monotonic() >= deadline:
            break
        for name in sorted_by_turns(candidates, repeat):
            times[name].append(timed(candidates[name], device))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_bytes(work: Work, device: torch.device) -> int:
    """Return the most bytes that `work` held in tensors, beyond what was held before it."""
    if device.type != "cuda":
        with counting() as counters:
            work()
        return counters.peak_bytes
    synchronise(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    synchronise(device)
    return torch.cuda.max_memory_allocated(device) - before


class _Operators(TorchDispatchMode):
    """Counts operators as the dispatcher sees them; views are left out, which launch nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # mypy's exclusion of torch does not see through super()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and count it."""
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def host_counts(work: Work) -> dict[str, int]:
    """Return the `operators` that `work` dispatches and the `reads` of a value by the host, on any device."""
    with _Operators() as operators, counting() as counters:
        work()
    return {"operators": operators.count, "reads": counters.synchronisations}


def kernel_counts(work: Work, device: torch.device) -> dict[str, int]:
    """Return the `launches`, `copies_to_host` and `waits` that CUDA's own profiler sees; nothing on other devices."""
    if device.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    synchronise(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        work()
        synchronise(device)
    names = [str(event.name) for event in profiler.events() or []]
    return {
        "launches": sum("LaunchKernel" in name for name in names),
        "copies_to_host": sum(name.startswith("Memcpy DtoH") for name in names),
        "waits": sum(name in WAITS for name in names),
    }
