"""Using a run."""
