"""The other commands of `ssis`, run as they are typed, against the running dispatcher."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.live.conftest import Start
from tests.live.support import Dispatcher, until


def shown(dispatcher: Dispatcher, *arguments: str) -> Any:
    """What a command says as JSON."""
    found = dispatcher.ssis(*arguments, "-o", "json")
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_ask_prints_the_answer_and_only_that(live: Dispatcher) -> None:
    found = live.ssis("ask", "demo", "-t", "0", "-n", "8", "What is a GPU slice?")
    assert found.returncode == 0
    assert len(found.stdout.split()) > 3
    assert "8 tokens, first after" in found.stderr
    assert "tokens/s" in found.stderr
    assert live.ssis("ask", "-q", "demo", "-t", "0", "-n", "8", "What is a GPU slice?").stdout == found.stdout


def test_ask_reads_the_prompt_from_a_pipe_and_tells_all_as_json(live: Dispatcher) -> None:
    found = live.ssis("ask", "demo", "-n", "4", "-o", "json", input="Hello")
    reply = json.loads(found.stdout)
    assert (reply["model"], reply["finish_reason"]) == ("demo", "length")
    assert reply["usage"]["completion_tokens"] == 4


def test_ask_fails_loudly(live: Dispatcher) -> None:
    for arguments, words in (
        (("no-such", "hi"), "There is no model 'no-such' here"),
        (("scripted", "truncate"), "broke off"),
        (("scripted", "refuse"), "the prompt is too long"),
    ):
        found = live.ssis("ask", *arguments)
        assert found.returncode == 1
        assert words in found.stderr
    assert live.ssis("ask").returncode == 2
    assert live.ssis("ask", "demo", "-n", "none", "hi").returncode == 2


def test_what_there_is_can_be_listed(live: Dispatcher) -> None:
    servers = shown(live, "ps")
    assert {"demo", "scripted"} <= {server["model"] for server in servers}
    assert shown(live, "servers") == servers or len(shown(live, "servers")) == len(servers)
    assert sum(slice["ours"] for slice in shown(live, "slices")) == len(servers)
    assert shown(live, "queue")["waiting"] == 0
    models = {model["id"]: model["ssis"]["state"] for model in shown(live, "models")}
    assert models["demo"] == "ready"


@pytest.mark.parametrize("command", ["ps", "slices", "queue", "models"])
def test_tables_have_headings_and_go_to_standard_output(live: Dispatcher, command: str) -> None:
    found = live.ssis(command)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.splitlines()[0].isupper()


def test_slices_are_written_as_an_inventory_that_plan_reads(live: Dispatcher) -> None:
    yaml = live.ssis("slices", "-o", "yaml").stdout
    file = live.folder / "mine.yaml"
    file.write_text(yaml)
    found = live.ssis("plan", "demo", "--inventory", str(file))
    assert (found.returncode, "cpu-512mib" in found.stdout) == (0, True)


def test_plan_explains_and_its_exit_code_tells_whether_it_fits(live: Dispatcher) -> None:
    assert "cpu-512mib" in live.ssis("plan", "demo").stdout
    assert shown(live, "plan", "demo")
    assert live.ssis("plan", "no-such").returncode == 1
    big = live.ssis("plan", "meta-llama/Llama-3.1-8B-Instruct", "--inventory", "a100-40")
    assert big.returncode == 0, big.stderr
    assert "mig-3g.20gb" in big.stdout


def test_a_models_life_in_the_hands_of_an_operator(start: Start) -> None:
    dispatcher = start("--keep-alive", "100ms", "--dwell", "0")
    warm = dispatcher.ssis("warm", "demo")
    assert warm.returncode == 0, warm.stderr
    assert warm.stdout.strip().startswith("demo")
    until(lambda: not dispatcher.servers(), "it was idle, and went")
    assert dispatcher.ssis("pin", "demo").returncode == 0
    assert dispatcher.ssis("warm", "demo").returncode == 0
    (server,) = shown(dispatcher, "ps")
    assert server["pinned"]
    assert dispatcher.ssis("logs", "demo").returncode == 0
    assert dispatcher.ssis("logs", server["id"]).returncode == 0
    stopped = shown(dispatcher, "stop", "demo")
    assert [answer["server"] for answer in stopped] == [server["id"]]
    until(lambda: server["id"] not in {each["id"] for each in dispatcher.servers()}, "it is gone")


def test_logs_tell_why_a_server_failed_after_it_is_gone(start: Start) -> None:
    dispatcher = start()
    dispatcher.tell("fail-scripted", "there are no weights")
    failed = dispatcher.ssis("warm", "scripted")
    assert failed.returncode == 1
    assert "there are no weights" in failed.stderr
    name = next(line["server"] for line in map(json.loads, dispatcher.log()) if line["event"] == "launch")
    assert "there are no weights" in dispatcher.ssis("logs", name).stdout


def test_what_is_not_there_is_said_and_fails(live: Dispatcher) -> None:
    for arguments in (("stop", "no-such"), ("logs", "no-such"), ("warm", "no-such"), ("pin", "no-such")):
        found = live.ssis(*arguments)
        assert (found.returncode, found.stdout) == (1, "")
        assert "no-such" in found.stderr
    assert live.ssis("no-such-command").returncode == 2


def test_without_a_dispatcher_it_is_said_where_one_was_looked_for(live: Dispatcher) -> None:
    found = live.ssis("ps", "--url", "http://127.0.0.1:9")
    assert found.returncode == 1
    assert "http://127.0.0.1:9" in found.stderr
    assert "Traceback" not in found.stderr


def test_doctor_and_config_tell_of_this_machine(live: Dispatcher) -> None:
    checks = {check["name"]: check for check in json.loads(live.ssis("doctor", "-o", "json").stdout)}
    assert {"xllamacpp", "demo model", "memory limits"} <= checks.keys()
    setting = shown(live, "config")["cpu_slices"]
    assert (setting["value"], setting["source"]) == ("24x512MiB", "file")
    assert setting["place"].endswith("config.toml")


def test_the_first_command_answers_and_ends(live: Dispatcher) -> None:
    """What `make run ONCE=1` does."""
    found = live.ssis("serve", "--port", "0", "--try", "--once", "--log-level", "warning", "--no-access-log")
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.split()) > 5
    for words in (
        "listens on http://127.0.0.1:",
        "its server: ",
        "ready at ",
        "it runs on the slice cpu-512mib",
        "answered",
    ):
        assert words in found.stderr
