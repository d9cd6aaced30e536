"""One mini-batch computed by several ranks: who has which rows, and whether rows may be parted at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from subsetopt.data import Preprocess
from subsetopt.distributed import Ranks
from subsetopt.inputs import Inputs, Stored
from subsetopt.objective import FlatModel
from subsetopt.objective.sharding import SampleShare
from subsetopt.seeding import borrowed_generators
from subsetopt.training.context import RunContext
from subsetopt.training.training_data import TrainingData

PROBE_ROWS = 8
REPLICATED = (
    "in training mode the model's rows depend on one another, or on chance (BatchNorm, dropout): in phases of "
    "mini-batches every rank computes the whole batch, as one process would; more ranks make these no faster"
)


class BatchSharing:
    """Parts batches over `ranks` where `parted`; otherwise every rank computes all of every batch.

    The sampler and every random number of a batch are the same on all ranks, so that batches agree without a word.
    """

    def __init__(self, ranks: Ranks, parted: bool) -> None:
        self._ranks = ranks if parted else Ranks()

    def rows(self, count: int) -> slice:
        """Return this rank's rows of a batch of `count`; all of them where there are fewer rows than ranks."""
        return slice(*self._of(count).share(count))

    def sum_(self, count: int, sums: Sequence[Tensor], columns: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Add up `sums` in place over ranks, and return `columns` (of this rank's rows) for all rows of the batch.

        One collective: each rank puts its rows into a table of zeros, and the tables are added up with the rest.
        """
        ranks = self._of(count)
        if ranks.size == 1:
            return list(columns)
        window = self.rows(count)
        tables = [None if part is None else part.new_zeros(count, *part.shape[1:]) for part in columns]
        for table, part in zip(tables, columns, strict=True):
            if table is not None and part is not None:
                table[window] = part.detach()
        ranks.sum_(*sums, *[table for table in tables if table is not None])
        return tables

    def share(self, count: int) -> SampleShare:
        """Return which samples of a batch of `count` are this rank's, for sums over ranks that the caller makes."""
        window = self.rows(count)
        return SampleShare(count, torch.arange(window.start, window.stop, device="cpu"), self._of(count))

    def gather(self, count: int, own: Tensor) -> Tensor:
        """Return the rows of all ranks of a table whose rows `rows(count)` are `own`."""
        return self._of(count).gather_rows(own, count)

    def _of(self, count: int) -> Ranks:
        return self._ranks if count >= self._ranks.size else Ranks()


def shared_batches(data: TrainingData, run: RunContext, inputs: Stored) -> BatchSharing:
    """Return how batches of rows of `inputs` are shared; where they cannot be parted, with a warning."""
    ranks = run.ranks
    parted = ranks.size == 1 or rows_may_be_parted(run.model.flat, inputs, data.preprocess)
    if not parted and REPLICATED not in run.warnings:
        run.warnings.append(REPLICATED)
    return BatchSharing(ranks, parted)


def rows_may_be_parted(flat: FlatModel, inputs: Stored, preprocess: Preprocess) -> bool:
    """True when training mode treats rows one by one: no BatchNorm, no dropout, no buffer that a forward pass changes.

    Known layers are looked for, and a few `inputs` are evaluated whole and in halves, for a model's own inventions.
    """
    if flat.batch_dependent or any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in flat.modules()):
        return False
    x: Inputs = preprocess(inputs[:PROBE_ROWS].to(flat.device))
    w, before = flat.initial(), flat.buffers()
    cuda = [flat.device] if flat.device.type == "cuda" else []
    with borrowed_generators(cuda), torch.no_grad():
        whole = flat.forward(w, x, "train")
        halves = torch.cat([flat.forward(w, part, "train") for part in x.split(-(-len(x) // 2))])
    unchanged = all(torch.equal(value, before[name]) for name, value in flat.buffers().items())
    flat.load_buffers(before)
    tolerance = torch.finfo(flat.dtype).eps ** 0.5
    return unchanged and torch.allclose(whole, halves, rtol=tolerance, atol=tolerance * float(whole.abs().max()))
