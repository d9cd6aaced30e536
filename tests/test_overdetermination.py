"""The overdetermination ratio against hand counts, exact fractions and simulated least squares."""

import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from subsetopt.errors import ModelError, SettingError
from subsetopt.overdetermination import (
    WARN_BELOW,
    count_parameters,
    fraction_table,
    overdetermination_ratio,
    relative_excess,
    samples_for_ratio,
    verdict,
    warning,
)


class Tied(nn.Module):
    """A shared weight: decoder and encoder hold the same Parameter."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(5, 5)
        self.decoder = nn.Linear(5, 5)
        self.decoder.weight = self.encoder.weight


def frozen_first_layer():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


def with_complex_parameter():
    model = nn.Linear(3, 2)
    model.phase = nn.Parameter(torch.zeros(7, dtype=torch.complex64))
    return model


@pytest.mark.parametrize(
    ("model", "by_hand"),
    [
        (nn.Linear(3, 2), 3 * 2 + 2),
        (Tied(), 25 + 5 + 5),
        (frozen_first_layer(), 4 * 2 + 2),
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), 3 * 4 + 4 + 2 * 4),  # buffers are not parameters
        (with_complex_parameter(), 8 + 2 * 7),
        (nn.ReLU(), 0),
    ],
)
def test_parameters_counted_by_hand(model, by_hand):
    assert count_parameters(model) == by_hand


def test_ratio_of_a_module_is_that_of_its_parameter_count():
    over = overdetermination_ratio(nn.Linear(3, 2), samples=np.int64(20), outputs=2)
    assert over == overdetermination_ratio(8, 20, 2)
    assert (over.parameters, over.samples, over.outputs, over.equations, over.ratio) == (8, 20, 2, 40, 5.0)


def test_lazy_and_frozen_models_are_refused_in_one_line():
    with pytest.raises(ModelError, match="no shape yet; run one batch"):
        overdetermination_ratio(nn.LazyLinear(3), 10, 1)
    with pytest.raises(ModelError, match="no trainable parameters"):
        overdetermination_ratio(nn.Linear(2, 2).requires_grad_(False), 10, 1)


@pytest.mark.parametrize("value", [0, -3, 2.5, float("nan"), "12", None, True])
@pytest.mark.parametrize("setting", ["parameters", "samples", "outputs"])
def test_counts_must_be_whole_numbers_of_at_least_one(setting, value):
    counts = {"parameters": 5, "samples": 50, "outputs": 2} | {setting: value}
    with pytest.raises(SettingError) as caught:
        overdetermination_ratio(counts["parameters"], counts["samples"], counts["outputs"])
    assert setting in str(caught.value) and repr(value) in str(caught.value) and "\n" not in str(caught.value)


@given(
    parameters=st.integers(1, 10**9),
    outputs=st.integers(1, 10**4),
    target=st.one_of(
        st.fractions(min_value=Fraction(1, 1000), max_value=1000),
        st.decimals(min_value="0.001", max_value=1000, places=3),
        st.floats(min_value=1e-3, max_value=1e3),
    ),
)
def test_samples_for_ratio_is_the_smallest_that_meets_the_target(parameters, outputs, target):
    samples = samples_for_ratio(parameters, outputs, target)
    exact = Fraction(str(target))
    assert Fraction(samples * outputs, parameters) >= exact > Fraction((samples - 1) * outputs, parameters)


def test_a_float_target_means_the_decimal_it_prints_as():
    assert samples_for_ratio(1000, 1, 0.1) == 100  # the binary 0.1 is above a tenth and would need 101
    assert samples_for_ratio(1000, 1, "0.1") == samples_for_ratio(1000, 1, Decimal("0.1")) == 100


@pytest.mark.parametrize("target", [0, -1.0, float("nan"), float("inf"), "abc", "1/0", None, True])
def test_bad_targets_are_one_line(target):
    with pytest.raises(SettingError, match="target") as caught:
        samples_for_ratio(10, 1, target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("ratio", "excess"), [(2, 1.0), (11, 0.1), (101, 0.01)])
def test_relative_excess_has_the_published_values(ratio, excess):
    assert relative_excess(ratio) == pytest.approx(excess)


@pytest.mark.parametrize("ratio", [1, 1.0, 0.5, 0, -2, float("nan"), float("inf")])
def test_the_law_is_refused_where_it_does_not_hold(ratio):
    with pytest.raises(SettingError, match="above 1"):
        relative_excess(ratio)


def test_fraction_table_by_hand():
    tiny, half, full = fraction_table(40, 2, 200, fractions=(0.001, 0.5, 1))
    assert (tiny.samples, tiny.ratio, tiny.relative_excess) == (1, 0.05, None)
    assert (half.fraction, half.samples, half.ratio, half.relative_excess) == (0.5, 100, 5.0, 0.25)
    assert (full.samples, full.ratio) == (200, 10.0)
    for fraction in (0, 1.5, float("nan")):
        with pytest.raises(SettingError, match="fraction"):
            fraction_table(40, 2, 200, fractions=(fraction,))


def test_table_and_subset_agree_on_how_many_samples_a_fraction_means():
    from subsetopt.data.subset import draw

    for row in fraction_table(10, 1, 1294, fractions=(0.01, 0.1, 0.15, 0.35, 0.5)):
        assert row.samples == len(draw(1294, fraction=row.fraction, seed=0))


def test_verdict_states_the_law_for_regression_only():
    two = overdetermination_ratio(10, 20, 1)
    assert "100 % (100 % at Q = 2" in verdict(two, task="regression")
    text = verdict(two, overdetermination_ratio(10, 200, 1), task="classification")
    assert "Q alone does not decide" in text and "Q = 20 on the full set" in text and "1/(Q - 1)" not in text


def test_verdict_tells_below_exactly_at_and_above_one():
    assert "fewer equations" in verdict(overdetermination_ratio(10, 9, 1))
    assert "exactly as many" in verdict(overdetermination_ratio(10, 10, 1))
    assert "more equations" in verdict(overdetermination_ratio(10, 11, 1))
    assert "Q = 1 " not in verdict(overdetermination_ratio(10000, 9999, 1))
    for text in (verdict(overdetermination_ratio(10, k, 1), task=task) for k in (9, 10, 11) for task in WARN_BELOW):
        assert "\n" not in text


def test_warning_begins_below_the_threshold_of_the_task():
    for task, threshold in WARN_BELOW.items():
        enough = samples_for_ratio(1000, 10, threshold)
        assert warning(overdetermination_ratio(1000, enough, 10), task) is None
        assert f"{enough} samples" in warning(overdetermination_ratio(1000, enough - 1, 10), task)
    with pytest.raises(SettingError, match="did you mean 'regression'"):
        warning(overdetermination_ratio(1, 1, 1), "regresion")


def test_bare_counts_need_no_torch():
    code = (
        "import sys; from subsetopt.overdetermination import fraction_table, overdetermination_ratio, verdict;"
        "verdict(overdetermination_ratio(10, 20, 1)); fraction_table(10, 1, 20); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
