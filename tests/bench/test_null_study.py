"""The referee against itself: two names of one method differ no more often than the tests promise.

The bank is the one of `reports/null`; its runs are computed again here for a few seeds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from subsetopt.bench.null_study import NAMES, PROCEDURES, Bank, wrong_share

BANK = Path(__file__).parents[2] / "reports" / "null" / "bank.csv"
BEFORE, _, NOW, _ = PROCEDURES


def test_a_run_of_the_bank_is_that_of_today() -> None:
    bank = Bank(BANK)
    for name in NAMES:
        assert bank.compute(name, 3, (3.0,)) == bank.figures(name, 3, (3.0,))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_two_names_of_one_method_differ_in_few_studies(seeds: int) -> None:
    """Reference: the level of the test, 5 %; 1500 studies find 6 % or more of it in less than 1 of 20 runs."""
    shares = wrong_share(Bank(BANK), NOW, seeds, 1500, np.random.default_rng(seeds))
    assert max(shares.values()) <= 0.06, shares


@pytest.mark.slow
def test_one_search_for_all_seeds_finds_differences_that_are_not_there() -> None:
    shares = wrong_share(Bank(BANK), BEFORE, 10, 600, np.random.default_rng(0))
    assert max(shares.values()) > 0.08, "the luck of one search is in no interval"
