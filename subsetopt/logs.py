"""A logger whose warnings are one line on standard error unless the program that uses us says where they go.

What a run has to say is heard through its display, so the logger `subsetopt` is silent by itself; what a registry or
a comparison leaves out is said nowhere else.
"""

from __future__ import annotations

import logging


class _Unheard(logging.Handler):
    """Writes on standard error what no handler of the user's would get."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the record to `logging.lastResort` where nobody else listens."""
        ours = logging.getLogger("subsetopt").handlers
        others = [
            handler for handler in (*ours, *logging.root.handlers) if not isinstance(handler, logging.NullHandler)
        ]
        if not others and logging.lastResort is not None:
            logging.lastResort.handle(record)


def left_out() -> logging.Logger:
    """Return the logger `subsetopt.left_out`; handlers at `subsetopt` or above get its records, too."""
    logger = logging.getLogger("subsetopt.left_out")
    if not logger.handlers:
        logger.addHandler(_Unheard(logging.WARNING))
    return logger
