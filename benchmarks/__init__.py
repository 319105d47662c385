"""Measurements that print a table: ours beside a bare loop, a peer, or the limit."""
