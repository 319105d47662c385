"""Learning a metric: embeddings in which distance means difference, and the batches that this
needs."""
