"""The meter used where no ledger is given: it counts and never objects."""

from __future__ import annotations

from collections import Counter

from subsetopt.objective.protocol import CallKind, Purpose


class CountingMeter:
    """Counts calls and samples by kind, and samples by purpose."""

    def __init__(self) -> None:
        self.calls: Counter[CallKind] = Counter()
        self.samples: Counter[CallKind] = Counter()
        self.samples_by_purpose: Counter[Purpose] = Counter()

    def charge(self, kind: CallKind, samples: int, purpose: Purpose) -> None:
        """Count one call over `samples` samples."""
        self.calls[kind] += 1
        self.samples[kind] += samples
        self.samples_by_purpose[purpose] += samples
