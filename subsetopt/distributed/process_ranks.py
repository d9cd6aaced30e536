"""Ranks that are processes of a torch.distributed group."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from subsetopt.distributed.ranks import RankFailedError, RankLostError, Ranks
from subsetopt.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class ProcessRanks(Ranks):
    """The ranks of a torch.distributed process group (None: the default group)."""

    def __init__(self, group: Any = None) -> None:
        import torch.distributed as dist

        self._dist, self._group = dist, group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.lost = False

    def sum_(self, *tensors: Tensor) -> None:
        """Add up each of the tensors over ranks, in place, through one flat float64 buffer."""
        import torch

        buffer = torch.cat([tensor.detach().reshape(-1).to(torch.float64) for tensor in tensors])
        self._collective(lambda: self._dist.all_reduce(buffer, group=self._group))
        sizes = [tensor.numel() for tensor in tensors]
        with torch.no_grad():
            for tensor, part in zip(tensors, torch.split_with_sizes(buffer, sizes), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def gather_rows(self, own: Tensor, count: int) -> Tensor:
        """Return all rows on every rank; parts are padded to one length for the wire."""
        import torch

        longest = math.ceil(count / self.size)
        padded = own.detach()
        if len(own) < longest:
            padded = torch.cat([padded, padded.new_zeros(longest - len(own), *own.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        self._collective(lambda: self._dist.all_gather(parts, padded.contiguous(), group=self._group))
        lengths = [stop - start for start, stop in (self.share(count, rank) for rank in range(self.size))]
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def broadcast(self, value: T, rank: int = 0) -> T:
        """Send JSON from one rank; floats arrive to the last bit."""
        import torch

        data = bytearray(json.dumps(value).encode())
        length = torch.tensor([len(data)], device="cpu")
        self._send(length, rank)
        content = torch.zeros(int(length), dtype=torch.uint8, device="cpu")
        if rank == self.rank:
            content = torch.frombuffer(data, dtype=torch.uint8)
        self._send(content, rank)
        received: T = json.loads(bytes(content.tolist()))
        return received

    def broadcast_tensors(self, tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
        """Send names, dtypes and shapes first, then all the bytes in one piece."""
        import torch

        own = {name: tensor.detach().cpu() for name, tensor in tensors.items()} if rank == self.rank else {}
        announced = self.broadcast(
            [(name, str(t.dtype).split(".")[-1], list(t.shape)) for name, t in own.items()], rank
        )
        all_ = own or {
            name: torch.empty(shape, dtype=getattr(torch, dtype), device="cpu") for name, dtype, shape in announced
        }
        flat = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in all_.values()]
        buffer = torch.cat([torch.empty(0, dtype=torch.uint8, device="cpu"), *flat])
        self._send(buffer, rank)
        if rank != self.rank:
            for tensor, part in zip(flat, torch.split_with_sizes(buffer, [len(t) for t in flat]), strict=True):
                tensor.copy_(part)
        return all_

    def gather(self, value: T) -> list[T]:
        """Exchange JSON, padded to one length for the wire; floats arrive to the last bit."""
        import torch

        data = bytearray(json.dumps(value).encode())
        lengths = self.gather_rows(torch.tensor([len(data)], device="cpu"), self.size).tolist()
        data.extend(b" " * (max(lengths) - len(data)))  # JSON may end in blanks
        rows = self.gather_rows(torch.frombuffer(data, dtype=torch.uint8)[None], self.size)
        return [json.loads(bytes(row.tolist())) for row in rows]

    def exchange(self, row: Tensor) -> Tensor:
        """Return the rows of all ranks: the sum of tables that are zero but for the own row. Every backend has sums."""
        table = row.new_zeros(self.size, len(row))
        table[self.rank] = row
        on_gpu_only = self._dist.get_backend(self._group) == "nccl"
        table = table.cuda() if on_gpu_only else table
        self._collective(lambda: self._dist.all_reduce(table, group=self._group))
        return table

    def now(self) -> float:
        """Return rank 0's monotonic seconds."""
        return self.broadcast(time.monotonic())

    def agree(self, *wishes: bool, figure: float = 0.0) -> list[bool]:
        """Take the maximum over ranks of all wishes, of the figure and of its negative, in one collective."""
        import torch

        figure = figure if math.isfinite(figure) else -math.inf
        announced = torch.tensor([*map(float, wishes), figure, -figure], dtype=torch.float64, device="cpu")
        self._collective(lambda: self._dist.all_reduce(announced, op=self._dist.ReduceOp.MAX, group=self._group))
        *wanted, largest, smallest = announced.tolist()
        if largest != -smallest:
            self.lost = True
            raise RankLostError(
                f"ranks have come to different results (losses {-smallest!r} to {largest!r}): their processors or "
                f"software differ; use machines of one kind{self._remedy()}"
            )
        return [wish > 0 for wish in wanted]

    def together(self, work: Callable[[], T]) -> T:
        """Do `work`, then exchange whether, and how, it failed."""
        try:
            result = work()
        except (RankFailedError, RankLostError):
            raise
        except Exception as error:
            self._exchange(f"{error}" if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
            raise
        self._exchange("")
        return result

    def _exchange(self, problem: str) -> None:
        import torch

        first = torch.tensor([self.rank if problem else self.size], device="cpu")
        self._collective(lambda: self._dist.all_reduce(first, op=self._dist.ReduceOp.MIN, group=self._group))
        failed = int(first)
        if failed < self.size:
            text = self.broadcast(problem, failed)
            if not problem:
                raise RankFailedError(f"rank {failed}: {text}")

    def _send(self, tensor: Tensor, rank: int) -> None:
        root = rank if self._group is None else self._dist.get_global_rank(self._group, rank)
        self._collective(lambda: self._dist.broadcast(tensor, root, group=self._group))

    def _collective(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except RuntimeError as error:
            self.lost = True
            reason = " ".join(str(error).split())[:120]
            raise RankLostError(
                f"rank {self.rank} of {self.size}: another rank has died or hung ({reason}){self._remedy()}"
            ) from error

    def _remedy(self) -> str:
        return f"; {self.resume_hint}" if self.resume_hint else ""
