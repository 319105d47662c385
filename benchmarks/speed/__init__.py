"""Ours beside a bare loop, and beside the limit."""
