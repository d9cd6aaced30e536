"""Progress: a bar on a terminal, few lines elsewhere, nothing left behind."""

from __future__ import annotations

import math
from typing import Any

import pytest
from subsetopt_cli.bars import Bars, describe

from subsetopt.training.settings.phase import PhaseConfig

RECORD = {
    "iteration": 3,
    "loss": 0.5,
    "gradient_norm": 1e-3,
    "evaluations": 4,
    "products": 0,
    "epoch_equivalents": 0.4,
    "seconds": 0.1,
    "fraction": 0.25,
}
PHASE = PhaseConfig(method="lbfgs")


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_record_is_told_with_loss_gradient_evaluations_and_cost() -> None:
    assert describe(RECORD) == "loss 0.5, max|g| 1.0e-03, 4 evaluations, cost 0.4 epochs"


@pytest.mark.parametrize("loss", [None, math.nan])
def test_what_a_phase_does_not_know_is_left_out(loss: float | None) -> None:
    record = {**RECORD, "loss": loss, "gradient_norm": None, "products": 12}
    assert describe(record) == "4 evaluations, 12 products, cost 0.4 epochs"


def test_without_a_terminal_a_line_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bars = Bars(terminal=False, clock=clock)
    bars.phase_started(0, 2, PHASE, "lbfgs on 129 samples")
    for second in range(25):
        clock.now = float(second)
        bars.update(RECORD)
    bars.phase_ended("gradient")
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert printed.out == ""
    assert len(lines) == 4, "title, two lines in 25 seconds, the end"
    assert lines[0] == "1/2 lbfgs on 129 samples ..."
    assert lines[-1].endswith("minimum reached: max|g| fell below gtol x the loss's scale")
    assert "\r" not in printed.err


def test_on_a_terminal_a_bar_that_is_replaced_by_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    bars = Bars(terminal=True, clock=clock)
    bars.phase_started(1, 2, PHASE, "lbfgs on 1294 samples")
    clock.now = 1.0
    bars.update({**RECORD, "fraction": None})
    bars.warn("Q is below 1")
    bars.phase_ended("budget")
    printed = capsys.readouterr()
    assert "max|g| 1.0e-03" in printed.err and "Warning: Q is below 1\n" in printed.err
    assert printed.err.endswith("- budget spent\n")
    assert printed.out == ""


def test_close_is_harmless_without_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    bars: Any = Bars(terminal=True)
    bars.close()
    assert capsys.readouterr().err == ""
