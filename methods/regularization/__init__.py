"""Changes of inputs, targets and the optimizer step that make any recipe generalise better."""
