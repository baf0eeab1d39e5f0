"""Following a request beside the answer."""

from __future__ import annotations

import threading
from typing import Any

from ssis_dispatcher.cli.client import Client, NotThere
from ssis_dispatcher.cli.failures import Failure
from ssis_dispatcher.cli.watch import Watch
from ssis_dispatcher.cli.ways import straight


class Views(Client):
    """Answers of `/api/requests`, one after the other; exceptions are raised. ``over`` is set at the end of them."""

    def __init__(self, *views: Any) -> None:
        super().__init__(straight("http://127.0.0.1:1"))
        self.views = list(views)
        self.over = threading.Event()

    def get(self, path: str) -> Any:
        assert path == "/api/requests/a%2Fb"
        if not self.views:
            self.over.set()
            raise NotThere("over")
        view = self.views.pop(0)
        if isinstance(view, Exception):
            raise view
        return view


class Shown:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.cleared = 0

    def phase(self, name: str, words: str) -> None:
        self.phases.append(words)

    def clear(self) -> None:
        self.cleared += 1


def test_it_shows_every_view_until_it_is_told_to_end() -> None:
    starting = {"model": "demo", "phase": "starting"}
    with Views(NotThere("not yet"), starting, starting) as client:
        shown = Shown()
        with Watch(client, "a/b", shown) as watch:
            watch.hint("the stream says something")
            assert client.over.wait(30)
        assert shown.phases == ["demo: starting", "demo: starting"]
        assert shown.cleared == 1


def test_where_it_may_not_look_the_hints_of_the_stream_are_shown() -> None:
    with Views(Failure("not with this key")) as client:
        shown = Shown()
        watch = Watch(client, "a/b", shown)
        with watch:
            watch.thread.join(30)
            watch.hint("position 3")
        watch.hint("too late")
        assert shown.phases == ["position 3"]


def test_closing_the_client_under_a_look_is_no_error() -> None:
    closed = threading.Event()

    class Closing(Views):
        def get(self, path: str) -> Any:
            self.over.set()
            assert closed.wait(30)
            raise RuntimeError("the client has been closed")

    failures: list[threading.ExceptHookArgs] = []
    hook, threading.excepthook = threading.excepthook, failures.append
    try:
        with Closing() as client:
            with Watch(client, "a/b", Shown()) as watch:
                assert client.over.wait(30)
            closed.set()
            watch.thread.join(30)
    finally:
        threading.excepthook = hook
    assert failures == []
