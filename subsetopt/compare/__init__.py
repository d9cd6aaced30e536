"""Comparison of methods at equal cost: cells, tuning, curves, verdicts."""
