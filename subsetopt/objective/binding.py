"""What an objective evaluates for a loss that calls the model itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from subsetopt.inputs import Inputs, Stored
from subsetopt.objective.module_call import InPlaceOfForward


@dataclass(frozen=True)
class Binding:
    """`function(model, x)` in place of `model(x)`, on x of `inputs` after `preprocess`; `targets` go to the loss."""

    inputs: Stored
    targets: Tensor
    function: InPlaceOfForward
    preprocess: Callable[[Any], Any] | None


@runtime_checkable
class CallsModel(Protocol):
    """A loss that calls the model; `given` is what it is called with where no targets are given."""

    def bind(self, inputs: Stored, targets: Tensor | None, preprocess: Callable[[Any], Any] | None) -> Binding:
        """Return what is evaluated for it on these data."""


def as_given(x: Inputs) -> Any:
    """Return inputs as the user gave them: a tensor, a tuple or a dict."""
    return x if isinstance(x, Tensor) else x.given()
