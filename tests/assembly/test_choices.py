"""The operator's choices: settings, and the ConfigMap with the original program's keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssis_dispatcher.assembly.choices import Choices, choices
from ssis_dispatcher.files import BadFile
from ssis_dispatcher.launchers.knative.options import CpuShare, Toleration, VolumeKind, Weights
from ssis_dispatcher.settings import CpuShare as Share
from ssis_dispatcher.settings import Settings

ENGINES = ("llamacpp", "sglang", "tgi", "vllm")

ORIGINAL = {
    "service-namespace": "nthulab",
    "inference-image": "ghcr.io/huggingface/text-generation-inference:3.3.7\n",
    "gpu-resource-config": "nvidia.com/gpu-4gb\nnvidia.com/gpu-2gb # small\n\n# nvidia.com/gpu\n- nvidia.com/gpu-8gb\n",
    "mps-active-thread-percentage-config": "nvidia.com/gpu-1gb: 3\nnvidia.com/gpu-2gb: 6\n4gb: '12'\n",
}


def chosen(edited: dict[str, str] | None = None, **settings: Any) -> Choices:
    return choices(Settings(**settings), edited, ENGINES)


def test_nothing_chosen_is_the_original_programs_engine() -> None:
    found = chosen()
    assert (found.engine, found.catalogue) == ("tgi", None)
    assert found.options.namespace == "nthulab"
    assert found.options.uids == {"nebuly": 1000}
    assert found.options.resources == ()


def test_the_originals_config_map_is_understood_as_it_is() -> None:
    found = chosen(ORIGINAL)
    assert found.options.resources == ("nvidia.com/gpu-4gb", "nvidia.com/gpu-2gb", "nvidia.com/gpu-8gb")
    assert found.options.mps_threads == {"1gb": 3, "2gb": 6, "4gb": 12}
    assert found.options.images == {"tgi": {"": "ghcr.io/huggingface/text-generation-inference:3.3.7"}}


@pytest.mark.parametrize(
    ("image", "engine"),
    [
        ("vllm/vllm-openai:v0.33.0", "vllm"),
        ("lmsysorg/sglang:latest", "sglang"),
        ("registry.local:5000/team/llama.cpp:server", "llamacpp"),
        ("ghcr.io/somebody/their_own:1", "tgi"),
    ],
)
def test_the_image_tells_the_engine(image: str, engine: str) -> None:
    assert chosen({"inference-image": image}).engine == engine
    assert chosen(inference_image=image).engine == engine


def test_the_config_maps_image_goes_before_the_settings() -> None:
    found = chosen({"inference-image": "vllm/vllm-openai:v1"}, inference_image="tgi:1")
    assert found.options.images == {"vllm": {"": "vllm/vllm-openai:v1"}}


def test_an_image_is_its_own_engines_whatever_the_default_is() -> None:
    found = chosen({"inference-image": "ghcr.io/huggingface/text-generation-inference:3"}, default_engine="vllm")
    assert (found.engine, list(found.options.images)) == ("vllm", ["tgi"])
    found = chosen({"inference-image": "registry.local/our-own:3"}, default_engine="vllm")
    assert (found.engine, list(found.options.images)) == ("vllm", ["vllm"])


def test_an_image_for_one_slice_stands_beside_the_one_for_all() -> None:
    found = chosen({"inference-image": "tgi:2"}, server_images=(("tgi/nebuly", "tgi:1"), ("vllm", "v:3")))
    assert found.options.images == {"tgi": {"nebuly": "tgi:1", "": "tgi:2"}, "vllm": {"": "v:3"}}


def test_a_catalogue_names_models_on_other_machines() -> None:
    found = chosen({"catalogue": "models:\n  tiny: {path: /models/tiny.gguf, image: local/tiny:1, weights: 3MiB}\n"})
    assert found.catalogue is not None
    entry = found.catalogue.entries["tiny"]
    assert (entry.path, entry.image) == (Path("/models/tiny.gguf"), "local/tiny:1")
    assert "demo" not in found.catalogue.entries


def test_settings_become_options() -> None:
    options = chosen(
        cpu_slices=(Share(2, 2 << 30, 1.5), Share(1, 8 << 30)),
        tolerations=("gpu", "gpu=yes:NoSchedule", "team:NoExecute"),
        weights_volume="claim:models:ro",
        launch_pending=3,
        mps_host_ipc=False,
    ).options
    assert options.cpu_shares == (CpuShare(2048, 1500, 2), CpuShare(8192, 2000, 1))
    assert options.tolerations == (
        Toleration("gpu", "Exists"),
        Toleration("gpu", "Equal", "yes", "NoSchedule"),
        Toleration("team", "Exists", "", "NoExecute"),
    )
    assert options.weights == Weights(kind=VolumeKind.CLAIM, source="models", read_only=True)
    assert (options.launch_pending, options.host_ipc) == (3, False)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("emptyDir", Weights()),
        ("emptyDir:100GiB", Weights(limit_mib=102_400)),
        ("hostPath:/srv/models", Weights(kind=VolumeKind.HOST, source="/srv/models")),
        ("claim:models", Weights(kind=VolumeKind.CLAIM, source="models")),
    ],
)
def test_volumes_for_weights(text: str, weights: Weights) -> None:
    assert chosen(weights_volume=text).options.weights == weights


@pytest.mark.parametrize(
    ("edited", "says"),
    [
        ({"gpu-resource-confg": "x"}, r"no key `gpu-resource-confg`.*gpu-resource-config"),
        ({"service-namespace": "default"}, "service-namespace: servers are in nthulab"),
        ({"inference-image": "two words"}, "inference-image: 'two words'"),
        ({"gpu-resource-config": "nvidia.com/gpu, nvidia.com/mig-1g.5gb"}, "gpu-resource-config"),
        ({"mps-active-thread-percentage-config": "4gb: 120"}, "4gb: 120 is no percentage"),
        ({"mps-active-thread-percentage-config": "4gb"}, "write lines like"),
        ({"mps-active-thread-percentage-config": "{"}, "it is not YAML"),
        ({"catalogue": "models:\n  tiny: {pth: /x}\n"}, "catalogue"),
        ({"catalogue": "models:\n  tiny: {path: /x, engine: nobodys}\n"}, "nobodys"),
    ],
)
def test_a_bad_edit_is_refused_with_its_key(edited: dict[str, str], says: str) -> None:
    with pytest.raises(BadFile, match=says):
        chosen(edited)


@pytest.mark.parametrize(
    "settings",
    [
        {"default_engine": "nobodys"},
        {"server_images": (("tgi/huge", "x:1"),)},
        {"server_images": (("tgi", "two words"),)},
        {"server_uids": (("mig", "root"),)},
        {"tolerations": ("gpu:Whenever",)},
        {"weights_volume": "nfs:there"},
        {"weights_volume": "emptyDir:much"},
        {"weights_volume": "hostPath:relative"},
    ],
)
def test_a_bad_setting_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadFile):
        chosen(**settings)
