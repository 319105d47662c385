"""Attacks as pure functions: (objective, x, threat, …) -> x_adv, detached, float32, within the
threat.

An objective is a callable x [N, ...] -> [N], the value per sample that the attack raises;
`losses.objective` makes one from a model and targets. All samples are attacked at once; no
parameter's `.grad` changes.
"""
