"""Servers that die, break and lie; models that cannot be loaded. The caller hears the truth, the slice comes back, and the
next caller is served."""

from __future__ import annotations

import os
import signal
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from tests.live.conftest import Start
from tests.live.support import Dispatcher, command_of, is_alive, until

DEMO = files("ssis_dispatcher") / "data" / "demo.gguf"


def ask(dispatcher: Dispatcher, model: str = "demo") -> int:
    return dispatcher.chat(model, max_tokens=2).answer().status


def test_a_server_killed_while_idle_is_replaced_for_the_next_caller(start: Start) -> None:
    dispatcher = start()
    slices = dispatcher.free()
    assert ask(dispatcher) == 200
    dispatcher.kill(dispatcher.pid_of("demo"))
    until(lambda: not dispatcher.servers(), "its server is gone")
    assert dispatcher.free() == slices
    assert not dispatcher.children()
    assert ask(dispatcher) == 200


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_server_killed_in_the_middle_of_an_answer_is_an_error_and_no_end(
    start: Start, number: signal.Signals
) -> None:
    dispatcher = start("--retry-pause", "10ms")
    call = dispatcher.chat("scripted", "wait", stream=True)
    assert b"one " in call.line()
    os.kill(dispatcher.pid_of("scripted"), number)
    answer = call.answer()
    assert not answer.complete
    assert b"[DONE]" not in answer.body
    assert answer.events()[-1]["error"]["message"]
    until(lambda: not dispatcher.servers(), "its server is gone")
    until(lambda: ask(dispatcher, "scripted") == 200, "the next one is served")


def test_a_real_model_killed_in_the_middle_of_an_answer_is_an_error(start: Start) -> None:
    dispatcher = start()
    call = dispatcher.chat_at_length("demo")
    call.line()
    dispatcher.kill(dispatcher.pid_of("demo"))
    answer = call.answer()
    assert not answer.complete
    assert answer.events()[-1]["error"]["code"].startswith("upstream_")
    until(lambda: ask(dispatcher) == 200, "the next one is served")


def test_a_server_killed_while_loading_is_started_again_for_those_who_wait(start: Start) -> None:
    dispatcher = start()
    dispatcher.tell("hold-scripted")
    call = dispatcher.chat("scripted")
    (engine,) = until(lambda: dispatcher.processes("engine.py"), "the engine's process")
    dispatcher.kill(engine)
    dispatcher.untell("hold-scripted")
    assert call.answer().status == 200
    assert dispatcher.pid_of("scripted") != engine


def test_a_server_whose_supervisor_is_killed_leaves_nothing_behind(start: Start) -> None:
    dispatcher = start()
    assert ask(dispatcher) == 200
    server = dispatcher.pid_of("demo")
    (supervisor,) = set(dispatcher.children()) - {server}
    dispatcher.kill(supervisor)
    until(lambda: not is_alive(server), "the server is gone, too", 5.0)
    until(lambda: not dispatcher.servers(), "it is known")
    until(lambda: ask(dispatcher) == 200, "the next one is served")


def test_a_model_that_dies_again_and_again_is_left_in_peace_for_a_while(start: Start) -> None:
    dispatcher = start("--retry-pause", "30s")
    dispatcher.tell("fail-scripted", "kaputt")
    for _ in range(3):
        answer = dispatcher.chat("scripted").answer()
        assert (answer.status, answer.json["error"]["code"]) == (503, "model_failed")
        assert "kaputt" in answer.json["error"]["message"]
    assert dispatcher.said().count('"event":"launch"') == 1
    assert 20 <= int(answer.headers["retry-after"]) <= 30


