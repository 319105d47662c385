"""Methods that learn from the unlabeled stream: consistency between views, pseudo-labels, EMA
teachers."""
