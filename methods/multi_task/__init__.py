"""Several tasks in one network: which layers they share, and how their losses or gradients become
one update."""
