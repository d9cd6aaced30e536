"""Global random numbers of the tests of K-FAC."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from subsetopt.seeding import seeded_globals


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with seeded_globals(0, "kfac tests"):
        yield
