"""Named random streams: one user seed, one independent generator per purpose, the global generators untouched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
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
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, name))
        yield
