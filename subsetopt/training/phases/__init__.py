"""Phases: a method on some data until a stop."""
