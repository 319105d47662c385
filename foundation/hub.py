"""Requests to the Hugging Face hub on a machine that does not reach it.

The hub's client repeats each request for half a minute, and one model takes several requests. Where
the host does not answer a first connection, the client is set to work offline: what is in its
cache is read at once, and everything else fails at once.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

CONNECT_SECONDS = 5.0
PORTS = {"http": 80, "https": 443}


@contextmanager
def one_try(name: str) -> Iterator[None]:
    """Within the block the hub's client does not repeat requests to a host that is out of reach.
    name: what is looked for; nothing is asked about a folder."""
    if Path(name).is_dir():
        yield
        return
    try:
        from huggingface_hub import constants
    except ImportError:  # then nothing asks the hub either
        yield
        return
    before = constants.HF_HUB_OFFLINE
    if not before:
        constants.HF_HUB_OFFLINE = Unreachable(constants.ENDPOINT)  # type: ignore[assignment]
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


class Unreachable:
    """True if the host of an address is out of reach: a connection is tried only when somebody asks
    for the truth, so that what is read from a folder makes none."""

    def __init__(self, endpoint: str):
        self.endpoint = endpoint

    def __bool__(self) -> bool:
        return not reachable(self.endpoint)


@cache
def reachable(endpoint: str) -> bool:
    """Whether a connection to the host of an address, or to its proxy, can be opened; asked once a
    process."""
    scheme = urlsplit(endpoint).scheme
    proxy = getproxies().get(scheme)
    address = urlsplit(proxy if proxy and "://" in proxy else f"//{proxy}" if proxy else endpoint)
    port = address.port or PORTS.get(address.scheme, PORTS["https"])
    try:
        with socket.create_connection((address.hostname or "", port), CONNECT_SECONDS):
            return True
    except OSError:
        return False
