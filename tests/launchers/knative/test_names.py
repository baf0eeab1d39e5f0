"""What is written on our objects, and that a restarted dispatcher reads the same again."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.launchers.knative.objects import CPU, GPU, order

from ssis_dispatcher.core.messages import Launch, Model, ServerAdopted
from ssis_dispatcher.core.servers import server_name
from ssis_dispatcher.core.sizing import ModelFacts, Profile
from ssis_dispatcher.core.slices import Pool, Slice, SliceKind
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.launchers.knative import manifests, names, specs
from ssis_dispatcher.launchers.knative.features import Features
from ssis_dispatcher.launchers.knative.names import Adopted, Unreadable
from ssis_dispatcher.launchers.knative.options import KnativeOptions, PodSource

WORDS = st.text(min_size=1, max_size=40)
NUMBERS = st.integers(0, 1 << 40)
SECONDS = st.floats(0, 1e6, allow_nan=False)
MODELS = st.builds(
    Model.of,
    WORDS,
    revision=WORDS,
    engine=st.sampled_from(sorted(ENGINES)),
    arguments=st.dictionaries(WORDS, WORDS, max_size=3).map(lambda pairs: tuple(pairs.items())),
    scope=WORDS,
    context=st.none() | NUMBERS,
)
PROFILES = st.builds(
    Profile,
    st.builds(ModelFacts, WORDS, st.none() | NUMBERS, st.none() | NUMBERS, st.none() | NUMBERS, note=WORDS),
    context=NUMBERS,
    engine_seats=NUMBERS,
    kinds=st.lists(st.sampled_from(SliceKind), max_size=4).map(tuple),
    overhead_share=st.floats(0, 1),
    ceiling_mib=st.none() | NUMBERS,
    start_seconds=SECONDS,
    keep_alive=st.none() | SECONDS,
    pinned=st.booleans(),
    max_servers=st.none() | NUMBERS,
    host_mib=NUMBERS,
)


def written(launch: Launch) -> dict[str, Any]:
    """The Knative Service of a launch, as far as it is read again."""
    resources = {"limits": {launch.pool.slice.name: str(launch.count)}}
    return {
        "metadata": {"name": launch.server, "labels": names.labels(launch.model), "annotations": names.marks(launch)},
        "spec": {"template": {"spec": {"containers": [{"resources": resources}]}}},
    }


@given(MODELS, PROFILES, st.integers(1, 8), NUMBERS, NUMBERS, WORDS)
def test_a_restarted_dispatcher_reads_what_the_fleet_knew(
    model: Model, profile: Profile, count: int, seats: int, context: int, node: str
) -> None:
    slice = Slice(10240, 0.5, "nvidia.com/mig-1g.10gb", SliceKind.MIG)
    launch = Launch("c", "server", model, profile, Pool(node, slice, 7), count, seats, context, 1.0)
    found = names.read(written(launch))
    assert isinstance(found, Adopted)
    assert found.event("launcher", "", "host:80") == ServerAdopted(
        "launcher", "server", model, profile, slice.name, node, count, seats, "host:80"
    )
    assert found.record.context == context


def test_the_node_that_the_pod_runs_on_is_truer_than_the_plan() -> None:
    found = names.read(written(order()))
    assert isinstance(found, Adopted)
    assert found.event("launcher", "elsewhere", None).node == "elsewhere"


def test_what_was_written_can_be_read_when_it_comes_from_the_manifest_itself() -> None:
    for slice, count in ((GPU, 2), (CPU, 1)):
        launch = order(slice, count=count)
        spec = specs.spec_of(launch, ENGINES["tgi"], PodSource("org/name"), KnativeOptions(), Features())
        for service in (manifests.service(spec), names.trim_service(manifests.service(spec))):
            found = names.read(service)
            assert isinstance(found, Adopted)
            assert (found.slice, found.count) == (slice.name, count)


def test_what_another_controller_made_of_it_counts() -> None:
    """SSIS's autoscaler gives the first container another slice, and CPU and memory of its own."""
    service = written(order())
    service["spec"]["template"]["spec"]["containers"][0]["resources"] = {
        "limits": {"cpu": "1", "memory": "10Gi", "nvidia.com/mig-2g.10gb": "1"},
        "requests": {"cpu": "1", "memory": "10Gi", "nvidia.com/mig-2g.10gb": "1"},
    }
    found = names.read(service)
    assert isinstance(found, Adopted)
    assert (found.slice, found.count) == ("nvidia.com/mig-2g.10gb", 1)


