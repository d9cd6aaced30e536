"""Prices are calibrated once per model and shape, and never shared where they may differ."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from subsetopt.objective import Prices
from subsetopt.training import run_prices
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the calibrations from an empty store on."""
    calls: list[int] = []
    whole = run_prices.calibrated_prices

    def counted(*given: Any, **settings: Any) -> Prices:
        calls.append(1)
        return whole(*given, **settings)

    monkeypatch.setattr(run_prices, "calibrated_prices", counted)
    monkeypatch.setattr(run_prices, "_KNOWN_PRICES", {})
    return calls


def prices(module: nn.Module | None = None, **settings: Any) -> Prices:
    return prepare(make_config(settings), module).budget.ledger.prices


def test_runs_of_one_model_share_its_prices(calibrated: list[int]) -> None:
    first, second = prices(seed=0), prices(seed=3, subset_frac=0.2, solver="ncg")
    assert first == second and first is not second and len(calibrated) == 1


@pytest.mark.parametrize(
    "other", [{"model": "linear"}, {"model_args": {"widths": [8]}}, {"dtype": "float64"}, {"normalize": "none"}]
)
def test_another_model_or_dtype_has_prices_of_its_own(calibrated: list[int], other: dict[str, Any]) -> None:
    prices()
    found = prices(**other)
    assert found == prices(**other)
    run_prices._KNOWN_PRICES.clear()
    assert prices(**other) == found, "what was shared is what a calibration gives"


def test_a_users_own_model_is_always_calibrated(calibrated: list[int]) -> None:
    for width in (4, 32):
        prices(nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10)))
    assert len(calibrated) == 2


def test_products_are_counted_when_a_run_asks_for_their_price(calibrated: list[int]) -> None:
    found = prices()
    assert set(found) == {"forward", "gradient", "flops"}
    assert found["hvp"] > 1 and {"ggnvp", "linearise"} < set(found)
    assert prices()["hvp"] == found["hvp"], "also where the prices are shared"
    assert found.changed({"hvp": 7.0})["hvp"] == 7.0, "a checkpoint's own price holds"
