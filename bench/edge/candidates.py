"""Who takes part: how each proxy is started in front of the fake inference server.

All run on one core, with one worker thread where that can be said, without access log (ours has one) and without retries;
what else they do is their default.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.edge import workshop

_KEY = "ours/key"


@dataclass(frozen=True)
class Command:
    """How to start one candidate."""

    argv: list[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)


Start = Callable[[int, int], Command]
"""(port to listen on, the fake server's port) → command. Raises `Missing`."""


def ours(port: int, upstream: int, *more: str) -> Command:
    """The dispatcher with every feature on."""
    return Command([sys.executable, "-m", "bench.edge.dispatcher", str(port), str(upstream), *more])


def serve(port: int) -> list[str | Path]:
    """``ssis serve``, as an operator starts it."""
    home = workshop.WORK / "ours"
    options = f"--quiet --platform fake --port {port} --state-dir {home} --cache-dir {home}"
    return [Path(sys.executable).parent / "ssis", "serve", *options.split()]


def key() -> str:
    """The API key that the last of `ours` made; it is sent to all, so that all read the same bytes."""
    path = workshop.WORK / _KEY
    return path.read_text(encoding="utf-8") if path.exists() else "none"


def keep_key(secret: str) -> None:
    workshop.written(_KEY, secret)


def envoy(port: int, upstream: int) -> Command:
    """A plain reverse proxy, statistics on."""
    return _envoy("envoy", port, upstream, [_to("up")], [])


def envoy_json(port: int, upstream: int) -> Command:
    """Envoy choosing its upstream by the ``model`` in the JSON body, which is what a dispatcher has to do."""
    named = {"filter": "envoy.lb", "path": [{"key": "model"}], "value": {"string_match": {"prefix": "bench"}}}
    model = {"metadata_namespace": "envoy.lb", "key": "model"}
    rule = {
        "selectors": [{"key": "model"}],
        "on_present": model,
        "on_missing": model | {"value": "none"},
        "on_error": model | {"value": "none"},
    }
    read = _filter("json_to_metadata", "json_to_metadata.v3.JsonToMetadata", request_rules={"rules": [rule]})
    nobody = {"match": {"prefix": "/"}, "direct_response": {"status": 404}}
    return _envoy("envoy-json", port, upstream, [_to("up", dynamic_metadata=[named]), nobody], [read])


def haproxy(port: int, upstream: int) -> Command:
    """HAProxy, one thread, connections to the server shared and kept."""
    lines = (
        "global\n nbthread 1\n maxconn 9000\n no log",
        "defaults\n mode http\n timeout connect 5s\n timeout client 600s\n timeout server 600s",
        " option http-no-delay\n http-reuse always",
        f"frontend f\n bind 127.0.0.1:{port} backlog 4096\n default_backend b",
        f"backend b\n server s 127.0.0.1:{upstream} pool-max-conn 2000\n",
    )
    return Command([workshop.haproxy(), "-db", "-f", workshop.written("haproxy.cfg", "\n".join(lines))])


def relay(port: int, upstream: int) -> Command:
    """Bytes both ways, and nothing else: the floor for a program on this loop and this kernel."""
    return Command([sys.executable, "-m", "bench.edge.relay", str(port), str(upstream)])


def vllm_router(port: int, upstream: int) -> Command:
    return Command([workshop.peer("vllm-router"), *_router(port, upstream)], {"TOKIO_WORKER_THREADS": "1"})


def sglang_router(port: int, upstream: int) -> Command:
    options = [*_router(port, upstream), "--max-concurrent-requests", "-1"]
    return Command([workshop.peer("sglang-router"), "launch", *options], {"TOKIO_WORKER_THREADS": "1"})


CANDIDATES: dict[str, Start | None] = {
    "direct": None,
    "ours": ours,
    "envoy": envoy,
    "envoy-json": envoy_json,
    "haproxy": haproxy,
    "relay": relay,
    "vllm-router": vllm_router,
    "sglang-router": sglang_router,
}


def _router(port: int, upstream: int) -> list[str]:
    listen = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", f"http://127.0.0.1:{upstream}"]
    metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(workshop.free_port())]
    return [*listen, *metrics, "--policy", "round_robin", "--log-level", "error"]


def _envoy(name: str, port: int, upstream: int, routes: list[Any], filters: list[Any]) -> Command:
    many = {"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}
    manager = {
        "@type": _type("network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
        "http_filters": [*filters, _filter("router", "router.v3.Router")],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    cluster = {
        "name": "up",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [many]},
        "load_assignment": {
            "cluster_name": "up",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}],
        },
    }
    resources = {"listeners": [{"address": _address(port), "filter_chains": [chain]}], "clusters": [cluster]}
    config = workshop.written(f"{name}.json", json.dumps({"static_resources": resources}, indent=1))
    return Command([workshop.peer("envoy"), "-c", config, "--concurrency", "1", "-l", "error", "--disable-hot-restart"])


def _to(cluster: str, **match: Any) -> dict[str, Any]:
    return {"match": {"prefix": "/"} | match, "route": {"cluster": cluster, "timeout": "0s"}}


def _filter(name: str, type: str, **config: Any) -> dict[str, Any]:
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": _type(f"http.{type}")} | config}


def _type(name: str) -> str:
    return f"type.googleapis.com/envoy.extensions.filters.{name}"


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
