"""A hub out of reach is asked once."""

import socket
import time

import pytest

from foundation import hub
from foundation.errors import UserError
from recipes.networks.image import build_image

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture(autouse=True)
def unknown(monkeypatch):
    """The process knows nothing of the hub yet, and no proxy is set."""
    forget = hub.reachable.cache_clear
    forget()
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield
    forget()


@pytest.fixture
def tries(monkeypatch):
    """Connections that were tried; none is made."""
    addresses = []

    def connect(address, *args, **options):
        addresses.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    return addresses


def test_a_model_of_the_hub_fails_after_one_try(tries):
    began = time.perf_counter()
    with pytest.raises(UserError, match="'hf-hub:x/y' could not be loaded"):
        build_image((3, 8, 8), {"label": 2}, name="hf-hub:x/y")
    assert len(tries) == 1 and time.perf_counter() - began < 15
    assert constants.HF_HUB_OFFLINE is False
    with pytest.raises(UserError):
        build_image((3, 8, 8), {"label": 2}, name="hf-hub:x/y")
    assert len(tries) == 1  # remembered


def test_where_the_hub_answers_nothing_changes(monkeypatch):
    monkeypatch.setattr(hub, "reachable", lambda endpoint: True)
    with hub.one_try("x/y"):
        assert not constants.HF_HUB_OFFLINE


def test_nothing_is_tried_before_a_request(tries):
    with hub.one_try("x/y"):
        assert not tries
        assert constants.is_offline_mode() and len(tries) == 1


def test_nothing_is_asked_about_a_folder(tries, tmp_path):
    with hub.one_try(str(tmp_path)):
        assert not constants.is_offline_mode() and not tries


def test_what_the_user_set_stays(monkeypatch, tries):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(KeyError), hub.one_try("x/y"):
        raise KeyError
    assert constants.HF_HUB_OFFLINE is True and not tries


@pytest.mark.parametrize(
    ("proxies", "endpoint", "address"),
    [
        ({}, "https://hub.example", ("hub.example", 443)),
        ({}, "http://hub.example:8080/x", ("hub.example", 8080)),
        ({"https": "http://proxy.example:3128"}, "https://hub.example", ("proxy.example", 3128)),
        ({"https": "proxy.example:3128"}, "https://hub.example", ("proxy.example", 3128)),
    ],
)
def test_the_address_that_is_tried(proxies, endpoint, address, tries, monkeypatch):
    monkeypatch.setattr(hub, "getproxies", lambda: proxies)
    assert not hub.reachable(endpoint) and tries == [address]
