"""The training step and the evaluation of a run."""
