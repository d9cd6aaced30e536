"""Solves on subsets that are drawn anew with unequal chances, and then on all samples."""
