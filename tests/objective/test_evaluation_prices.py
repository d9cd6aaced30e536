"""Metrics of a split, outputs, and calibrated prices against hand counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subsetopt.errors import DataError
from subsetopt.objective import FALLBACK_PRICES, CountingMeter, FlatModel, Objective, calibrate_prices, evaluate_split
from subsetopt.objective.memory import SavedBytes, automatic_chunk_size
from tests.objective.objective_nets import problem


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_split_metrics_equal_the_module_in_eval_mode(chunk_size: int | None) -> None:
    model, x, y = problem("resnet")
    meter = CountingMeter()
    flat = FlatModel(model)
    got = evaluate_split(flat, flat.initial(), x, y, chunk_size=chunk_size, meter=meter)
    outputs = model.eval()(x).detach()
    accuracy = (outputs.argmax(1) == y).double().mean()
    assert got == pytest.approx({"loss": float(F.cross_entropy(outputs, y)), "accuracy": float(accuracy)}, rel=1e-12)
    assert meter.samples_by_purpose == {"evaluation": 23} and meter.samples == {"forward": 23}
    regression = torch.zeros(23, 3, dtype=torch.float64)
    mse = float(outputs.square().mean())
    assert evaluate_split(flat, flat.initial(), x, regression, "mse", chunk_size=chunk_size) == pytest.approx(
        {"loss": mse, "mse": mse}, rel=1e-12
    )
    with pytest.raises(DataError, match="classes"):
        evaluate_split(flat, flat.initial(), x, y + 1)


def test_outputs_are_those_of_eval_mode_in_row_order() -> None:
    model, x, y = problem("resnet")
    objective = Objective(model, x, y, chunk_size=6, indices=[4, 2, 9, 9, 1])
    expected = model.eval()(x)
    torch.testing.assert_close(objective.outputs(objective.initial(), x), expected)
    torch.testing.assert_close(objective.outputs(objective.initial()), expected[objective.rows])


def test_prices_of_a_dense_net_equal_the_hand_count_of_matrix_products() -> None:
    """Layers 8-16-4, a x b product = 2ab flops per sample: first layer 1 forward, 1 backward; second 1 and 2."""
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Tanh(), nn.Linear(16, 4, bias=False))
    first, second = 8 * 16, 16 * 4
    gradient = 2 * first + 3 * second
    prices = calibrate_prices(FlatModel(model), torch.zeros(6, 8), torch.zeros(6, dtype=torch.int64))
    assert prices["gradient"] == 1 and prices["linearise"] == pytest.approx(1)
    assert prices["forward"] == pytest.approx((first + second) / gradient)
    assert prices["ggnvp"] == pytest.approx((2 * first + 4 * second) / gradient)
    assert prices["hvp"] == pytest.approx((2 * first + 6 * second) / gradient, rel=0.3)


def test_prices_fall_back_where_nothing_can_be_counted() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    assert calibrate_prices(FlatModel(Scale()), torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)) == FALLBACK_PRICES


def test_prices_of_an_objective_use_its_loss_and_charge_nothing() -> None:
    model, x, y = problem("cnn", loss="mse")
    meter = CountingMeter()
    objective = Objective(model, x, y, "mse", meter=meter)
    charged = meter.samples.copy()
    prices = calibrate_prices(objective, x[:4], y[:4])
    assert meter.samples == charged and 0.2 < prices["forward"] < 0.6 and 1 < prices["ggnvp"] < 1.5


def test_saved_bytes_counts_each_storage_once_and_leaves_parameters_out() -> None:
    """y = tanh(x W): backward needs x (for dW) and tanh's output."""
    w = torch.zeros(20, requires_grad=True)
    x = torch.zeros(1000, 4)[:3]
    with SavedBytes(exclude=w) as saved:
        torch.tanh(x @ w.view(4, 5)).sum()
    assert saved.total == 4 * (3 * 4 + 3 * 5)


def test_automatic_chunk_size_is_a_power_of_two_within_limits() -> None:
    cpu = torch.device("cpu")
    assert automatic_chunk_size(14 * 2**10, cpu, False) == 1024
    assert automatic_chunk_size(15 * 2**10, cpu, False) == 512
    assert automatic_chunk_size(1.0, cpu, False) == 8192
    assert automatic_chunk_size(1e9, cpu, False) == 32
    assert automatic_chunk_size(1.0, cpu, True) == 128
