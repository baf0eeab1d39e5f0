"""No secret and no prompt reaches a log, a metric, a page, an error, a process's arguments or another's environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.live.conftest import Start
from tests.live.support import Dispatcher, environment, scripted, ssis

OURS = "hf_canaryOfTheOperator0123456789"
THEIRS = "hf_canaryOfTheCaller0123456789"
PROMPT = "canary of the prompt"
LABEL = "canary of the label"
BEARER = "sk-canaryOfSomeOtherService0123"


@pytest.fixture
def told(start: Start, tmp_path: Path) -> tuple[Dispatcher, list[str], dict[str, str]]:
    """A dispatcher that has been shown every secret in every way, and the canaries; with a key that may look everywhere."""
    secret = ssis(environment(tmp_path), "keys", "create", "operator", "--role", "operate").stdout.strip()
    dispatcher = start(
        *("--host", "0.0.0.0", "--log-level", "debug", "--retry-pause", "10ms"),
        env={"HF_TOKEN": OURS, "SSIS_SERVER_ENV": f"EXTRA={BEARER}"},
        models={"scripted": {}, "broken": scripted("broken"), "gated": scripted("gated")},
    )
    key = {"Authorization": f"Bearer {secret}"}
    with_token = {**key, "X-SSIS-HF-Token": THEIRS}
    for model, word in (("demo", "Hi"), ("scripted", "answer"), ("scripted", "truncate"), ("scripted", "refuse")):
        for stream in (False, True):
            body = {"model": model, "messages": [{"role": "user", "content": f"{PROMPT}\n{word}"}], "stream": stream}
            dispatcher.send("POST", "/v1/chat/completions", {**body, "max_tokens": 3}, with_token).answer()
    dispatcher.tell(
        "fail-broken", f"cannot fetch with token={THEIRS} and HF_TOKEN={OURS} Authorization: Bearer {BEARER}"
    )
    seed = {"token": PROMPT, "par": {"max_new_tokens": 2}, "label": {"who": LABEL}}
    for env in (
        {"MODEL_ID": "demo", "HF_TOKEN": THEIRS},
        {"MODEL_ID": "broken", "HF_TOKEN": THEIRS},
        {"MODEL_ID": "no-such", "HF_TOKEN": THEIRS},
        {"MODEL_ID": "demo", "LD_PRELOAD": THEIRS},
        {"MODEL_ID": "demo", "DTYPE": THEIRS},
        {"MODEL_ID": "demo", "HF_TOKEN": THEIRS + "\n!"},
    ):
        answer = dispatcher.send("POST", "/", {**seed, "env": env}, key).answer()
        assert answer.status < 500 or env["MODEL_ID"] == "broken"
        assert b"canary" not in answer.body.replace(PROMPT.encode(), b"")
    for wrong in (
        b'{"token": "' + PROMPT.encode() + b'", "env": {"MODEL_ID": "demo", "HF_TOKEN": "' + THEIRS.encode(),
        b"{",
    ):
        dispatcher.send("POST", "/", wrong, key).answer()
    dispatcher.send("GET", "/v1/models", None, {"Authorization": f"Bearer {BEARER}"}).answer()
    dispatcher.send("GET", f"/v1/models?key={BEARER}&token={THEIRS}", None, key).answer()
    return dispatcher, [OURS, THEIRS, PROMPT, LABEL, BEARER, secret], key


def test_no_canary_is_seen_anywhere(told: tuple[Dispatcher, list[str], dict[str, str]]) -> None:
    dispatcher, canaries, key = told
    places = {}
    for path in ("/metrics", "/v1/models", "/api/servers", "/api/slices", "/api/queue", "/healthz", "/readyz", "/"):
        places[path] = dispatcher.send("GET", path, None, key).answer().body.decode()
    launched = [line["server"] for line in map(json.loads, dispatcher.log()) if line.get("event") == "launch"]
    for server in launched:
        places[f"logs of {server}"] = (
            dispatcher.send("GET", f"/api/servers/{server}/logs", None, key).answer().body.decode()
        )
    assert any("cannot fetch with" in text for text in places.values()), "the failed server's own words are kept"
    for pid in [dispatcher.pid, *dispatcher.children()]:
        places[f"arguments of {pid}"] = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    for name in ("config", "doctor", "ps"):
        found = dispatcher.ssis(name, "--config", str(dispatcher.folder / "config/ssis/config.toml"))
        places[f"ssis {name}"] = found.stdout + found.stderr
    for file in [*dispatcher.folder.glob("state/**/*"), *dispatcher.folder.glob("config/ssis/keys*")]:
        if file.is_file():
            places[str(file)] = file.read_bytes().decode("latin-1")
    dispatcher.terminate()
    assert dispatcher.wait() == 0
    places["the log"] = dispatcher.said()
    assert len(dispatcher.log()) > 15
    leaks = [(place, canary) for place, text in places.items() for canary in canaries if canary in text]
    assert leaks == []


def test_an_engine_gets_what_it_needs_and_no_more(told: tuple[Dispatcher, list[str], dict[str, str]]) -> None:
    """The embedded one gets no token at all; one that fetches by itself gets the operator's, or that of the only caller who
    may use it, and nobody's key."""
    dispatcher, (ours, theirs, _, _, _, secret), key = told
    assert dispatcher.chat("scripted", headers=key).answer().status == 200
    for line in dispatcher.notes("asked-scripted"):
        headers = json.loads(line)["headers"]
        assert "authorization" not in headers
        assert "x-ssis-hf-token" not in headers
        assert "x-api-key" not in headers
        assert headers["x-request-id"]
    environments = [json.loads(line) for line in dispatcher.notes("environment-scripted")]
    assert [own["HF_TOKEN"] for own in environments] == [theirs, ours]
    for own in environments:
        assert own["EXTRA"] == BEARER
        assert secret not in own.values()
        assert own["CUDA_VISIBLE_DEVICES"] == ""
    embedded = next(pid for pid in dispatcher.processes("llama_child") if pid)
    environ = Path(f"/proc/{embedded}/environ").read_bytes().decode()
    for canary in (ours, theirs, secret):
        assert canary not in environ
