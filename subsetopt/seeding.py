"""Named random streams: one user seed, one independent generator per purpose, the global generators untouched."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


def derive_seed(seed: int, name: str) -> int:
    """Return a 63-bit seed for the stream `name` (e.g. "init", "subset", "order"), the same on every platform."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator for the stream `name`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, name))


@contextmanager
def seeded_globals(seed: int, name: str) -> Iterator[None]:
    """Run code that insists on torch's global generator (module initialisers) under the stream `name`.

    The caller's global state is restored afterwards.
    """
    with borrowed_generators():
        torch.manual_seed(derive_seed(seed, name))
        yield


@contextmanager
def borrowed_generators(devices: Sequence[torch.device] | None = None) -> Iterator[None]:
    """Have torch's global generators, of the CPU and of CUDA `devices` (default: all), and put them back afterwards.

    torch has one per device for all threads: ours wait here for each other. A thread of the user's own that draws from
    them meanwhile shifts what is drawn.
    """
    with _GENERATORS, torch.random.fork_rng(devices):
        yield


_GENERATORS = threading.RLock()
