"""From the resolved config to the constructed and checked parts of a run."""
