"""A finished run in the formats of others. Each file writes one format; `folding` brings the
network into plain form.

A format is written whole and checked, or not at all: every exported model is run beside the run's
own on made-up inputs, and where they differ nothing stays on the disk.
"""
