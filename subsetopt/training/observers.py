"""Who hears of a run beside its progress display: callbacks of the user's, the logger `subsetopt`, a tracker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from subsetopt.arguments import is_true, kind_of, takes
from subsetopt.errors import SettingError
from subsetopt.training.progress import Progress
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.trackers import Tracker

LOGGER = logging.getLogger("subsetopt")
LOGGER.addHandler(logging.NullHandler())  # silent until the program that uses us says where to

Callback = Callable[[Mapping[str, Any]], Any]


@dataclass
class Callbacks:
    """Functions that are called in a run, on rank 0; one that returns True stops it, with its state saved.

    `on_iteration` gets the record that goes into metrics.jsonl, `on_phase_end` the phase's record of result.json;
    `stopped` says that one has stopped the run. Raises `SettingError` for what cannot be called.
    """

    on_iteration: Callback | None = None
    on_phase_end: Callback | None = None
    stopped: bool = False

    def __post_init__(self) -> None:
        for name, function in (("on_iteration", self.on_iteration), ("on_phase_end", self.on_phase_end)):
            if function is not None and not callable(function):
                raise SettingError(name, function, f"is {kind_of(function)}", "give a function of one record")
            if function is not None and not takes(function, 1):
                raise SettingError(name, function, "does not take one argument", "give a function of one record")


class Observed:
    """Progress that shows itself as `inner` does, and tells all others; `asked` once a callback asks to stop."""

    def __init__(self, inner: Progress, callbacks: Callbacks, tracker: Tracker | None) -> None:
        self._inner, self._callbacks, self._tracker = inner, callbacks, tracker
        self._title = ""
        self.asked = False

    def phase_started(self, index: int, total: int, phase: PhaseConfig, title: str) -> None:
        """Phase `index` (from 0) of `total` begins."""
        self._title = title
        LOGGER.info("phase %d of %d: %s", index + 1, total, title)
        self._inner.phase_started(index, total, phase, title)

    def update(self, record: Mapping[str, Any]) -> None:
        """One iteration is done."""
        self._inner.update(record)
        if self._tracker is not None:
            self._tracker.iteration(record)
        self._ask(self._callbacks.on_iteration, record)

    def phase_ended(self, stop_reason: str) -> None:
        """The current phase ended for this reason."""
        LOGGER.info("%s: %s", self._title, stop_reason)
        self._inner.phase_ended(stop_reason)

    def phase_done(self, record: Mapping[str, Any]) -> None:
        """The current phase is complete, with this record."""
        self._ask(self._callbacks.on_phase_end, record)

    def message(self, text: str) -> None:
        """Tell something worth reading."""
        LOGGER.info("%s", text)
        self._inner.message(text)

    def warn(self, text: str) -> None:
        """Tell something the user should act on."""
        LOGGER.warning("%s", text)
        self._inner.warn(text)

    def _ask(self, function: Callback | None, record: Mapping[str, Any]) -> None:
        if function is not None and is_true(function(dict(record))):
            self.asked = self._callbacks.stopped = True


def stop_asked(progress: Progress) -> bool:
    """Return whether a callback has asked to stop."""
    return isinstance(progress, Observed) and progress.asked
