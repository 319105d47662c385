"""Ours beside other libraries."""
