"""Models of the hub, from the first request to the answer: the hub is one on the loopback interface."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.live.conftest import Start
from tests.live.support import Dispatcher, until
from tests.models.files.filehub import FileHub, serving

from ssis_dispatcher.models.catalogue import demo_path

NAME = "org/tiny:Q8_0"


@pytest.fixture
def hub() -> Iterator[FileHub]:
    """It has the packaged model under another name."""
    with serving() as fake:
        fake.files["org/tiny/tiny-Q8_0.gguf"] = demo_path().read_bytes()
        fake.files["org/weights/model.safetensors"] = b"no GGUF"
        yield fake


def online(start: Start, hub: FileHub, **settings: object) -> Dispatcher:
    return start(env={"HF_HUB_OFFLINE": "0"}, hub_endpoint=hub.endpoint, **settings)


def test_a_model_of_the_hub_is_fetched_and_answers_and_is_served_offline_afterwards(start: Start, hub: FileHub) -> None:
    dispatcher = online(start, hub)
    assert dispatcher.chat(NAME, "What is a GPU slice?", max_tokens=8).answer().json["choices"][0]["message"]["content"]
    assert NAME in [model["id"] for model in dispatcher.get("/v1/models").json["data"]]
    dispatcher.terminate()
    assert dispatcher.wait() == 0
    hub.down = True
    assert start(hub_endpoint=hub.endpoint).chat(NAME, max_tokens=1).answer().status == 200


def test_a_download_is_seen_by_those_who_wait_for_it(start: Start, hub: FileHub) -> None:
    dispatcher = online(start, hub)
    hub.stop_at = 1_000_000
    call = dispatcher.chat(NAME, max_tokens=1, headers={"X-Request-Id": "fetching"})
    until(lambda: "downloading" in dispatcher.get("/api/requests/fetching").body.decode(), "what is going on")
    assert dispatcher.get("/api/requests/fetching").json["detail"].endswith(" of 2.9 MiB")
    hub.go.set()
    assert call.answer().status == 200


def test_what_has_no_gguf_files_says_what_has(start: Start, hub: FileHub) -> None:
    answer = online(start, hub).chat("org/weights").answer()
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
    assert "has no GGUF files" in answer.json["error"]["message"]


def test_a_disk_that_becomes_full_is_the_operators_to_empty_and_nothing_is_left(
    start: Start, hub: FileHub, tmp_path: Path
) -> None:
    dispatcher = online(start, hub, retry_pause="10ms")
    slices = dispatcher.free()
    resource.prlimit(dispatcher.pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))  # no file beyond 1 MiB
    answer = dispatcher.chat(NAME).answer()
    assert answer.status == 503
    assert "disk became full" in answer.json["error"]["message"]
    until(lambda: dispatcher.free() == slices, "its slice is free")
    assert not [file for file in tmp_path.glob("**/*") if file.is_file() and file.stat().st_size > 100_000]
    assert dispatcher.chat("demo", max_tokens=1).answer().status == 200
    resource.prlimit(dispatcher.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    until(lambda: dispatcher.chat(NAME, max_tokens=1).answer().status == 200, "it is fetched after all")
