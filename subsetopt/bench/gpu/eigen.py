"""Eigendecompositions of wide Kronecker factors: on the device, on the host, batched, or of the leading part alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from subsetopt.bench.gpu.clocks import timed
from subsetopt.bench.gpu.part import BenchPart, Row
from subsetopt.objective.kfac.factor import RANK, WIDE, Factor
from subsetopt.seeding import make_generator

BATCH = 4
REPEATS = 3
WIDEST_BATCH = 2048


def measure(part: BenchPart) -> None:
    """Add one row per width."""
    part.title = "Symmetric eigendecomposition with vectors, milliseconds per matrix, float32"
    part.data = "second moments of 2 d normal samples with variances 1/i"
    part.notes.append(
        f"host: with both copies. batched: {BATCH} matrices in one call. subspace: what K-FAC does "
        f"from width {WIDE * RANK} on, {RANK} vectors"
    )
    for width in (16, 200) if part.tiny else (256, 785, 1024, 2048, 4096):
        part.measure({"width": width}, partial(_measure_width, part, width))


def second_moment(width: int, device: torch.device) -> Tensor:
    """Return X'X / n of n = 2 width samples whose variances fall as 1/i, as those of activations do."""
    x = torch.randn(2 * width, width, generator=make_generator(0, f"eigen:{width}")).to(device)
    x *= torch.arange(1, width + 1, device=device).rsqrt()
    return x.T @ x / len(x)


def _measure_width(part: BenchPart, width: int, row: Row) -> None:
    device, moment = part.device, second_moment(width, part.device)

    def on_host() -> object:
        return torch.linalg.eigh(moment.cpu()).eigenvectors.to(device)

    row["device_ms"] = _best(part, lambda: torch.linalg.eigh(moment))
    if width >= WIDE * RANK:
        row["subspace_ms"] = _best(part, partial(_refreshed, Factor.of(moment)))
    part.save("running")
    if width <= WIDEST_BATCH and not part.over:
        several = moment.expand(BATCH, width, width).contiguous()
        row["batched_ms"] = _best(part, lambda: torch.linalg.eigh(several)) / BATCH
    part.save("running")
    if not part.over:
        row["host_ms"] = _best(part, on_host)


def _refreshed(factor: Factor) -> None:
    factor.refresh(make_generator(0, "subspace"))


def _best(part: BenchPart, work: Callable[[], object]) -> float:
    """Return the shortest of up to four calls in milliseconds; the first, which warms up, alone where it takes long."""
    best = timed(work, part.device)
    for _ in range(REPEATS):
        if best > 1.0 or part.over:
            break
        best = min(best, timed(work, part.device))
    return 1e3 * best
