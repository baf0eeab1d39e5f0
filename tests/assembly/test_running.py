"""The life of one dispatcher process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from ssis_dispatcher.assembly.running import _tls, url_of
from ssis_dispatcher.errors import DispatchError
from ssis_dispatcher.settings import Settings

PROGRAM = """
import gc, sys
from pathlib import Path
from ssis_dispatcher.assembly.running import run
from ssis_dispatcher.core.slices import Pool, cpu_slice
from ssis_dispatcher.launchers.fake import FakeLauncher, Outcome
from ssis_dispatcher.models.catalogue import demo_path
from ssis_dispatcher.settings import Settings

home = Path(sys.argv[1])
(home / "catalogue.yaml").write_text(f"models:\\n  mine: {{path: {demo_path()}}}\\n")
settings = Settings(port=0, platform="fake", state_dir=home, cache_dir=home, catalogue=home / "catalogue.yaml",
                    hub_offline=True, drain_quiet=float(sys.argv[2]), log_format="json")
launcher = FakeLauncher([Pool("here", cpu_slice(4096), 1)], lambda order: Outcome(60.0, phases=((0.0, "loading"),)))

def ready(url):
    print(url, gc.get_threshold(), gc.get_freeze_count() > 0, flush=True)

sys.exit(run(settings, ready, launcher))
"""
"""A dispatcher whose servers take a minute to load."""


class Running:
    """A dispatcher in a process of its own."""

    def __init__(self, home: Path, quiet: float) -> None:
        self._log = (home / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(home), str(quiet)],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "HF_HOME": str(home)},
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.url = self.line.split()[0]

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self._log.close()


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    running = Running(tmp_path, getattr(request, "param", 0.0))
    yield running
    running.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_tells_its_url_when_it_listens_and_ends_properly_when_it_is_asked_to(
    running: Running, number: signal.Signals
) -> None:
    assert re.match(r"http://127\.0\.0\.1:\d+ \(50000, 20, 100\) True\n", running.line)
    assert httpx2.get(f"{running.url}/healthz", trust_env=False).json()["status"] == "ok"
    running.process.send_signal(number)
    assert running.process.wait(10) == 0
    assert [word for word in ("draining", "drained") if f'"event":"{word}"' in running.log()] == ["draining", "drained"]
    assert "Traceback" not in running.log()


def test_those_who_wait_when_it_is_asked_to_end_are_told_so(running: Running) -> None:
    body = {"model": "mine", "messages": [], "stream": True}
    with httpx2.Client(base_url=running.url, trust_env=False, timeout=20.0) as client:
        replies: list[httpx2.Response] = []
        thread = threading.Thread(target=lambda: replies.append(client.post("/v1/chat/completions", json=body)))
        thread.start()
        with httpx2.Client(base_url=running.url, trust_env=False) as other:
            while not other.get("/api/queue").json()["waiting"]:
                pass
        running.process.send_signal(signal.SIGTERM)
        thread.join(10)
    (reply,) = replies
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")
    assert "retry-after" in reply.headers
    assert running.process.wait(10) == 0


@pytest.mark.parametrize("running", [30.0], indirect=True)
def test_in_the_quiet_period_it_still_serves_but_is_not_ready_and_a_second_signal_ends_it(running: Running) -> None:
    with httpx2.Client(base_url=running.url, trust_env=False) as client:
        running.process.send_signal(signal.SIGTERM)
        while client.get("/readyz").status_code == 200:
            pass
        assert client.get("/readyz").json()["code"] == "draining"
        assert client.get("/v1/models").status_code == 200
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) != 0


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::1", "http://[::1]:80"),
        ("::", "http://[::1]:80"),
        ("2001:db8::1", "http://[2001:db8::1]:80"),
        ("gpu.example.org", "http://gpu.example.org:80"),
        ("", "http://127.0.0.1:80"),
    ],
)
def test_the_url_is_one_that_a_client_on_this_machine_can_use(host: str, url: str) -> None:
    assert url_of(Settings(host=host), 80) == url


def test_with_a_certificate_the_url_is_https() -> None:
    assert url_of(Settings(tls_cert=Path("cert.pem")), 8443) == "https://127.0.0.1:8443"


@pytest.mark.parametrize("given", [{"tls_cert": Path("a.pem")}, {"tls_key": Path("a.pem")}])
def test_half_of_what_https_needs_is_an_error(given: dict[str, Path]) -> None:
    with pytest.raises(DispatchError, match="both tls_cert and tls_key"):
        _tls(Settings(**given))  # type: ignore[arg-type]


def test_without_a_certificate_http_is_spoken() -> None:
    assert _tls(Settings()) is None
