"""Loggers: CSV and JSON always, TensorBoard and Weights & Biases on request."""
