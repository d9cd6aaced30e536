"""Figures of a study in words: units, signs, rounding, and bounds of accuracies."""

from __future__ import annotations

import pytest

from subsetopt.report.study import texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (texts.metric_text(0.98765, "accuracy"), "98.77 %"),
        (texts.metric_text(0.123456, "mse"), "0.1235"),
        (texts.metric_text(None, "accuracy"), texts.MISSING),
        (texts.interval_text((0.5, 0.98765), "accuracy"), "50.00 to 98.77"),
        (texts.interval_text((-0.0125, 0.0125), "accuracy"), "−1.25 to 1.25"),
        (texts.interval_text((None, 1.0), "mse"), texts.MISSING),
        (texts.difference_text(0.0125, "accuracy"), "+1.25 points"),
        (texts.difference_text(-0.5, "mse"), "−0.5"),
        (texts.loss_text(0.5), "0.5000"),
        (texts.loss_text(1.23456e-5), "1.235e-05"),
        (texts.epochs_text(1.0), "1 epoch-equivalent"),
        (texts.epochs_text(2.5), "2.5 epoch-equivalents"),
        (texts.p_equation(0.0312), "p = 0.031"),
        (texts.p_equation(0.0004), "p < 0.001"),
    ],
)
def test_figures_have_their_unit_sign_and_digits(text: str, expected: str) -> None:
    assert text == expected


def test_an_interval_of_accuracies_stays_between_0_and_1_and_others_are_as_they_are() -> None:
    assert texts.inside((-0.2, 1.4), "accuracy") == (0.0, 1.0)
    assert texts.inside((-0.2, 1.4), "mse") == (-0.2, 1.4)
