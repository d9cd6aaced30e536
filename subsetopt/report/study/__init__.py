"""Pages, tables and figures of a study, read from its directory."""
