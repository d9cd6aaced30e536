"""Counts what a solve does to the device: host synchronisations and bytes held by tensors."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from subsetopt.objective.host import observe_reads

T = TypeVar("T")


class Counters(TorchDispatchMode):
    """`synchronisations`: scalars read by the host, one at a time or by `host_read`; `peak_bytes`: most bytes alive in
    tensors that were made inside.

    numpy's arrays are not seen, nor is what scipy does on the host.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # mypy's exclusion of torch does not see through super()
        self.synchronisations = 0
        self.live_bytes = self.peak_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and look at what came out."""
        self.synchronisations += func is torch.ops.aten._local_scalar_dense.default
        given = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _key(leaf) not in given:
                self._hold(leaf)
        return result

    def note_read(self) -> None:
        """Count one `host_read`."""
        self.synchronisations += 1

    def _hold(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live_bytes -= size


@contextmanager
def counting() -> Iterator[Counters]:
    """Count everything inside the block."""
    counters = Counters()
    with counters, observe_reads(counters.note_read):
        yield counters


def _key(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def profiled_peak(work: Callable[[], T]) -> tuple[T, int]:
    """Return what `work` returns, and the most bytes of tensors made by it that are alive at a time.

    Counted by torch's profiler on the CPU, which sees what is made inside of torch's operations, too. Garbage is
    collected before: what is left of earlier work, and freed in this one, would be taken off.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = work()
    live = most = 0
    for event in cast(Any, profiled).profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return result, most
