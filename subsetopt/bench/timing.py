"""Times by turns: one pass over all candidates after another, alternating in order, and medians over the passes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

from subsetopt.bench.recorder import synchronise

K = TypeVar("K", bound=Hashable)


def median_seconds(
    candidates: Mapping[K, Callable[[], object]], repeats: int, device: torch.device | None = None
) -> dict[K, float]:
    """Return the median time of each candidate in seconds; a first, untimed pass warms up."""
    times: dict[K, list[float]] = {name: [] for name in candidates}
    where = torch.device("cpu") if device is None else device
    for repeat in range(-1, repeats):
        for name in sorted_by_turns(candidates, repeat):
            synchronise(where)
            start = time.perf_counter()
            candidates[name]()
            synchronise(where)
            if repeat >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def sorted_by_turns(names: Mapping[K, object], repeat: int) -> list[K]:
    """Return the names in order, backwards in every other pass, so that drift of the machine cancels."""
    return list(names) if repeat % 2 == 0 else list(reversed(names))
