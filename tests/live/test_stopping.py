"""How the program starts and ends: port taken, SIGTERM under load, SIGKILL, and the next start."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from tests.live.conftest import Start
from tests.live.support import Dispatcher, is_alive, ssis, until


def test_a_taken_port_is_said_plainly(live: Dispatcher) -> None:
    port = str(live.address[1])
    found = ssis(live.env, "serve", "--port", port)
    assert found.returncode == 1
    assert found.stderr.startswith(f"ssis: 127.0.0.1:{port} is taken by another program; choose another port")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_work_it_ends_at_once_and_takes_its_servers_along(start: Start, number: signal.Signals) -> None:
    dispatcher = start()
    assert dispatcher.chat("demo", max_tokens=1).answer().status == 200
    processes = dispatcher.children()
    assert processes
    dispatcher.process.send_signal(number)
    assert dispatcher.wait(10) == 0
    assert not any(is_alive(pid) for pid in processes)


def test_what_runs_finishes_and_what_waits_or_comes_is_told(start: Start) -> None:
    dispatcher = start("--drain-grace", "20s", models={"scripted": {}, "cold": {}})
    dispatcher.tell("hold-cold")
    streaming = dispatcher.chat("scripted", "wait", stream=True)
    assert b"one " in streaming.line()
    whole = dispatcher.chat("scripted", "wait")
    until(lambda: dispatcher.server("scripted")["busy"] == 2, "both are seated")
    waiting = dispatcher.chat("cold")
    until(lambda: dispatcher.queued() == 1, "one waits")
    dispatcher.terminate()
    held = waiting.answer()
    assert (held.status, held.json["error"]["code"]) == (503, "draining")
    try:
        late = dispatcher.chat("scripted").answer()
        assert late.status == 503
        assert late.headers["retry-after"]
    except ConnectionRefusedError:
        pass
    assert dispatcher.process.poll() is None
    dispatcher.tell("go-scripted")
    assert whole.answer().json["choices"][0]["message"]["content"] == "one two"
    answer = streaming.answer()
    assert (answer.text(), answer.complete) == ("two", True)
    assert dispatcher.wait() == 0


def test_in_the_quiet_period_it_is_not_ready_and_still_serves(start: Start) -> None:
    dispatcher = start("--drain-quiet", "1500ms")
    assert dispatcher.get("/readyz").status == 200
    dispatcher.terminate()
    until(lambda: dispatcher.get("/readyz").status == 503, "not ready")
    assert dispatcher.get("/healthz").status == 200
    assert dispatcher.chat("demo", max_tokens=1).answer().status == 200
    assert dispatcher.wait() == 0


def test_what_runs_longer_than_the_grace_is_ended_and_not_as_complete(start: Start) -> None:
    dispatcher = start("--drain-grace", "200ms")
    calls = [dispatcher.chat("scripted", "wait", stream=stream) for stream in (True, False)]
    calls[0].line()
    until(lambda: dispatcher.server("scripted")["busy"] == 2, "both are seated")
    processes = dispatcher.children()
    dispatcher.terminate()
    answer = calls[0].answer()
    assert not answer.complete
    assert b"[DONE]" not in answer.body
    assert answer.events()[-1]["error"]["code"] == "draining"
    whole = calls[1].answer()
    assert (whole.status, whole.json["error"]["code"]) == (503, "draining")
    assert dispatcher.wait() == 0
    assert not any(is_alive(pid) for pid in processes)


def test_killed_it_leaves_no_process_behind_and_the_next_start_is_clean(start: Start) -> None:
    dispatcher = start()
    assert dispatcher.chat("demo", max_tokens=1).answer().status == 200
    call = dispatcher.chat("scripted", "wait", stream=True)
    call.line()
    processes = dispatcher.children()
    assert len(processes) >= 4
    os.kill(dispatcher.pid, signal.SIGKILL)
    assert dispatcher.wait() == -signal.SIGKILL
    assert not call.answer().complete
    until(lambda: not any(is_alive(pid) for pid in processes), "its children are gone", 5.0)
    again = start()
    assert again.servers() == []
    assert again.chat("demo", max_tokens=1).answer().status == 200


def test_a_second_dispatcher_runs_beside_the_first(start: Start) -> None:
    first, second = start(), start()
    assert [each.chat("demo", max_tokens=1).answer().status for each in (first, second)] == [200, 200]
    first.terminate()
    assert first.wait() == 0
    assert second.chat("demo", max_tokens=1).answer().status == 200


def test_a_settings_file_with_mistakes_is_refused_with_all_of_them(tmp_path: Path, live: Dispatcher) -> None:
    file = tmp_path / "config.toml"
    file.write_text('port = "high"\nkeep_alife = "1h"\n[engines.x]\ncomand = ["y"]\n')
    found = ssis(live.env, "serve", "--config", str(file))
    assert found.returncode == 2
    for words in ("port", "keep_alife", 'did you mean "keep_alive"', "comand"):
        assert words in found.stderr


def test_it_listens_where_it_is_told_in_ipv6_too(start: Start) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists() or not Path("/proc/net/if_inet6").read_text():
        pytest.skip("this machine has no IPv6")
    dispatcher = start("--host", "::1")
    assert dispatcher.url.startswith("http://[::1]:")
    assert dispatcher.chat("demo", max_tokens=1).answer().status == 200
