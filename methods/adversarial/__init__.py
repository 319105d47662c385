"""Inputs changed to be misread: attacks, training against them, filters before the network, and the
measurement."""
