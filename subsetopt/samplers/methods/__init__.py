"""Sampling methods, one per file with its card."""
