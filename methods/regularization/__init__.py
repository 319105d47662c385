"""Changes of inputs, targets and the optimizer step that improve generalization."""
