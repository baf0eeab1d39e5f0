"""Where the dispatcher is, and what its errors say."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from ssis_dispatcher.cli.client import Client, NotThere, problem_in, segment
from ssis_dispatcher.cli.failures import Failure
from ssis_dispatcher.cli.ways import default_url, meant, straight
from ssis_dispatcher.settings import Settings


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        (Settings(), "http://127.0.0.1:8080"),
        (Settings(host="0.0.0.0", port=80), "http://127.0.0.1:80"),
        (Settings(host="::"), "http://[::1]:8080"),
        (Settings(host="gpu.example.org", tls_cert="x", tls_key="y"), "https://gpu.example.org:8080"),  # type: ignore[arg-type]
    ],
)
def test_the_dispatcher_is_where_serve_would_listen(settings: Settings, url: str) -> None:
    assert default_url(settings) == url
    with Client(meant(settings)) as client:
        assert client.way.url == url


def test_the_setting_goes_before_that() -> None:
    with Client(meant(Settings(url="https://elsewhere.example.org"))) as client:
        assert client.way.url == "https://elsewhere.example.org"


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    dispatcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Client(straight(dispatcher.url)) as client:
        assert client.get("/api/servers") == {"servers": []}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"detail": "Why.", "title": "T", "code": "c"}', ("Why.", "c")),
        (b'{"error": {"message": "Why.", "code": null}}', ("Why.", "")),
        (b'{"error": "Why."}', ("Why.", "")),
        (b'{"title": "T"}', ("T", "")),
        (b"[1]", ("", "")),
        (b"<html>", ("", "")),
        (b'{"detail": 7}', ("", "")),
    ],
)
def test_the_sentence_of_an_error_is_found_in_either_shape(body: bytes, found: tuple[str, str]) -> None:
    assert problem_in(body) == found


def test_a_model_that_is_not_there_is_no_request_that_is_over(dispatcher: Any) -> None:
    dispatcher.replies["GET", "/api/requests/1"] = 404, {"detail": "No such model.", "code": "model_not_found"}
    with Client(straight(dispatcher.url)) as client:
        with pytest.raises(NotThere):
            client.get("/api/requests/2")
        with pytest.raises(Failure) as caught:
            client.get("/api/requests/1")
        assert not isinstance(caught.value, NotThere)


def test_a_connection_that_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            peer, _ = server.accept()
            peer.recv(1024)
            peer.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with (
            Client(straight(f"http://127.0.0.1:{server.getsockname()[1]}")) as client,
            pytest.raises(Failure, match="broke"),
        ):
            client.get("/api/servers")
        thread.join()


def test_an_address_that_is_none_is_told() -> None:
    with Client(straight("ftp://127.0.0.1")) as client, pytest.raises(Failure, match="is no address of a dispatcher"):
        client.get("/")


def test_a_name_is_one_segment_of_a_path() -> None:
    assert segment("a/b c?") == "a%2Fb%20c%3F"
