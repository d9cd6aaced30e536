"""The seeds of a study, as every face of this package takes them: a number of seeds, or which ones.

Imports neither numpy nor torch, so that `--help` stays instant.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from subsetopt.errors import SettingError

MOST_SEEDS = 1000
LARGEST_SEED = 10**15  # seeds for tuning are made of them, and fit into the 64 bits of TOML
SEEDS_EXAMPLE = "5"
_PROBLEM = (
    f"must be a number of seeds, at least 1 and at most {MOST_SEEDS}, or their list, none below 0 and none twice, "
    "such as 11-13 or 1,2,5-7"
)


def read_seeds(value: object, first: int = 0) -> tuple[int, ...]:
    """Return the seeds that `value` means; raises `ValueError`, with one text for all that it cannot be.

    A number n, or its text, means n seeds from `first` on. A list, tuple, range or array has the seeds themselves, and
    so has a text with a comma or a dash: `0,3`, `11-13`, `1,2,5-7`.
    """
    if (count := seed_count(value)) is not None:
        return tuple(range(first, first + count))
    if isinstance(value, str):
        parts: Iterable[object] = [part for part in value.split(",") if part.strip()]
    else:
        parts = _items(value)
    seeds: list[int] = []
    for part in parts:
        seeds += _range(part)
        if len(seeds) > MOST_SEEDS:
            raise ValueError(_PROBLEM)
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed <= LARGEST_SEED for seed in seeds):
        raise ValueError(_PROBLEM)
    return tuple(seeds)


def as_seeds(value: object) -> tuple[int, ...]:
    """Return the setting `seeds` as `read_seeds` does; raises `SettingError` in one line."""
    try:
        return read_seeds(value)
    except ValueError as error:
        raise SettingError("seeds", value, str(error), f"for example {SEEDS_EXAMPLE}") from None


def seed_count(value: object) -> int | None:
    """Return the number of seeds where `value` is one or its text, None where it has seeds; raises `ValueError`."""
    text = isinstance(value, str) and "," not in value and "-" not in value
    count = _whole(str(value)) if text else _index(value)
    if count is not None and not 1 <= count <= MOST_SEEDS:
        raise ValueError(_PROBLEM)
    return count


def shown_seeds(seeds: Iterable[int]) -> str:
    """Return seeds as a person writes them: `0-4`, `1,2,5-7`; `read_seeds` takes it back."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs]
    return parts[0] + "," if len(parts) == 1 and parts[0].isdigit() else ",".join(parts)


def _items(value: Any) -> list[object]:
    """Return the items of a sequence or an array of one dimension; a set has no order, an iterator no second time."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, (list, tuple, range)) or len(value) > MOST_SEEDS:
        raise ValueError(_PROBLEM)
    return list(value)


def _range(part: object) -> list[int]:
    """Return the seed or the seeds from-to that one part means."""
    if not isinstance(part, str):
        seed = _index(part)
        if seed is None:
            raise ValueError(_PROBLEM)
        return [seed]
    low, dash, high = part.partition("-")
    first, last = _whole(low), _whole(high if dash else low)
    if last < first or last - first >= MOST_SEEDS:
        raise ValueError(_PROBLEM)
    return list(range(first, last + 1))


def _whole(text: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise ValueError(_PROBLEM)
    return int(text)


def _index(value: object) -> int | None:
    """Return a whole number, also numpy's, as an int; None for anything else, True and 3.0 among it."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type] # what has no __index__ raises
    except TypeError:
        return None
