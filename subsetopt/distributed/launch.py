"""How processes become ranks: what the launcher has told them, and how they meet."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import warnings
from datetime import timedelta
from types import FrameType
from typing import Any

from subsetopt.distributed.process_ranks import ProcessRanks
from subsetopt.distributed.ranks import Ranks
from subsetopt.errors import SettingError, UserError

STARTUP_SECONDS = 300.0
"""How long ranks wait for one another before there is a run: processes start, and import, at different times."""

_joined: Ranks | None = None


def environment_size() -> int:
    """Return how many processes the launcher (torchrun, or whatever sets WORLD_SIZE and RANK) has started."""
    return int(os.environ.get("WORLD_SIZE") or 1) if "RANK" in os.environ else 1


def is_main() -> bool:
    """True in the one process that prints: rank 0 of those that the launcher started."""
    return environment_size() == 1 or os.environ["RANK"] == "0"


def current() -> Ranks:
    """Return the ranks that this process has joined, or a process on its own."""
    return _joined or Ranks()


def initialised(group: Any = None) -> Ranks:
    """Return the ranks of a process group that the caller has made (None: the default one), or a process on its own.

    Unlike `join` this starts nothing: without a group of two or more, this process is alone.
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) < 2:
        return Ranks()
    return ProcessRanks(group)


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
    outlive_the_first_signal_after_a_loss(ranks)
    return ranks


def outlive_the_first_signal_after_a_loss(ranks: ProcessRanks) -> None:
    """Let this process say that a rank is lost: torchrun sends SIGTERM to those left as soon as it sees a dead one.

    Any other such signal does what it does without this, and so does one where the caller has a handler of its own.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def take(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if not ranks.lost:
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, take)


def _leave(ranks: ProcessRanks) -> None:
    """Close the group in peace; after a failed collective nobody would answer."""
    import torch.distributed as dist

    if not ranks.lost and dist.is_initialized():
        dist.destroy_process_group()
