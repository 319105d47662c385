"""Helpers that several tests share; a helper of one test file is next to it."""
