"""A study small enough for a test: logistic regression on digits, two epochs per run."""

from __future__ import annotations

from typing import Any

import pytest

from subsetopt.compare.config import ValidatedStudy, make_study

SMALL: dict[str, Any] = {
    "methods": "lbfgs@0.2+full,adam",
    "budget": "2",
    "seeds": "2",
    "model": "linear",
    "max_extensions": 1,
}


@pytest.fixture
def small() -> ValidatedStudy:
    """Return the small study."""
    return make_study(SMALL)
