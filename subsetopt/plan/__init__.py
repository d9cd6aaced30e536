"""Which strategy to run: measured laws, a pilot on this machine, predictions."""
