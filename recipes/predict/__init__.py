"""Prediction with a finished run."""
