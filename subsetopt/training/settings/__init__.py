"""Settings of runs and phases, one place per setting."""
