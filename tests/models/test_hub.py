"""Weights from the hub: where it does not answer that is said within seconds, and what is cached is used."""

import socket
import threading
import time

import pytest
from huggingface_hub import constants

from wsi_umedpt.errors import EncoderError
from wsi_umedpt.models import hub
from wsi_umedpt.models.weights import load_network


@pytest.fixture
def silent_port():
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("way", ["no-such-name", "refused", "silent", "offline", "no-address"])
def test_offline_a_model_by_its_name_fails_within_seconds(way, silent_port, monkeypatch):
    """With what to do; nothing is tried again and again."""
    monkeypatch.setattr(hub, "ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as shut:
        port = shut.getsockname()[1]
    endpoint = {
        "no-such-name": "https://hub.invalid", "refused": f"http://127.0.0.1:{port}",
        "silent": f"http://127.0.0.1:{silent_port}", "offline": "https://hub.invalid", "no-address": "file:///etc",
    }[way]  # fmt: skip
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", way == "offline")
    began = time.monotonic()
    with pytest.raises(EncoderError, match=r"the hub does not answer from this machine.*\n.*@weights\.safetensors"):
        load_network("timm:resnet10t.c3_in1k")
    assert time.monotonic() - began < 50  # retries, which there were, took longer
    assert (way == "offline") == constants.HF_HUB_OFFLINE


def test_a_lookup_of_names_that_never_ends_is_not_waited_for(monkeypatch):
    """As where the network swallows all that is asked."""
    monkeypatch.setattr(hub, "ANSWER_S", 0.2)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(60))
    try:
        assert hub.hub_answers() is False
    finally:
        over.set()


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_hub_that_answers_is_asked(status, monkeypatch):
    """Whatever it says; its own client then says what is wrong."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        with hub.asked_where_it_answers() as answers:
            assert answers
            assert not constants.HF_HUB_OFFLINE
        thread.join()
