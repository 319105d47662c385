"""Averages of the weights over training, used for evaluation."""
