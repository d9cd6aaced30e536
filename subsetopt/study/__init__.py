"""Studies: many methods at equal cost, their statistics, and how far subset minima stand for the full set."""
