"""Measures what only a GPU can show, part by part, within minutes: `python -m subsetopt.bench.gpu OUT`."""
