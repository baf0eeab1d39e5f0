from __future__ import annotations

import json
import socket
import struct
import threading
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ssis_dispatcher.models.gguf import file_facts
from ssis_dispatcher.models.hub import Gated, Hub, HubError, HubOffline, HubUnreachable, NotOnHub

if TYPE_CHECKING:
    from tests.models.conftest import FakeHub

DEMO = Path(str(files("ssis_dispatcher") / "data" / "demo.gguf"))
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
LLAMA: dict[str, Any] = {
    "files": {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": b"x" * 100},
    "info": {"safetensors": {"parameters": {"BF16": 8_030_261_248}, "total": 8_030_261_248}},
}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_tensors_and_configuration_give_the_facts(hub_server: FakeHub) -> None:
    hub_server.add("org/llama", **LLAMA)
    facts = Hub(hub_server.endpoint).facts("org/llama")
    assert (facts.source, facts.weight_bytes, facts.parameters) == ("safetensors", 16_060_522_496, 8_030_261_248)
    assert (facts.kv_bytes_per_token, facts.context, facts.hidden_size) == (131_072, 131_072, 4096)


def test_without_counted_tensors_the_files_are_weighed(hub_server: FakeHub) -> None:
    hub_server.add(
        "org/old", files={"config.json": json.dumps(CONFIG).encode(), "pytorch_model.bin": b"x" * 70, "a.bin": b"y"}
    )
    assert Hub(hub_server.endpoint).facts("org/old").weight_bytes == 70


def test_a_model_without_a_configuration_still_has_a_weight(hub_server: FakeHub) -> None:
    hub_server.add("org/bare", files={"model.safetensors": b"x" * 50})
    hub_server.add("org/broken", files={"model.safetensors": b"x" * 50, "config.json": b"[" * 100_000})
    facts = Hub(hub_server.endpoint).facts("org/bare")
    assert (facts.weight_bytes, facts.kv_bytes_per_token) == (50, None)
    with pytest.raises(HubUnreachable, match="no JSON"):
        Hub(hub_server.endpoint).facts("org/broken")


def test_a_repository_of_gguf_files_asks_for_a_choice_and_then_reads_its_header(hub_server: FakeHub) -> None:
    hub_server.add("org/demo-GGUF", files={"demo-Q8_0.gguf": DEMO.read_bytes(), "README.md": b""})
    hub = Hub(hub_server.endpoint)
    assert "must be chosen" in hub.facts("org/demo-GGUF").note
    assert hub.facts("org/demo-GGUF", file="demo-Q8_0.gguf") == file_facts(DEMO)
    with pytest.raises(NotOnHub, match=r"has no GGUF file other\.gguf"):
        hub.facts("org/demo-GGUF", file="other.gguf")


def test_a_gguf_file_without_a_readable_header_is_weighed_by_its_size(hub_server: FakeHub) -> None:
    summary = {"gguf": {"total": 123, "context_length": 2048, "architecture": "llama"}}
    hub_server.add("org/x", files={"x-Q4_0.gguf": b"not a model"}, info=summary)
    facts = Hub(hub_server.endpoint).facts("org/x", file="x-Q4_0.gguf")
    assert (facts.weight_bytes, facts.context, facts.parameters) == (11, 2048, 123)
    assert "not a GGUF file" in facts.note


def test_files_are_listed_with_their_sizes(hub_server: FakeHub) -> None:
    hub_server.add("org/llama", **LLAMA)
    assert Hub(hub_server.endpoint).files("org/llama") == (
        ("config.json", len(LLAMA["files"]["config.json"])),
        ("model.safetensors", 100),
    )


def test_a_revision_is_asked_for_as_one(hub_server: FakeHub) -> None:
    hub_server.add("org/llama", **LLAMA, revisions=("main", "refs/pr/1"))
    hub = Hub(hub_server.endpoint)
    assert hub.facts("org/llama", "refs/pr/1") == hub.facts("org/llama")
    with pytest.raises(NotOnHub, match="has no revision `v9`"):
        hub.facts("org/llama", "v9")


def test_a_model_that_does_not_exist_is_not_on_the_hub(hub_server: FakeHub) -> None:
    with pytest.raises(
        NotOnHub, match=r"There is no model org/none on 127\.0\.0\.1:\d+ \(private ones need a token\)\."
    ):
        Hub(hub_server.endpoint).facts("org/none")
    with pytest.raises(NotOnHub):
        Hub(hub_server.endpoint).files("org/none")


def test_a_gated_model_needs_a_token_that_may_read_it(hub_server: FakeHub) -> None:
    hub_server.add("org/gated", **LLAMA, readers={"hf_good"})
    hub = Hub(hub_server.endpoint)
    with pytest.raises(Gated, match="accept its licence at http://127"):
        hub.facts("org/gated")
    with pytest.raises(Gated):
        hub.facts("org/gated", token="hf_bad")
    assert hub.facts("org/gated", token="hf_good").weight_bytes == 16_060_522_496
    assert [hub.may_read("org/gated", token) for token in (None, "", "hf_bad", "hf_good")] == [
        False,
        False,
        False,
        True,
    ]


def test_a_private_model_looks_like_none_at_all(hub_server: FakeHub) -> None:
    hub_server.add("org/private", **LLAMA, readers={"hf_good"}, private=True)
    hub = Hub(hub_server.endpoint)
    with pytest.raises(NotOnHub):
        hub.facts("org/private")
    assert hub.facts("org/private", token="hf_good").weight_bytes


def test_the_dispatchers_own_token_is_used_unless_the_caller_has_one_or_none_is_wanted(hub_server: FakeHub) -> None:
    hub_server.add("org/llama", **LLAMA)
    hub = Hub(hub_server.endpoint, token="hf_own")
    for token in (None, "", "hf_caller"):
        hub.files("org/llama", token=token)
    assert [token for _, token in hub_server.asked] == ["hf_own", "", "hf_caller"]


def test_no_token_is_taken_from_the_environment(hub_server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_operators_shell")
    hub_server.add("org/llama", **LLAMA)
    Hub(hub_server.endpoint).facts("org/llama")
    assert {token for _, token in hub_server.asked} == {""}


def test_a_token_that_is_none_is_refused_without_being_sent_or_shown(hub_server: FakeHub) -> None:
    hub_server.add("org/llama", **LLAMA)
    hub = Hub(hub_server.endpoint)
    for token in ("hf_secret\r\nX-Evil: 1", "hf_sécret"):
        with pytest.raises(Gated) as caught:
            hub.facts("org/llama", token=token)
        assert "cret" not in str(caught.value)
    assert hub_server.asked == []
    hub_server.overrides["/api/models/org/llama"] = (
        401,
        {"X-Error-Message": "Invalid credentials in Authorization header"},
        b"",
    )
    with pytest.raises(Gated, match="does not accept this token"):
        hub.facts("org/llama", token="hf_expired")


def test_answers_are_remembered_for_each_token_and_expire(hub_server: FakeHub) -> None:
    hub_server.add("org/llama", **LLAMA)
    clock = Clock()
    hub = Hub(hub_server.endpoint, clock=clock)
    for _ in range(3):
        hub.files("org/llama")
    assert len(hub_server.asked) == 1
    hub.files("org/llama", token="hf_other")
    assert len(hub_server.asked) == 2
    clock.now = 3601.0
    hub.files("org/llama")
    assert len(hub_server.asked) == 3
    hub.forget()
    hub.files("org/llama")
    assert len(hub_server.asked) == 4


def test_a_refusal_is_remembered_for_a_shorter_time(hub_server: FakeHub) -> None:
    clock = Clock()
    hub = Hub(hub_server.endpoint, clock=clock)
    for _ in range(3):
        with pytest.raises(NotOnHub):
            hub.files("org/new")
    assert len(hub_server.asked) == 1
    hub_server.add("org/new", **LLAMA)
    clock.now = 61.0
    assert hub.files("org/new")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((500, {}, b""), "answered with status 500"),
        ((429, {}, b""), "answered with status 429"),
        ((200, {}, b"<html>"), "no JSON"),
        ((200, {}, b"{" + b" " * (17 << 20)), "more than 16 MiB"),
        ((302, {"Location": "/api/models/org/llama"}, b""), "cannot be reached"),
        ((200, {"Content-Encoding": "gzip"}, b"not gzip"), "cannot be reached"),
    ],
)
def test_a_hub_that_makes_no_sense_counts_as_unreachable(
    hub_server: FakeHub, answer: tuple[int, dict[str, str], bytes], words: str
) -> None:
    hub_server.overrides["/api/models/org/llama"] = answer
    with pytest.raises(HubUnreachable, match=words):
        Hub(hub_server.endpoint).facts("org/llama")


