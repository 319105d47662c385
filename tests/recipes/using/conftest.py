"""Runs begin in an empty folder, without a network."""

from tests.commands.conftest import place  # noqa: F401
