"""Measurements that a user adds."""
