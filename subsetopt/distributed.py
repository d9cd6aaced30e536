"""Ranks: the processes of one data-parallel run, and the few collectives that they need.

This is the only file that knows of torch.distributed. Everything else asks a `Ranks` object, which for a process on its
own does nothing. All ranks run the same program on the same decisions; what a collective adds up is equal on all of
them to the last bit, so that every rank takes the identical step. A rank that dies or hangs makes the collective of the
others fail within the timeout, and that ends the run in one line. Torch is imported late: the command line asks here
whether it may speak.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from subsetopt.errors import SettingError, UserError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

STARTUP_SECONDS = 300.0
"""How long ranks wait for one another before there is a run: processes start, and import, at different times."""

_joined: Ranks | None = None


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
        length = torch.tensor([len(data)])
        self._send(length, rank)
        content = torch.zeros(int(length), dtype=torch.uint8)
        if rank == self.rank:
            content = torch.frombuffer(data, dtype=torch.uint8)
        self._send(content, rank)
        received: T = json.loads(bytes(content.tolist()))
        return received

    def broadcast_tensors(self, tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
        """Send names, dtypes and shapes first, then all the bytes in one piece."""
        import torch

        own = {name: tensor.detach().cpu() for name, tensor in tensors.items()} if rank == self.rank else {}
        told = self.broadcast([(name, str(t.dtype).split(".")[-1], list(t.shape)) for name, t in own.items()], rank)
        all_ = own or {name: torch.empty(shape, dtype=getattr(torch, dtype)) for name, dtype, shape in told}
        flat = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in all_.values()]
        buffer = torch.cat([torch.empty(0, dtype=torch.uint8), *flat])
        self._send(buffer, rank)
        if rank != self.rank:
            for tensor, part in zip(flat, torch.split_with_sizes(buffer, [len(t) for t in flat]), strict=True):
                tensor.copy_(part)
        return all_

    def gather(self, value: T) -> list[T]:
        """Exchange JSON, padded to one length for the wire; floats arrive to the last bit."""
        import torch

        data = bytearray(json.dumps(value).encode())
        lengths = self.gather_rows(torch.tensor([len(data)]), self.size).tolist()
        data.extend(b" " * (max(lengths) - len(data)))  # JSON may end in blanks
        rows = self.gather_rows(torch.frombuffer(data, dtype=torch.uint8)[None], self.size)
        return [json.loads(bytes(row.tolist())) for row in rows]

    def now(self) -> float:
        """Return rank 0's monotonic seconds."""
        return self.broadcast(time.monotonic())

    def agree(self, *wishes: bool, figure: float = 0.0) -> list[bool]:
        """Take the maximum over ranks of all wishes, of the figure and of its negative, in one collective."""
        import torch

        figure = figure if math.isfinite(figure) else -math.inf
        told = torch.tensor([*map(float, wishes), figure, -figure], dtype=torch.float64)
        self._collective(lambda: self._dist.all_reduce(told, op=self._dist.ReduceOp.MAX, group=self._group))
        *wanted, largest, smallest = told.tolist()
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

        first = torch.tensor([self.rank if problem else self.size])
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


def environment_size() -> int:
    """Return how many processes the launcher (torchrun, or whatever sets WORLD_SIZE and RANK) has started."""
    return int(os.environ.get("WORLD_SIZE") or 1) if "RANK" in os.environ else 1


def speaks() -> bool:
    """True in the one process that prints: rank 0 of those that the launcher started."""
    return environment_size() == 1 or os.environ["RANK"] == "0"


def current() -> Ranks:
    """Return the ranks that this process has joined, or a process on its own."""
    return _joined or Ranks()


def join(timeout: float, device: str = "auto") -> Ranks:
    """Join the other processes of this run, once; without a launcher return a process on its own.

    `timeout`: seconds after which a collective that others do not take part in has failed. `device` as in the settings;
    on CUDA the process takes the GPU of its LOCAL_RANK and NCCL, else gloo. A process group that the caller has made is
    taken as it is. Raises `SettingError` where there are more ranks than GPUs, `UserError` where ranks do not meet.
    """
    global _joined
    if _joined is None:
        import torch.distributed as dist

        if not dist.is_available():
            return Ranks()
        if dist.is_initialized():
            _joined = ProcessRanks() if dist.get_world_size() > 1 else Ranks()
        elif environment_size() > 1:
            _joined = _initialise(timeout, device)
        else:
            return Ranks()
        if not _joined.main:
            warnings.simplefilter("ignore")  # rank 0 says them
    return _joined


def _initialise(timeout: float, device: str) -> ProcessRanks:
    import torch
    import torch.distributed as dist

    on_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if device == "mps":
        raise SettingError(
            "device", device, "torch has no collectives there", "use --device cpu with several processes"
        )
    if on_cuda:
        local, gpus = int(os.environ.get("LOCAL_RANK", os.environ["RANK"])), torch.cuda.device_count()
        if local >= gpus:
            raise SettingError("nproc-per-node", local + 1, f"this machine has {gpus} GPUs", f"use at most {gpus}")
        torch.cuda.set_device(local)
        # A failed collective is to raise here; by default a watchdog thread aborts the process without a word.
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=timedelta(seconds=max(timeout, STARTUP_SECONDS))
        )
        # The run's own, shorter timeout begins when all have met.
        ranks = ProcessRanks(dist.new_group(timeout=timedelta(seconds=timeout)))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"ranks do not meet ({reason}); start all processes with torchrun, which sets RANK, WORLD_SIZE and MASTER_*"
        ) from error
    atexit.register(_leave, ranks)
    return ranks


def _leave(ranks: ProcessRanks) -> None:
    """Close the group in peace; after a failed collective nobody would answer."""
    import torch.distributed as dist

    if not ranks.lost and dist.is_initialized():
        dist.destroy_process_group()
