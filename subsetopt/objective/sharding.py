"""Which samples, and which chunks of them, belong to one rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subsetopt.distributed import Ranks
from subsetopt.errors import SettingError
from subsetopt.objective.chunks import bounds

Edges = list[tuple[int, int]]


@dataclass(frozen=True)
class Shard:
    """Samples `start` to `stop` of an objective's order; `edges` cut them into chunks, counted from `start`.

    Where chunks are part of the function, `all_edges` are those of all ranks, and `edges` begin with number `first` of
    them; otherwise `all_edges` are this rank's own.
    """

    start: int
    stop: int
    edges: Edges
    all_edges: Edges
    first: int = 0

    @property
    def chunk_size(self) -> int:
        """Samples in the largest chunk."""
        return max(stop - start for start, stop in self.edges)


@dataclass(frozen=True)
class SampleShare:
    """Which of `total` samples are at hand, numbers `places` (n,), where the others are with the other `ranks`."""

    total: int
    places: Tensor
    ranks: Ranks

    @classmethod
    def whole(cls, samples: int) -> SampleShare:
        """Return the share of whoever has all samples."""
        return cls(samples, torch.arange(samples, device="cpu"), Ranks())


def cut_shard(samples: int, chunk_size: int, ranks: Ranks, whole_chunks: bool) -> Shard:
    """Return this rank's shard of `samples`.

    Sizes differ by at most one sample; with `whole_chunks` the samples are cut first, as one process would cut them,
    and sizes differ by at most one chunk. Raises `SettingError` where a rank would be left with nothing.
    """
    if not whole_chunks:
        if samples < ranks.size:
            raise SettingError("ranks", ranks.size, f"there are only {samples} samples", f"use at most {samples}")
        start, stop = ranks.share(samples)
        edges = bounds(stop - start, chunk_size)
        return Shard(start, stop, edges, edges)
    everything = bounds(samples, chunk_size)
    if len(everything) < ranks.size:
        raise SettingError(
            "ranks",
            ranks.size,
            f"{samples} samples make {len(everything)} chunks of {chunk_size}, which are not split (BatchNorm, or the "
            "noise test)",
            f"use at most {len(everything)}, or a smaller --chunk-size",
        )
    first, last = ranks.share(len(everything))
    start, stop = everything[first][0], everything[last - 1][1]
    return Shard(start, stop, [(a - start, b - start) for a, b in everything[first:last]], everything, first)