@pytest.mark.parametrize("answer", [b"[]", b"null", b'{"siblings": [1, {"rfilename": null}], "safetensors": 5}', b"{}"])
def test_an_answer_of_another_shape_tells_nothing_but_breaks_nothing(hub_server: FakeHub, answer: bytes) -> None:
    hub_server.overrides["/api/models/org/llama"] = (200, {}, answer)
    hub = Hub(hub_server.endpoint)
    assert hub.facts("org/llama").weight_bytes is None
    assert hub.files("org/llama") == ()


def test_a_hub_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        hub = Hub(f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(HubUnreachable, match="cannot be reached"):
            hub.facts("org/llama")
    with pytest.raises(HubUnreachable):
        Hub("http://[broken").facts("org/llama")


def test_a_hub_that_drips_is_given_up_in_time() -> None:
    """Each byte comes well within the time-out, all of them would not."""
    done = threading.Event()

    def drip(listener: socket.socket) -> None:
        listener.settimeout(10)
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            try:
                while not done.wait(0.02):
                    connection.sendall(b"x")
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        started = time.monotonic()
        with pytest.raises(HubUnreachable, match="did not answer in time"):
            Hub(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.2).facts("org/llama")
        assert time.monotonic() - started < 5
        done.set()
        thread.join()


def test_the_time_out_holds_for_all_requests_of_a_question_together(hub_server: FakeHub) -> None:
    hub_server.add("org/llama", **LLAMA)
    clock = Clock()
    answer = hub_server.answer

    def slow(path: str, token: str) -> tuple[int, dict[str, str], bytes]:
        clock.now += 6.0
        return answer(path, token)

    hub_server.answer = slow  # type: ignore[method-assign]
    with pytest.raises(HubUnreachable, match="did not answer in time"):
        Hub(hub_server.endpoint, timeout=10.0, clock=clock).facts("org/llama")


def snapshot(cache: Path, id: str, content: dict[str, bytes], commit: str = "abc123") -> None:
    """A model in the hub's cache layout: links to blobs."""
    folder = cache / f"models--{id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "blobs").mkdir()
    for name, raw in content.items():
        (folder / "blobs" / name).write_bytes(raw)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder / "blobs" / name)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    snapshot(tmp_path, "org/llama", {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": b"x" * 99})
    snapshot(tmp_path, "org/demo-GGUF", {"demo-Q8_0.gguf": DEMO.read_bytes(), "bad-Q4_0.gguf": b"GGUF"})
    return tmp_path


def test_offline_the_cache_answers_and_nobody_is_asked(hub_server: FakeHub, cache: Path) -> None:
    hub_server.add("org/llama", **LLAMA)
    hub = Hub(hub_server.endpoint, cache_dir=cache, offline=True)
    facts = hub.facts("org/llama")
    assert (facts.weight_bytes, facts.kv_bytes_per_token) == (99, 131_072)
    assert hub.facts("org/llama", "abc123") == facts
    assert dict(hub.files("org/llama")) == {
        "config.json": len(LLAMA["files"]["config.json"]),
        "model.safetensors": 99,
    }
    assert hub.facts("org/demo-GGUF", file="demo-Q8_0.gguf") == file_facts(DEMO)
    assert hub_server.asked == []


@pytest.mark.parametrize(
    ("id", "revision", "file"),
    [
        ("org/none", "", ""),
        ("org/llama", "v2", ""),
        ("org/llama", "../../../etc", ""),
        ("org/llama", "", "x.gguf"),
        ("org/demo-GGUF", "", "bad-Q4_0.gguf"),
        ("org/demo-GGUF", "", ""),
    ],
)
def test_offline_what_the_cache_does_not_have_is_an_honest_error(
    cache: Path, id: str, revision: str, file: str
) -> None:
    with pytest.raises(HubOffline, match="must not be asked"):
        Hub(cache_dir=cache, offline=True).facts(id, revision, file=file)


def test_offline_access_cannot_be_judged(cache: Path) -> None:
    with pytest.raises(HubOffline):
        Hub(cache_dir=cache, offline=True).may_read("org/llama", "hf_any")


def test_the_hub_librarys_own_offline_switch_holds_here_too(
    hub_server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub_server.add("org/llama", **LLAMA)
    with pytest.raises(HubOffline, match="HF_HUB_OFFLINE is set"):
        Hub(hub_server.endpoint).facts("org/llama")
    assert hub_server.asked == []


def test_while_the_hub_is_away_the_cache_answers(hub_server: FakeHub, cache: Path) -> None:
    hub_server.overrides["/api/models/org/llama"] = (503, {}, b"")
    clock = Clock()
    hub = Hub(hub_server.endpoint, cache_dir=cache, clock=clock)
    assert hub.facts("org/llama").weight_bytes == 99
    hub_server.overrides.clear()
    hub_server.add("org/llama", **LLAMA)
    assert hub.facts("org/llama").weight_bytes == 99
    clock.now = 11.0
    assert hub.facts("org/llama").weight_bytes == 16_060_522_496


def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--llama"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_bytes(b"\xff\xfe")
    hub = Hub(cache_dir=tmp_path, offline=True)
    with pytest.raises(HubOffline):
        hub.facts("org/llama")
    (folder / "refs" / "main").write_text("abc")
    hub.forget()
    with pytest.raises(HubOffline):
        hub.facts("org/llama")
    (folder / "snapshots" / "abc" / "config.json").write_bytes(struct.pack("<I", 7))
    (folder / "snapshots" / "abc" / "gone.bin").symlink_to(folder / "nowhere")
    hub.forget()
    assert hub.files("org/llama") == (("config.json", 4),)
    with pytest.raises(HubOffline):
        hub.facts("org/llama")


def test_every_error_of_the_hub_is_one_kind_of_error() -> None:
    for kind in (NotOnHub, Gated, HubUnreachable, HubOffline):
        assert issubclass(kind, HubError)
    assert repr(Hub("http://x/", token="hf_secret", offline=True)) == "<Hub http://x (offline)>"
