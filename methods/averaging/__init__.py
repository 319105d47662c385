"""Averages of weights over training, for evaluation."""
