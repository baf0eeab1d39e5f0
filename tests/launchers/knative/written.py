"""Servers as they are written down, for tests."""

from __future__ import annotations

from typing import Any

from tests.launchers.knative.objects import order

from ssis_dispatcher.core.messages import Launch
from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.launchers.knative.features import HOST_IPC, Features
from ssis_dispatcher.launchers.knative.manifests import service
from ssis_dispatcher.launchers.knative.options import (
    KnativeOptions,
    PodSource,
)
from ssis_dispatcher.launchers.knative.specs import ServiceSpec, spec_of

OLD = Features((1, 15), is_exact=True)
MPS = Features((1, 16), is_exact=True, flags={HOST_IPC: "enabled"})
SOURCE = PodSource("org/name")


def made(
    launch: Launch | None = None,
    *,
    source: PodSource = SOURCE,
    features: Features = OLD,
    engine: Engine | None = None,
    hostname: str = "",
    **options: Any,
) -> ServiceSpec:
    launch = launch or order()
    engine = engine or ENGINES[launch.model.engine]
    return spec_of(launch, engine, source, KnativeOptions(**options), features, hostname)


def written(*args: Any, **more: Any) -> dict[str, Any]:
    return service(made(*args, **more))


def pod_of(*args: Any, **more: Any) -> dict[str, Any]:
    found = written(*args, **more)["spec"]["template"]["spec"]
    assert isinstance(found, dict)
    return found


def container_of(*args: Any, **more: Any) -> dict[str, Any]:
    (container,) = pod_of(*args, **more)["containers"]
    assert isinstance(container, dict)
    return container


def env_of(*args: Any, **more: Any) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container_of(*args, **more)["env"] if "value" in each}
