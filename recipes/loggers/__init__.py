"""Where a run's numbers go: CSV and JSON always, TensorBoard and Weights & Biases on request."""