@pytest.mark.parametrize("labels", [None, {}, {"app.kubernetes.io/managed-by": "Helm"}])
def test_what_others_made_is_not_ours(labels: dict[str, str] | None) -> None:
    service = written(order())
    service["metadata"]["labels"] = labels
    assert not names.owned(service)
    assert names.read(service) is None
    del service["metadata"]["labels"]
    assert names.read(service) is None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (None, "no annotation"),
        ("{", "cannot be read"),
        ('{"version": 1}', "cannot be read"),
        ('{"version": 2, "whatever": true}', "version 2"),
    ],
)
def test_a_record_that_we_cannot_read_is_left_alone_and_told(record: str | None, why: str) -> None:
    service = written(order())
    if record is None:
        del service["metadata"]["annotations"]
    else:
        service["metadata"]["annotations"][names.RECORD] = record
    found = names.read(service)
    assert isinstance(found, Unreadable)
    assert found.name == service["metadata"]["name"]
    assert why in found.why


def test_a_later_record_of_the_same_version_may_say_more() -> None:
    service = written(order())
    record = msgspec.json.decode(service["metadata"]["annotations"][names.RECORD])
    record["colour"] = "green"
    record["profile"]["colour"] = "green"
    service["metadata"]["annotations"][names.RECORD] = msgspec.json.encode(record).decode()
    assert isinstance(names.read(service), Adopted)


def test_somebodys_copy_of_a_server_is_not_a_server() -> None:
    service = written(order())
    service["metadata"]["name"] = "copy"
    found = names.read(service)
    assert isinstance(found, Unreadable)
    assert "copied" in found.why


@given(WORDS | st.sampled_from(["a/b-c", "a/b.c", "01-ai/Yi", "org/" + "x" * 120, "Ünï/…", "-/-."]), WORDS)
def test_labels_are_such_as_kubernetes_takes(id: str, revision: str) -> None:
    value = names.model_label(Model.of(id, revision=revision))
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value)
    assert value != names.model_label(Model.of(id, revision=revision + "x"))


@given(id=WORDS | st.sampled_from(["7b-model", "01-ai/Yi-34B", "a/b-c", "a/b.c"]), replica=st.integers(0, 99))
def test_trap_12_names_of_services_are_dns_labels_without_a_hyphen(id: str, replica: int) -> None:
    """DNS-1035: it begins with a letter. Without a hyphen, because SSIS's autoscaler takes what is before the first
    one; short, because Knative appends to it."""
    name = server_name(Model.of(id), replica)
    assert re.fullmatch(r"[a-z][a-z0-9]{10,29}", name)


def test_models_that_look_alike_have_names_of_their_own() -> None:
    assert server_name(Model.of("a/b-c"), 0) != server_name(Model.of("a/b.c"), 0)
    assert server_name(Model.of("a/b"), 0) != server_name(Model.of("a/b"), 1)


def test_a_copy_keeps_what_is_read() -> None:
    service = written(order())
    service["metadata"]["annotations"]["serving.knative.dev/creator"] = "me"
    service["status"] = {"url": "http://x", "conditions": [], "traffic": [1, 2, 3]}
    trimmed = names.trim_service(service)
    assert names.read(trimmed) == names.read(service)
    assert trimmed["status"] == {"url": "http://x", "conditions": []}
    assert "serving.knative.dev/creator" not in trimmed["metadata"]["annotations"]
