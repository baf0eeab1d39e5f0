"""What a cluster's Knative allows, from the two ConfigMaps that we may read."""

from __future__ import annotations

from typing import Any

import pytest
from tests.launchers.knative.objects import GPU, MIG, NEBULY, NVIDIA_MPS

from ssis_dispatcher.launchers.knative import features as f
from ssis_dispatcher.launchers.knative.features import Features, mps_needs, needs, refusal
from ssis_dispatcher.launchers.knative.options import KnativeOptions, Toleration, VolumeKind, Weights


def config(version: str | None = None, **data: str) -> dict[str, Any]:
    labels = {} if version is None else {"app.kubernetes.io/version": version}
    return {"metadata": {"name": "config-features", "labels": labels}, "data": data}


@pytest.mark.parametrize(
    ("label", "version"),
    [
        ("1.15.2", (1, 15)),
        ("v1.23.0", (1, 23)),
        ("0.42.2", (1, 15)),  # as it is tagged: 0.N is 1.(N-27)
        ("0.50", (1, 23)),
        ("devel", None),
        ("20240716-abc", None),
    ],
)
def test_a_release_says_which_it_is(label: str, version: tuple[int, int] | None) -> None:
    found = Features.of(config(label), None)
    assert (found.version, found.is_exact) == (version, version is not None)
    assert Features.of(None, config(label)).version == version


@pytest.mark.parametrize(
    ("flag", "version"),
    [
        ("kubernetes.podspec-affinity", (1, 15)),
        (f.HOST_IPC, (1, 16)),
        (f.HOST_PATH, (1, 17)),
        ("kubernetes.podspec-volumes-csi", (1, 18)),
        ("kubernetes.podspec-volumes-image", (1, 19)),
        ("kubernetes.podspec-volumes-ephemeral", (1, 23)),
    ],
)
def test_otherwise_its_documentation_tells_the_least_it_can_be(flag: str, version: tuple[int, int]) -> None:
    example = f'# …\n    kubernetes.podspec-hostaliases: "disabled"\n    {flag}: "disabled"\n'
    found = Features.of(config("devel", _example=example), None)
    assert (found.version, found.is_exact) == (version, False)


def test_configmaps_that_nobody_may_read_leave_knatives_defaults() -> None:
    for found in (Features(), Features.of(None, None), Features.of({"metadata": {"labels": None}, "data": None}, {})):
        assert found.version is None
        assert found.max_timeout == 600
        assert found.on("kubernetes.podspec-volumes-emptydir")
        assert not found.on(f.NODE_SELECTOR)
        assert found.trouble == ""


@pytest.mark.parametrize(
    ("value", "selector", "claim"),
    [
        ("enabled", True, True),
        (" Enabled ", True, True),
        ("allowed", True, False),  # Knative takes nothing but "enabled" for claims
        ("disabled", False, False),
        ("yes please", False, False),  # ignored by Knative, without a word
    ],
)
def test_flags_are_read_as_knative_reads_them(value: str, selector: bool, claim: bool) -> None:
    found = Features.of(config("1.20.0", **{f.NODE_SELECTOR: value, f.CLAIM: value}), None)
    assert (found.on(f.NODE_SELECTOR), found.on(f.CLAIM)) == (selector, claim)


def test_what_is_on_by_default_can_be_switched_off() -> None:
    assert Features.of(config("1.15.1", **{f.EMPTY_DIR: "nonsense"}), None).on(f.EMPTY_DIR)
    off = Features.of(config("1.15.1", **{f.EMPTY_DIR: "disabled"}), None)
    assert [missing.flag for missing in needs(KnativeOptions(), off)] == [f.EMPTY_DIR]


def test_a_flag_that_this_knative_does_not_know_is_off_whatever_it_says() -> None:
    assert not Features.of(config("1.15.2", **{f.HOST_IPC: "enabled"}), None).on(f.HOST_IPC)
    assert Features.of(config("1.16.0", **{f.HOST_IPC: "enabled"}), None).on(f.HOST_IPC)
    assert Features.of(config(None, **{f.HOST_IPC: "enabled"}), None).on(f.HOST_IPC)


