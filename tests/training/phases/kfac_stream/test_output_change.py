"""The measured change of the outputs against dense Gauss-Newton matrices and its own bookkeeping."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from subsetopt.objective.losses import CrossEntropy, MeanSquaredError, make_loss
from subsetopt.seeding import make_generator
from subsetopt.training.phases.kfac_stream.output_change import (
    FEWEST,
    FEWEST_NORMED,
    MOST,
    SHORTEST,
    TRIALS,
    UNMEASURED,
    OutputChange,
)


@pytest.mark.parametrize("loss", [CrossEntropy(), MeanSquaredError()])
def test_the_change_of_a_linear_model_is_the_gauss_newton_form_of_the_step(loss):
    torch.manual_seed(0)
    x, w, step = torch.randn(9, 4), torch.randn(3, 4), 1e-3 * torch.randn(3, 4)
    y = torch.arange(9) % 3 if isinstance(loss, CrossEntropy) else torch.randn(9, 3)

    def mean_loss(flat: torch.Tensor) -> torch.Tensor:
        return loss.per_sample(x @ flat.view(3, 4).T, y).mean()

    hessian = torch.autograd.functional.hessian(mean_loss, w.flatten())  # a linear model's is its Gauss-Newton matrix
    change = OutputChange()
    assert float(change.measure(x @ w.T, y, loss)) == 0.0
    found = change.measure(x @ (w + step).T, y, loss)
    assert float(found) == pytest.approx(float(step.flatten() @ hessian @ step.flatten()), rel=1e-3)


def test_the_ratio_is_that_of_running_sums_of_steps_that_were_taken():
    change = OutputChange()
    assert change.ratio == UNMEASURED
    change.learn(5.0)  # no step was taken
    assert change.ratio == UNMEASURED
    change.step = 0.1
    change.learn(2.0)
    assert change.ratio == pytest.approx(20.0)
    change.learn(math.nan)
    change.learn(math.inf)
    assert change.ratio == pytest.approx(20.0)
    change.step = 0.2
    change.learn(1.0)
    assert change.ratio == pytest.approx((0.9 * 2.0 + 1.0) / (0.9 * 0.1 + 0.2))


def test_what_is_not_a_step_leaves_no_change_behind():
    change = OutputChange(outputs=torch.zeros(3, 2), seen=2.0, foreseen=0.1, step=0.5)
    change.forget()
    assert float(change.measure(torch.ones(3, 2), torch.zeros(3, 2), MeanSquaredError())) == 0.0
    change.learn(0.0)
    assert change.ratio == pytest.approx(20.0)


def test_samples_are_few_beside_a_subset():
    change, rows = OutputChange(), torch.arange(100)
    for size, expected in ((16, FEWEST), (100, 12), (1000, MOST)):
        change.watch(rows, size, False)
        assert change.rows.tolist() == list(range(expected))
    change.watch(rows, 16, True)
    assert len(change.rows) == FEWEST_NORMED


def test_without_a_second_derivative_the_change_is_that_of_the_slope():
    loss, y = make_loss(nn.MultiMarginLoss(p=2)), torch.arange(9) % 3
    before, step = torch.zeros(9, 3), 1e-2 * torch.randn(9, 3, generator=make_generator(0, "step"))

    def smooth(z: torch.Tensor) -> torch.Tensor:  # at zero every margin of 1 is violated, and no kink is near
        margins = (1 - z.gather(1, y[:, None]) + z).square() / 3
        return margins.sum() - margins.gather(1, y[:, None]).sum()

    hessian = torch.autograd.functional.hessian(smooth, before).reshape(27, 27)
    change = OutputChange()
    change.measure(before, y, loss)
    expected = step.flatten() @ hessian @ step.flatten() / 9
    assert float(change.measure(before + step, y, loss)) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("found", [0.5, 50.0, 5e9, math.inf, math.nan])
def test_a_step_that_is_tried_changes_outputs_by_the_bound_at_most(found):
    """By a change that is quadratic in the length; what overflows is cut to the shortest, and teaches nothing."""
    change = OutputChange(seen=1.0, foreseen=0.1)
    length = change.length(rate=1.0, bound=0.1, curvature=0.04)
    assert length == pytest.approx(math.sqrt(0.1 / (10.0 * 0.04)))
    foreseen = change.step
    tried = change.tried(length, found, bound=2.0)
    assert change.trials == TRIALS - 1 and change.step == 0.0
    if found <= 2.0:
        assert tried == length
    elif found == 50.0:
        assert found * (tried / length) ** 2 == pytest.approx(2.0)
    else:
        assert tried == SHORTEST * length
    if math.isfinite(found):
        assert change.ratio == pytest.approx((0.9 * 1.0 + 0.1 * found) / (0.9 * 0.1 + 0.1 * foreseen))
    else:
        assert change.ratio == pytest.approx(10.0)
    ratio = change.ratio
    change.learn(3.0)
    assert change.ratio == ratio, "the change of this step is known"


def test_the_rate_bounds_a_step_that_changes_little():
    assert OutputChange().length(rate=0.1, bound=1.0, curvature=1e-6) == 0.1
    assert OutputChange().length(rate=0.1, bound=1.0, curvature=0.0) == 0.1
