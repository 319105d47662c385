"""Export of a finished run. Each file writes one format; `folding` merges what methods do at
prediction into the weights.

A format is written completely and checked, or not at all: every exported model is compared with the
run's own on synthetic inputs, and is deleted if they differ.
"""