@pytest.mark.parametrize(("written", "seconds"), [("3600", 3600), ("", 600), ("0", 600), ("ten", 600), ("1200 ", 1200)])
def test_trap_1_the_longest_time_a_request_may_take(written: str, seconds: int) -> None:
    assert Features.of(None, config(**{"max-revision-timeout-seconds": written})).max_timeout == seconds


def test_trap_8_mig_and_whole_gpus_need_no_flag() -> None:
    assert needs(KnativeOptions(), Features.of(config("1.15.1"), None)) == []
    for slice in (MIG, GPU, NVIDIA_MPS):
        assert refusal(slice, KnativeOptions(), Features.of(config("1.15.1"), None)) == ""


@pytest.mark.parametrize(
    ("version", "mounts", "said"),
    [
        ("1.15.2", False, ["1.16 or newer, and this is 1.15"]),
        ("1.16.0", False, [f.patch(f.HOST_IPC)]),
        ("1.16.0", True, [f.patch(f.HOST_IPC), "1.17 or newer, and this is 1.16"]),
        ("1.23.0", True, [f.patch(f.HOST_IPC), f.patch(f.HOST_PATH)]),
        (None, True, [f"(Knative 1.16 or newer); run: {f.patch(f.HOST_IPC)}", f.patch(f.HOST_PATH)]),
    ],
)
def test_trap_8_what_nebulys_mps_needs_and_since_when(version: str | None, mounts: bool, said: list[str]) -> None:
    options = KnativeOptions(mounts_mps_pipe=mounts)
    found = list(map(str, mps_needs(options, Features.of(config(version), None))))
    assert len(found) == len(said)
    for words, expected in zip(found, said, strict=True):
        assert expected in words
    assert refusal(NEBULY, options, Features.of(config(version), None)) == "; ".join(found)


def test_the_patch_is_a_command_as_it_stands() -> None:
    assert f.patch(f.HOST_IPC) == (
        "kubectl patch configmap/config-features -n knative-serving --type merge "
        '-p \'{"data":{"kubernetes.podspec-hostipc":"enabled"}}\''
    )


def test_each_choice_of_the_operators_names_the_flag_that_it_needs() -> None:
    options = KnativeOptions(
        runtime_class="nvidia",
        tolerations=(Toleration(operator="Exists"),),
        weights=Weights(kind=VolumeKind.CLAIM, source="models"),
    )
    missing = needs(options, Features.of(config("1.15.1"), None))
    assert [each.flag for each in missing] == [f.RUNTIME_CLASS, f.TOLERATIONS, f.CLAIM, f.CLAIM_WRITE]
    assert all(each.patch == f.patch(each.flag) for each in missing)
    assert "the weights' claim 'models'" in missing[2].why
    on = {each.flag: "enabled" for each in missing}
    assert needs(options, Features.of(config("1.15.1", **on), None)) == []


def test_a_folder_of_the_nodes_needs_a_newer_knative() -> None:
    options = KnativeOptions(weights=Weights(kind=VolumeKind.HOST, source="/srv"))
    (missing,) = needs(options, Features.of(config("1.15.1"), None))
    assert (missing.flag, missing.patch) == (f.HOST_PATH, "")
    assert "needs Knative 1.17 or newer, and this is 1.15" in missing.why


def test_a_knative_from_before_our_time_is_told() -> None:
    assert "1.14 is too old" in Features.of(config("1.14.0"), None).trouble
    assert Features.of(config("1.15.0"), None).trouble == ""


def test_knatives_own_container_asks_memory_where_it_is_told_to() -> None:
    assert Features().sidecar == (25, 0)
    assert Features.of(config("1.15.0", **{f.QUEUE_DEFAULTS: "enabled"}), None).sidecar == (25, 400)
