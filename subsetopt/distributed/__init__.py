"""Ranks: the processes of one data-parallel run, and the few collectives that they need.

This is the only package that knows of torch.distributed. Everything else asks a `Ranks` object, which for a process on
its own does nothing. All ranks run the same program on the same decisions; what a collective adds up is equal on all of
them to the last bit, so that every rank takes the identical step. A rank that dies or hangs makes the collective of the
others fail within the timeout, and that ends the run in one line. Torch is imported late: the command line asks here
whether it may speak.
"""

from __future__ import annotations

from subsetopt.distributed.launch import current, environment_size, initialised, is_main, join
from subsetopt.distributed.process_ranks import ProcessRanks
from subsetopt.distributed.ranks import RankFailedError, RankLostError, Ranks

__all__ = [
    "ProcessRanks",
    "RankFailedError",
    "RankLostError",
    "Ranks",
    "current",
    "environment_size",
    "initialised",
    "is_main",
    "join",
]
