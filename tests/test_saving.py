"""Dataclasses of tensors, arrays and numbers come back from a checkpoint as they were.

Reference: the dataclass that was split.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import TypeAliasType

from subsetopt.saving import UNSAVED, join, split, without_copies
from subsetopt.solvers.protocol import StopReason

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


@dataclass
class Inner:
    """A part with a tensor and a number of its own, and something that belongs to the process."""

    w: Tensor
    clock: object = field(metadata=UNSAVED)
    steps: int = 0


class Counter:
    """Saves itself, as torch's objects do."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return self.seen

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict


@dataclass
class Outer:
    """Everything that states of phases are made of."""

    w: Tensor
    best: Tensor
    inner: Inner
    generator: torch.Generator
    buffers: dict[str, Tensor]
    table: dict[str, Any]
    counter: Counter
    missing: Counter | None = None
    stopped: StopReason | None = None
    limit: float = float("inf")


def outer() -> Outer:
    w, counter = torch.arange(3.0), Counter()
    counter.seen = {"step": torch.tensor(4.0), "moments": {"0": {"m": torch.ones(2)}}, "rate": 0.1}
    inner, generator = Inner(torch.zeros(2), object(), 7), torch.Generator().manual_seed(5)
    table = {"a": [1, 2], "none": None, "same": w, "empty": {}}
    return Outer(w, w, inner, generator, {"bn.mean": torch.ones(1)}, table, counter, None, StopReason.NOISE)


def test_a_state_of_everything_comes_back_through_json_and_shares_what_was_shared() -> None:
    state, clock, counter = outer(), object(), Counter()
    tensors, numbers = split(state)
    assert set(tensors) == {
        "w",
        "inner.w",
        "generator",
        "buffers/bn.mean",
        "counter/step",
        "counter/moments/0/m",
    }
    again = join(Outer, tensors, json.loads(json.dumps(numbers)), counter=counter, missing=None, clock=clock)
    assert torch.equal(again.w, state.w) and again.best is again.w and again.table["same"] is again.w
    assert again.inner.clock is clock and again.inner.steps == 7 and torch.equal(again.inner.w, state.inner.w)
    assert torch.equal(again.generator.get_state(), state.generator.get_state())
    assert again.counter is counter and counter.seen["rate"] == 0.1
    assert torch.equal(counter.seen["moments"]["0"]["m"], torch.ones(2))
    assert again.stopped is StopReason.NOISE and again.limit == float("inf") and again.missing is None
    assert again.table == {"a": [1, 2], "none": None, "same": again.w, "empty": {}}


def test_what_is_saved_is_a_copy_and_so_is_what_comes_back() -> None:
    state = outer()
    tensors, numbers = split(state)
    state.w.add_(1.0)
    state.table["a"].append(3)
    again = join(Outer, tensors, numbers, counter=Counter(), clock=None)
    again.w.mul_(0.0)
    assert tensors["w"].tolist() == [0.0, 1.0, 2.0] and numbers["table"]["a"] == [1, 2]


def test_tensors_that_only_look_alike_in_memory_are_not_taken_for_one() -> None:
    square = torch.arange(4.0).view(2, 2)
    again = join(dict, *split({"a": square, "b": square.T, "c": square.view(torch.int32), "d": square}))
    assert torch.equal(again["b"], square.T) and again["c"].dtype is torch.int32 and again["d"] is again["a"]


def test_a_dataclass_in_a_mapping_is_refused_and_what_is_missing_named() -> None:
    with pytest.raises(TypeError, match="inner: a dataclass in a mapping"):
        split({"inner": Inner(torch.zeros(1), None)})
    tensors, numbers = split(outer())
    del numbers["inner.steps"]
    with pytest.raises(KeyError, match=r"inner\.steps"):
        join(Outer, tensors, numbers, counter=Counter(), clock=None)


def test_states_of_several_generators_are_kept_apart() -> None:
    """Each state is a new tensor: one that was freed must not lend its address, and so its name, to the next."""

    @dataclass
    class Streams:
        first: torch.Generator
        second: torch.Generator
        third: torch.Generator

    streams = Streams(*(torch.Generator().manual_seed(seed) for seed in range(3)))
    tensors, numbers = split(streams)
    assert len(tensors) == 3 and not numbers
    again = join(Streams, tensors, numbers)
    for name in ("first", "second", "third"):
        assert torch.equal(getattr(again, name).get_state(), getattr(streams, name).get_state())


@pytest.mark.parametrize("kind", [Plain, Aliased])
def test_an_array_that_an_earlier_version_saved_as_lists_comes_back(kind: type[Plain]) -> None:
    gram = np.array([[1 / 3, 2e-300], [np.pi, -0.0]])
    again = join(kind, {}, json.loads(json.dumps({"gram": gram.tolist(), "pairs": 2})))
    np.testing.assert_array_equal(again.gram, gram)


def test_an_array_takes_no_text() -> None:
    tensors, numbers = split(Plain(np.full((3, 3), np.pi), 2))
    assert numbers == {"pairs": 2} and tensors["gram"].shape == (3, 3)


def test_tensors_are_copied_unless_told_otherwise() -> None:
    """Within the block, and afterwards, also where that ended by an exception."""
    state = {"w": torch.zeros(3)}
    with pytest.raises(KeyError), without_copies():
        assert split(state)[0]["w"].data_ptr() == state["w"].data_ptr()
        raise KeyError
    copied = split(state)[0]["w"]
    state["w"].fill_(1)
    assert not copied.any()
