"""Progress on standard error: a bar per phase on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import click
from tqdm import tqdm

from subsetopt.report.words import stop_phrase
from subsetopt.training.settings.phase import PhaseConfig

_REDRAW_SECONDS = 0.1
_LINE_SECONDS = 10.0
_BAR = "{desc} |{bar:8}| {elapsed}{postfix}"


class Bars:
    """Shows loss, max|g|, evaluations and cost of the running phase, and one line that stays when it ends."""

    def __init__(self, *, terminal: bool | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._clock = clock
        self._bar: tqdm[Any] | None = None
        self._title = ""
        self._last: Mapping[str, Any] | None = None
        self._shown = 0.0

    def phase_started(self, index: int, total: int, phase: PhaseConfig, title: str) -> None:
        """Open a bar (or print the title)."""
        self._title, self._last, self._shown = f"{index + 1}/{total} {title}", None, self._clock()
        if self._terminal:
            self._bar = tqdm(
                total=1.0, desc=self._title, bar_format=_BAR, file=sys.stderr, leave=False, dynamic_ncols=True
            )
        else:
            self._line(f"{self._title} ...")

    def update(self, record: Mapping[str, Any]) -> None:
        """Redraw at most ten times a second; without a terminal, print a line every ten seconds."""
        self._last = record
        now = self._clock()
        if now - self._shown < (_REDRAW_SECONDS if self._bar is not None else _LINE_SECONDS):
            return
        self._shown = now
        if self._bar is None:
            self._line(f"{self._title}: {describe(record)}")
            return
        self._bar.n = min(1.0, record.get("fraction") or 0.0)
        self._bar.set_postfix_str(describe(record), refresh=True)

    def phase_ended(self, stop_reason: str) -> None:
        """Replace the bar by a line that says where the phase ended and why."""
        self.close()
        facts = f": {describe(self._last)}" if self._last is not None else ""
        self._line(f"{self._title}{facts} - {stop_phrase(stop_reason)}")

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._line(text)

    def warn(self, text: str) -> None:
        """Print a warning above the bar."""
        self._line(f"Warning: {text}")

    def close(self) -> None:
        """Take the bar off the screen, whatever ended the phase."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        click.echo(text, err=True)


def describe(record: Mapping[str, Any]) -> str:
    """Return one line of numbers for a record of metrics.jsonl; what the phase does not have is left out."""
    parts = []
    loss = record.get("loss")
    if loss is not None and math.isfinite(loss):
        parts.append(f"loss {loss:.4g}")
    if record.get("gradient_norm") is not None:
        parts.append(f"max|g| {record['gradient_norm']:.1e}")
    parts.append(f"{record.get('evaluations', 0)} evaluations")
    if record.get("products"):
        parts.append(f"{record['products']} products")
    if record.get("epoch_equivalents") is not None:
        parts.append(f"cost {record['epoch_equivalents']:.3g} epochs")
    return ", ".join(parts)