@pytest.mark.parametrize("damage", ["empty", "no magic", "cut in the header", "cut in the weights", "huge count"])
def test_a_damaged_file_is_the_operators_to_replace_and_takes_no_slice(
    start: Start, damage: str, tmp_path: Path
) -> None:
    whole = DEMO.read_bytes()
    broken = {
        "empty": b"",
        "no magic": b"GGML" + whole[4:],
        "cut in the header": whole[:300],
        "cut in the weights": whole[: len(whole) // 2],
        "huge count": whole[:8] + b"\xff" * 16 + whole[24:],
    }[damage]
    (tmp_path / "broken.gguf").write_bytes(broken)
    dispatcher = start(models={"broken": {"path": "broken.gguf"}})
    slices = dispatcher.free()
    answer = dispatcher.chat("broken", stream=True).answer()
    assert answer.status == 503
    assert answer.json["error"]["code"] in ("model_unusable", "model_failed")
    assert str(tmp_path) not in answer.json["error"]["message"]
    until(lambda: dispatcher.free() == slices, "its slice is free")
    assert ask(dispatcher) == 200


def test_a_file_that_is_not_there_is_the_operators_to_bring_back(start: Start) -> None:
    dispatcher = start(models={"lost": {"path": "lost.gguf"}})
    answer = dispatcher.chat("lost").answer()
    assert (answer.status, answer.json["error"]["code"]) == (503, "model_unusable")
    assert "The operator must" in answer.json["error"]["message"]


def greedy(folder: Path, *mib: str) -> dict[str, Any]:
    """Settings with a model that takes more memory than anybody knows."""
    return {
        "models": {"greedy": {"id": "test/greedy", "engine": "greedy", "weights": 1}},
        "engines": {"greedy": command_of(folder, *mib)},
    }


def test_a_model_that_needs_more_than_was_known_climbs_to_a_larger_slice_and_that_is_remembered(
    start: Start, tmp_path: Path
) -> None:
    settings = greedy(tmp_path, "410") | {"cpu_slices": "1x380MiB,1x1GiB"}
    dispatcher = start(**settings)
    assert ask(dispatcher, "greedy") == 200
    assert dispatcher.server("greedy")["slice"] == "cpu-1gib"
    assert dispatcher.said().count('"event":"launch"') == 2
    assert '"kind":"out_of_memory"' in dispatcher.said()
    dispatcher.terminate()
    assert dispatcher.wait() == 0
    again = start(**settings)
    assert ask(again, "greedy") == 200
    assert again.said().count('"event":"launch"') == 1


def test_a_model_too_large_for_every_slice_says_so_when_it_has_tried(start: Start, tmp_path: Path) -> None:
    dispatcher = start(**greedy(tmp_path, "410"), cpu_slices="2x380MiB")
    answer = dispatcher.chat("greedy", stream=True).answer()
    assert (answer.status, answer.json["error"]["code"]) == (422, "model_does_not_fit")
    assert "more than the 380 MiB of its slice" in answer.json["error"]["message"]
    assert "retry-after" not in answer.headers
    until(lambda: dispatcher.free() == 2, "both slices are free")


def test_an_engine_that_is_not_there_is_the_operators_to_install(start: Start) -> None:
    models = {"absent": {"id": "test/x", "engine": "absent", "weights": 1}}
    dispatcher = start(models=models, engines={"absent": ["/no/such/program", "{port}"]})
    answer = dispatcher.chat("absent").answer()
    assert (answer.status, answer.json["error"]["code"]) == (503, "model_failed")
    assert "absent cannot be started on this machine" in answer.json["error"]["message"]
    assert dispatcher.chat("demo", max_tokens=1).answer().status == 200


def test_similar_names_never_share_a_server(start: Start) -> None:
    """In the original program, `a/gpt-2` and `b/gpt2` became one service."""
    names = ("a/gpt-2", "b/gpt2", "a/gpt2", "A/gpt-2")
    dispatcher = start(models={name: {"engine": "scripted", "weights": 1} for name in names})
    assert [ask(dispatcher, name) for name in names] == [200] * 4
    assert len({dispatcher.server(name)["id"] for name in names}) == 4
    assert len({dispatcher.pid_of(name) for name in names}) == 4


def test_an_idle_server_is_let_go_after_its_time_and_its_slice_comes_back(start: Start) -> None:
    dispatcher = start("--keep-alive", "100ms", "--dwell", "0")
    slices = dispatcher.free()
    assert ask(dispatcher) == 200
    server = dispatcher.children()
    until(lambda: not dispatcher.servers(), "it has gone")
    assert not any(is_alive(pid) for pid in server)
    assert dispatcher.free() == slices


def test_an_idle_server_makes_room_for_another_model_and_a_busy_one_does_not(start: Start) -> None:
    dispatcher = start("--dwell", "0", models={"scripted": {}, "other": {}}, cpu_slices="1x512MiB")
    first = dispatcher.chat("scripted", "wait", stream=True)
    first.line()
    second = dispatcher.chat("other")
    until(lambda: dispatcher.queued() == 1, "the other waits")
    assert [server["model"] for server in dispatcher.servers()] == ["scripted"]
    dispatcher.tell("go-scripted")
    assert first.answer().complete
    assert second.answer().status == 200
    assert [server["model"] for server in dispatcher.servers()] == ["other"]
