"""What people see of a run: the summary and the figure. Reads run directories and results, never live objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from subsetopt.report.summary import summary

if TYPE_CHECKING:
    from subsetopt.report.figure import loss_figure as loss_figure

__all__ = ["loss_figure", "summary"]


def __getattr__(name: str) -> object:
    """Import the figure on first use, so that a summary does not wait for matplotlib."""
    if name == "loss_figure":
        from subsetopt.report.figure import loss_figure

        return loss_figure
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
