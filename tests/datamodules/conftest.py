"""Fixtures of the tests of data."""

import signal

import pytest


@pytest.fixture
def impatient():
    """Ends a test that waits for ever, e.g. for the other end of a pipe."""

    def stop(*_):
        raise TimeoutError("waited for 20 seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
