"""Tasks: the loss and the metrics of a head."""
