"""Settings that allocate by their value are refused in one line, by name, before anything is allocated or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from subsetopt import minimize
from subsetopt.data import augmented_copies
from subsetopt.errors import SettingError
from subsetopt.optim import LBFGS
from subsetopt.samplers import make_sampler
from tests.cli.conftest import Cli

HUGE = 10**12


def _step_of_optim() -> None:
    w = torch.nn.Parameter(torch.ones(3))

    def closure() -> torch.Tensor:
        w.grad = None
        loss = (w**4).sum()
        loss.backward()
        return loss

    LBFGS([w], history_size=HUGE).step(closure)


IN_PYTHON: dict[str, Callable[[], object]] = {
    "memory": lambda: minimize(lambda x: (x**4).sum(), torch.ones(3), memory=HUGE),
    "history_size": _step_of_optim,
    "repetitions": lambda: make_sampler("nw-sketch", 100, 10, 0, repetitions=HUGE),
    "history": lambda: make_sampler("selective-backprop", 100, 10, 0, history=HUGE),
    "augment_copies": lambda: augmented_copies(torch.zeros(4, 1, 8, 8), HUGE, 0),
}


@pytest.mark.parametrize("name", IN_PYTHON)
def test_a_value_that_no_machine_has_memory_for_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(SettingError, match=rf"^{name} = {HUGE}: needs .* GiB of memory, .* are there; ") as caught:
        IN_PYTHON[name]()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "flags",
    [
        ["--solver-arg", "memory=1e9", "--handoff", "none"],
        ["--solver", "none", "--handoff", "full", "--handoff-arg", "memory=1e9"],
        ["--handoff", "nw-sketch", "--handoff-epochs", "1", "--handoff-arg", "repetitions=1000000000"],
    ],
)
def test_the_command_ends_with_2_and_leaves_nothing_behind(cli: Cli, flags: list[str], tmp_path: Path) -> None:
    told = cli("train", "--dataset", "digits", "--model", "linear", "--output", tmp_path / "run", *flags)
    assert told.code == 2
    assert "GiB of memory" in told.line
    assert "--chunk-size" not in told.line
    assert not (tmp_path / "run").exists()


def test_a_long_memory_that_fits_is_taken_as_it_is() -> None:
    """A quadratic in three variables ends at its minimum whatever the length of the memory."""
    assert minimize(lambda x: (x**2).sum(), torch.ones(3), memory=1000).converged
