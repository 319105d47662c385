"""Corrections for the class prior of a long-tailed training set, in the logits, the weights or the
sampler. The slot `prior_correction` admits one of them."""
