"""Dataclasses of tensors, arrays and numbers come back from a checkpoint as they were.

Reference: the dataclass that was split.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from typing_extensions import TypeAliasType

from subsetopt.saving import join, split

Scalar = TypeVar("Scalar", bound=np.generic)
# What NumPy 2.5 makes of NDArray; older ones have a plain generic alias.
Named = TypeAliasType("Named", np.ndarray[tuple[int, ...], np.dtype[Scalar]], type_params=(Scalar,))


@dataclass
class Plain:
    """A state as the solvers write it."""

    gram: NDArray[np.float64]
    pairs: int


@dataclass
class Aliased:
    """The same under NumPy 2.5's alias."""

    gram: Named[np.float64]
    pairs: int


@pytest.mark.parametrize("kind", [Plain, Aliased])
def test_an_array_comes_back_as_an_array(kind: type[Plain]) -> None:
    state = kind(np.array([[1 / 3, 2e-300], [np.pi, -0.0]]), 2)
    tensors, numbers = split(state)
    again = join(kind, tensors, json.loads(json.dumps(numbers)))
    assert isinstance(again.gram, np.ndarray)
    np.testing.assert_array_equal(again.gram, state.gram)
    assert again.pairs == 2
