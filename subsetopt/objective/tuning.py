"""The chunk size by a measured search, for a machine or model that the rule in `memory.py` does not fit."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from subsetopt.inputs import Stored
from subsetopt.objective.chunks import Preprocess
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.losses import Loss, LossFunction
from subsetopt.objective.meters import CountingMeter
from subsetopt.objective.objective import Objective
from subsetopt.objective.protocol import Meter

REPEATS = 3
WORTH = 5.0
"""Evaluations of all samples that a search may cost: 5 % of a solve of 100."""

CLEARLY_FASTER = 0.97
"""Another size must take less than this share of the rule's time to replace it; smaller differences are noise."""


def tuned_chunk_size(
    model: FlatModel,
    inputs: Stored,
    targets: Tensor,
    loss: str | LossFunction | Loss = "cross_entropy",
    preprocess: Preprocess | None = None,
    meter: Meter | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Return the fastest chunk size for gradients among powers of two around the automatic one, by median time.

    Each candidate is timed `REPEATS` times, in turn, on the first samples, charged as calibration. The automatic size
    is returned untimed with BatchNorm, where it is part of the function, and for so few samples that a search could
    cost more than `WORTH` evaluations of them. What is measured differs between machines and moments, and with the
    chunk size the rounding of every sum: whoever wants to repeat a run to the last bit keeps the number returned.
    """
    meter = meter or CountingMeter()

    def cut(samples: int, size: int | None) -> Objective:
        rows = slice(0, samples)
        return Objective(
            model,
            inputs[rows],
            targets[rows],
            loss,
            chunk_size=size,
            preprocess=preprocess,
            meter=meter,
            check_deterministic=False,
        )

    automatic = cut(len(inputs), None).samples.preferred_chunk_size
    candidates = _candidates(automatic, len(inputs))
    if model.batch_dependent or len(candidates) == 1:
        return automatic
    objectives = {size: cut(max(candidates), size) for size in candidates}
    w = model.initial()
    seconds: dict[int, list[float]] = {size: [] for size in candidates}
    for timed in range(1 + REPEATS):
        for size, objective in objectives.items():
            start = clock()
            objective.value_and_gradient(w, "calibration")
            _finish(model.device)
            if timed:
                seconds[size].append(clock() - start)
    best = min(candidates, key=lambda size: median(seconds[size]))
    return best if median(seconds[best]) < CLEARLY_FASTER * median(seconds[automatic]) else automatic


def _candidates(automatic: int, samples: int) -> list[int]:
    """Return sizes from a quarter to four times `automatic` whose trial on max(sizes) samples stays within `WORTH`."""
    sizes = [automatic // 4, automatic // 2, automatic, automatic * 2, automatic * 4]
    sizes = [size for size in sizes if 1 <= size <= samples]
    while len(sizes) > 1 and len(sizes) * (1 + REPEATS) * max(sizes) > WORTH * samples:
        sizes.pop()
    return sizes if automatic in sizes else [automatic]


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
