"""Seeds as a number, a range, a list or a sequence: one reader for every face."""

from __future__ import annotations

import numpy as np
import pytest

from subsetopt.errors import SettingError
from subsetopt.study.seeds import as_seeds, read_seeds, shown_seeds


@pytest.mark.parametrize(
    ("value", "seeds"),
    [
        (3, (0, 1, 2)),
        ("3", (0, 1, 2)),
        (np.int64(2), (0, 1)),
        ("11-13", (11, 12, 13)),
        ("1,2,5-7", (1, 2, 5, 6, 7)),
        (" 4 , 2 ", (4, 2)),
        ("5,", (5,)),
        ("7-7", (7,)),
        ([5], (5,)),
        (range(3, 6), (3, 4, 5)),
        (np.array([4, 2]), (4, 2)),
        (["11-12", 3], (11, 12, 3)),
    ],
)
def test_seeds_are_read(value: object, seeds: tuple[int, ...]) -> None:
    assert read_seeds(value) == seeds and read_seeds(shown_seeds(seeds)) == seeds


@pytest.mark.parametrize(
    "value",
    [
        *(0, 1001, "0", "", ",", "a", "3.5", 3.5, 3.0, True, [True], None, {1, 2}, [], "1,1", "13-11", "-1", "1-2-3"),
        *("0-5000", [1.5], [[1]], [-1], 10**30, "1" * 5000, ["x"], iter([1]), "\u0663", [10**20]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_are_no_seeds_is_one_text(value: object) -> None:
    with pytest.raises(
        SettingError, match=r"^seeds = .*must be a number of seeds, at least 1 and at most 1000"
    ) as caught:
        as_seeds(value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
