"""Measurements that print a table: ours beside a bare loop, a peer, or the limit."""

import os

# read when torch is imported, so before any benchmark imports it
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOMS = ("speed", "peers", "pages")
