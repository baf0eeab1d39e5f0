"""Our own llama.cpp server, as a process: what it says, how it drains, how it fails."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ssis_dispatcher.launchers.process import llama_child
from ssis_dispatcher.launchers.process.child import Child

SCRIPT = llama_child.__file__


@pytest.fixture
def serve(start: Any, demo: str, xllamacpp_folder: str) -> Any:
    """The demo model with two seats; keywords are ``LLAMA_ARG_…`` variables."""

    def serve_model(folder: str = xllamacpp_folder, **changes: str) -> Child:
        arguments = {
            "MODEL": demo,
            "ALIAS": "demo",
            "HOST": "127.0.0.1",
            "PORT": "0",
            "CTX_SIZE": "2048",
            "N_PARALLEL": "2",
            "THREADS": "1",
            "ENDPOINT_METRICS": "1",
        } | changes
        env = tuple((f"LLAMA_ARG_{name}", value) for name, value in arguments.items())
        child: Child = start("", argv=(sys.executable, "-I", "-S", SCRIPT, folder), env=env)
        return child

    return serve_model


async def test_it_serves_under_its_alias_with_the_context_of_each_seat(serve: Any, wait_ready: Any) -> None:
    address = await wait_ready(serve())
    async with httpx2.AsyncClient(base_url=f"http://{address}") as client:
        models = (await client.get("/v1/models")).json()["data"]
        slots = (await client.get("/slots")).json()
        metrics = (await client.get("/metrics")).text
        front = await client.get("/")
        asked_by_a_page = await client.get("/v1/models", headers={"Origin": "http://evil.example"})
    assert [model["id"] for model in models] == ["demo"]
    assert [slot["n_ctx"] for slot in slots] == [1024, 1024]
    assert "llamacpp:requests_processing" in metrics
    assert front.status_code == 404
    assert asked_by_a_page.headers.get("Access-Control-Allow-Origin", "") == ""


async def test_completions_and_embeddings_come_from_one_server(serve: Any, wait_ready: Any) -> None:
    address = await wait_ready(serve(POOLING="mean"))
    async with httpx2.AsyncClient(base_url=f"http://{address}", timeout=30) as client:
        text = await client.post("/v1/completions", json={"prompt": "What is", "max_tokens": 4})
        vector = await client.post("/v1/embeddings", json={"input": "What is"})
    assert text.json()["usage"]["completion_tokens"] == 4
    assert len(vector.json()["data"][0]["embedding"]) == 192


async def test_a_stream_under_way_is_finished_before_it_ends(serve: Any, wait_ready: Any) -> None:
    child = serve()
    address = await wait_ready(child)
    body = {"prompt": "Once", "max_tokens": 600, "stream": True, "ignore_eos": True}
    async with (
        httpx2.AsyncClient(timeout=30) as client,
        client.stream("POST", f"http://{address}/v1/completions", json=body) as reply,
    ):
        lines = reply.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        child.stop(30.0)
        rest = [line async for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert len(rest) > 500
    assert (await child.wait_ended()).code == 0


async def test_one_that_is_idle_ends_at_once(serve: Any, wait_ready: Any) -> None:
    child = serve()
    await wait_ready(child)
    child.stop(30.0)
    async with asyncio.timeout(5):
        assert (await child.wait_ended()).code == 0


async def test_one_that_still_loads_ends_without_waiting_for_that(start: Any, wait_ready: Any, tmp_path: Path) -> None:
    (tmp_path / "xllamacpp.py").write_text(
        "import os, time\n"
        "class CommonParams: __getattr__ = lambda *_: 0; __setattr__ = lambda *_: None\n"
        "def Server(_): os.write(3, b'loads\\n'); time.sleep(3600)\n"
    )
    child = start("", argv=(sys.executable, "-I", "-S", SCRIPT, str(tmp_path)))
    assert await wait_ready(child) == "loads"
    child.stop(30.0)
    async with asyncio.timeout(5):
        assert (await child.wait_ended()).signal == signal.SIGTERM


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda demo: demo[: len(demo) // 2], "corrupted or incomplete"),
        (lambda demo: b"nonsense" * 1000, "invalid magic"),
        (lambda demo: b"", "failed to"),
        (lambda demo: demo[:8] + b"\xff" * 16 + demo[24:], "failed to"),
    ],
    ids=["truncated", "no GGUF", "empty", "absurd counts"],
)
async def test_a_broken_file_is_a_load_failure_with_the_reason(
    serve: Any, demo: str, tmp_path: Path, content: Any, reason: str
) -> None:
    broken = tmp_path / "broken.gguf"
    await asyncio.to_thread(lambda: broken.write_bytes(content(Path(demo).read_bytes())))
    child = serve(MODEL=str(broken))
    assert (await child.wait_ended()).code == llama_child.LOAD_FAILED
    assert any(reason in line for line in child.lines())


async def test_a_setting_that_it_does_not_have_is_named(serve: Any) -> None:
    child = serve(NO_SUCH_THING="1")
    assert (await child.wait_ended()).code == llama_child.BAD_ARGUMENTS
    assert "NO_SUCH_THING" in child.lines()[-1]


async def test_a_runtime_that_cannot_be_imported_says_why(serve: Any, tmp_path: Path) -> None:
    reason = "libgomp.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({reason!r})")
    child = serve(folder=str(tmp_path))
    assert (await child.wait_ended()).code == llama_child.NO_RUNTIME
    assert child.lines() == [reason]
