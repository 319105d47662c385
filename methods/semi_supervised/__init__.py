"""Learning from the unlabeled stream: consistency between views, pseudo-labels, averaged
teachers."""
