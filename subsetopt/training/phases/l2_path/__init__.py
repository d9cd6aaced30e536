"""Several L2 strengths, solved one from the other's end."""
