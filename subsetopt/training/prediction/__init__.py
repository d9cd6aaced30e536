"""Trained models on raw inputs, and predictions for files."""
