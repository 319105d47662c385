"""Trials that time nothing: killed runs, two ranks against one, waits for a GPU."""
