"""What the rest of the program asks of its ranks, as a process on its own answers it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from subsetopt.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class RankLostError(UserError):
    """A collective failed: another rank has died, hangs, or came to another result."""


class RankFailedError(UserError):
    """Another rank has met the error that this text is from."""


class Ranks:
    """One process on its own: rank 0 of 1, every collective the identity. `ProcessRanks` is the other kind.

    `resume_hint` is what the user is told to do when a rank is lost.
    """

    rank = 0
    size = 1
    resume_hint = ""

    @property
    def main(self) -> bool:
        """True on the one rank that writes and speaks."""
        return self.rank == 0

    def share(self, count: int, rank: int | None = None) -> tuple[int, int]:
        """Return (start, stop) of this rank's part (or that of `rank`) of `count` things; sizes differ by one."""
        base, longer = divmod(count, self.size)
        rank = self.rank if rank is None else rank
        start = rank * base + min(rank, longer)
        return start, start + base + (rank < longer)

    def sum_(self, *tensors: Tensor) -> None:
        """Add up each of the tensors over ranks, in place: one collective, in float64, for all of them together."""

    def total(self, count: int) -> int:
        """Return the sum over ranks of `count`: one collective."""
        if self.size == 1:
            return count
        import torch

        counted = torch.tensor([count], dtype=torch.float64, device="cpu")
        self.sum_(counted)
        return int(counted)

    def gather_rows(self, own: Tensor, count: int) -> Tensor:
        """Return all `count` rows (n, ...), of which each rank has its `share`."""
        return own

    def broadcast(self, value: T, rank: int = 0) -> T:
        """Return what `rank` has for `value`, something that JSON can hold."""
        return value

    def broadcast_tensors(self, tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
        """Return the tensors of `rank`, bit for bit, on the CPU where they have travelled; others may give none."""
        return dict(tensors)

    def gather(self, value: T) -> list[T]:
        """Return what each rank has for `value`, something that JSON can hold."""
        return [value]

    def exchange(self, row: Tensor) -> Tensor:
        """Return the int64 rows (n,) of all ranks, shape (size, n), bit for bit: one collective on any device."""
        return row[None]

    def now(self) -> float:
        """Return rank 0's monotonic seconds: what is decided by the clock is decided by one clock."""
        return time.monotonic()

    def agree(self, *wishes: bool, figure: float = 0.0) -> list[bool]:
        """Return for each wish whether any rank has it.

        Raises `RankLostError` where `figure` is not the same on all ranks: they have drifted apart.
        """
        return list(wishes)

    def together(self, work: Callable[[], T]) -> T:
        """Do `work` on every rank; where it fails on one, all fail: that one with its own error, the others with it.

        `work` holds no collectives but nested `together`s and what follows them.
        """
        return work()
