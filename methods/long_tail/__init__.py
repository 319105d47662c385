"""Correcting for the class prior of a long-tailed training set, once: in the logits, the weights or
the sampler."""
