"""The random numbers that a model itself draws (dropout), which come from torch's global generators and no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from subsetopt.seeding import borrowed_generators, make_generator


def new_states(seed: int, name: str, device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators of the CPU and of a CUDA `device` at the start of the stream `name`."""
    kinds = {"cpu", "cuda"} & {"cpu", device.type}
    return {kind: make_generator(seed, name, kind).get_state() for kind in sorted(kinds)}


@contextmanager
def installed(states: dict[str, Tensor], device: torch.device) -> Iterator[None]:
    """Run under torch's generators as `states` has them and advance `states`; the caller's are put back afterwards.

    Other threads that train a model wait: there is one generator for all of them.
    """
    cuda = [device] if "cuda" in states else []
    with borrowed_generators(cuda):
        torch.set_rng_state(states["cpu"])
        for each in cuda:
            torch.cuda.set_rng_state(states["cuda"], each)
        try:
            yield
        finally:
            states["cpu"] = torch.get_rng_state()
            for each in cuda:
                states["cuda"] = torch.cuda.get_rng_state(each)
