"""torch.compile of a loss on a GPU. In a file that comes last: compiling takes longest, and the tests have a limit."""

from __future__ import annotations

import warnings

import pytest
import torch
from gpu_cases import close

from subsetopt.objective import Objective
from tests.objective.objective_nets import problem


def test_a_compiled_loss_and_its_gradient_equal_plain_ones_to_rounding(cuda: torch.device) -> None:
    """Where the machine has a compiler; without one the objective warns and runs as it is."""
    model, x, y = problem("mlp")
    plain, fast = (Objective(model, x, y, l2=0.1, device=cuda, compile=compiled) for compiled in (False, True))
    w = plain.initial()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        got = fast.value_and_gradient(w), fast.value_and_gradient(0.5 * w)
    for (value, gradient), scale in zip(got, (1.0, 0.5), strict=True):
        expected = plain.value_and_gradient(scale * w)
        close(value, expected[0], rtol=1e-10)
        close(gradient, expected[1], rtol=1e-9, atol=1e-11)
    if any("compile: not possible here" in str(each.message) for each in said):
        pytest.skip(str(said[0].message))
