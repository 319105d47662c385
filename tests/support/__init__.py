"""Helpers that several tests share; a helper of one test file lies beside it."""
