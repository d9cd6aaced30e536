"""Tables with named columns: reading files and frames, and encoding their columns as numbers."""
