"""Progress of a run, as callbacks; the command line shows it as bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from subsetopt.training.settings.phase import PhaseConfig


@runtime_checkable
class Progress(Protocol):
    """Receives what happens in a run. All methods return quickly and must not raise."""

    def phase_started(self, index: int, total: int, phase: PhaseConfig, title: str) -> None:
        """Phase `index` (from 0) of `total` begins."""

    def update(self, record: Mapping[str, Any]) -> None:
        """One iteration is done; `record` is the line that goes into metrics.jsonl, plus `fraction` of the limit."""

    def phase_ended(self, stop_reason: str) -> None:
        """The current phase ended for this reason."""

    def message(self, text: str) -> None:
        """Tell something worth reading."""

    def warn(self, text: str) -> None:
        """Tell something the user should act on."""


class Silent:
    """Progress that shows nothing."""

    def phase_started(self, index: int, total: int, phase: PhaseConfig, title: str) -> None:
        """Show nothing."""

    def update(self, record: Mapping[str, Any]) -> None:
        """Show nothing."""

    def phase_ended(self, stop_reason: str) -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """Show nothing."""

    def warn(self, text: str) -> None:
        """Show nothing."""
