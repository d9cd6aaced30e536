"""The colours of figures: every line has a contrast of at least 4.5 to 1 on white (WCAG 2.2, 1.4.3)."""

from __future__ import annotations

LINE_COLOURS = ("#0072b2", "#c04a00", "#007a55", "#a8478c", "#8a6100", "#b3202a")
"""Those of the page's style sheet; marks and dashes tell lines apart for readers who see few colours."""
INK, GRID = "#333333", "#dddddd"
