"""How far subset minima stand for the full set."""
