"""Adversarial robustness: attacks, training against them, filters before the network, and the
measurement of robust accuracy."""
