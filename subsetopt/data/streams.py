"""Random integers that are the same on every platform and in every version of numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from subsetopt.seeding import derive_seed


def raw_stream(seed: int, name: str, count: int) -> NDArray[np.uint64]:
    """Return `count` raw 64-bit words of the stream `name`; a longer stream begins with the shorter one.

    numpy promises the words of a bit generator for good (NEP 19), but not what `Generator` makes of them.
    """
    return np.random.PCG64(derive_seed(seed, name)).random_raw(count)


def uniforms(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return one number in the open interval (0, 1) per word, from its upper 53 bits."""
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
