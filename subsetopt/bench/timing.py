"""Times by turns: one pass over all candidates after another, alternating in order, and medians over the passes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Literal, TypeVar

import torch

K = TypeVar("K", bound=Hashable)

LONG = 2.0  # a solve that takes longer, in seconds, is timed once

ClockName = Literal["wall", "cpu"]
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
"""`cpu` is the processor time of this process over all its threads: what to read where others use the machine, too."""


def median_seconds(
    candidates: Mapping[K, Callable[[], object]], repeats: int, clock: Clock, device: torch.device | None = None
) -> dict[K, float]:
    """Return the median time of each candidate in seconds; a first, untimed pass warms up."""
    times: dict[K, list[float]] = {name: [] for name in candidates}
    where = torch.device("cpu") if device is None else device
    for repeat in range(-1, repeats):
        for name in sorted_by_turns(candidates, repeat):
            synchronise(where)
            start = clock()
            candidates[name]()
            synchronise(where)
            if repeat >= 0:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def sorted_by_turns(names: Mapping[K, object], repeat: int) -> list[K]:
    """Return the names in order, backwards in every other pass, so that drift of the machine cancels."""
    return list(names) if repeat % 2 == 0 else list(reversed(list(names)))


def synchronise(device: torch.device) -> None:
    """Wait for the device; nothing to do on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
