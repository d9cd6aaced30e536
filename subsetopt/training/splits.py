"""The parts of a data set that a run trains on or measures. Imports no torch: settings are read before it."""

from __future__ import annotations

from enum import StrEnum

from subsetopt.errors import unknown_name


class SplitName(StrEnum):
    """The subset of the training data, all training data, or held-out data; values are the keys in result.json."""

    SUBSET = "subset"
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"

    @classmethod
    def named(cls, name: str) -> SplitName:
        """Return the split called `name`; raises `SettingError` for any other word."""
        if name not in tuple(cls):
            raise unknown_name("splits", name, [str(split) for split in cls])
        return cls(name)

    @classmethod
    def trained_on(cls, data: str) -> SplitName:
        """Return the split that the `data` of a phase means, which says "full" for all training data."""
        return cls.TRAIN if data == "full" else cls.SUBSET
