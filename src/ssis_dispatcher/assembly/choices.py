"""The operator's choices for a cluster: the settings, and the ConfigMap ``dispatcher-config`` on top, as launcher options.

The ConfigMap has the original program's keys as they were, and ours. It is read again whenever it is edited. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec
import yaml

from ssis_dispatcher.engines import images
from ssis_dispatcher.files import BadFile, suggestion
from ssis_dispatcher.launchers.knative.options import (
    CpuShare,
    HostRule,
    KnativeOptions,
    Toleration,
    VolumeKind,
    Weights,
)
from ssis_dispatcher.models import catalogue
from ssis_dispatcher.models.catalogue import Catalogue
from ssis_dispatcher.settings import Settings

FALLBACK_ENGINE = "tgi"
"""The original's: what runs a model of which nobody says otherwise."""

_SERVICE_NAMESPACE = "service-namespace"
_INFERENCE_IMAGE = "inference-image"
_GPU_RESOURCES = "gpu-resource-config"
_MPS_THREADS = "mps-active-thread-percentage-config"
_CATALOGUE = "catalogue"
KEYS = (_SERVICE_NAMESPACE, _INFERENCE_IMAGE, _GPU_RESOURCES, _MPS_THREADS, _CATALOGUE)
"""Of the ConfigMap."""

_RESOURCE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_SLICES = ("", "cpu", "mig", "mps", images.NEBULY, "gpu")


class Choices(msgspec.Struct, frozen=True):
    """What counts now. ``engine`` runs models of which nobody says otherwise."""

    options: KnativeOptions
    engine: str
    catalogue: Catalogue | None = None
    """That of the ConfigMap; None where it has none."""


def choices(settings: Settings, edited: Mapping[str, str] | None, engines: Iterable[str]) -> Choices:
    """``edited`` is the data of the ConfigMap, None where there is none; ``engines`` are those there are. Raises `BadFile`
    that names the key or the setting."""
    data = {key: value for key, value in (edited or {}).items() if value.strip()}
    for key in data:
        if key not in KEYS:
            raise BadFile(f"dispatcher-config: there is no key `{key}`.{suggestion(key, KEYS)}")
    _check_namespace(data.get(_SERVICE_NAMESPACE), settings.namespace)
    image = _image(data.get(_INFERENCE_IMAGE), settings.inference_image)
    named = images.engine_of(image) if image else ""
    engine = settings.default_engine or named or FALLBACK_ENGINE
    if engine not in engines:
        raise BadFile(f"default_engine: there is no engine {engine!r}; there are {', '.join(sorted(engines))}")
    table = _images(settings.server_images)
    if image:
        # For every slice but those that have an image of their own: the original has one image for all.
        table.setdefault(named or engine, {}).setdefault("", image)
    options = KnativeOptions(
        namespace=settings.namespace,
        resources=_resources(data.get(_GPU_RESOURCES), settings.gpu_resources),
        images=table,
        uids=_uids(settings.server_uids),
        env=settings.server_env,
        labels=settings.server_labels,
        token_secret=settings.token_secret,
        pull_secrets=settings.pull_secrets,
        service_account=settings.server_account or "",
        runtime_class=settings.runtime_class or "",
        tolerations=tuple(_toleration(text) for text in settings.tolerations),
        has_toleration_plugin=settings.toleration_plugin,
        pins_nodes=settings.pin_nodes,
        host=HostRule(cpu_millis=round(settings.server_cpu * 1000), weights_share=settings.server_memory_share),
        cpu_shares=_cpu_shares(settings),
        weights=_weights(settings.weights_volume),
        shm_mib=settings.shared_memory >> 20,
        host_ipc=settings.mps_host_ipc,
        mounts_mps_pipe=settings.mps_mount_pipe,
        mps_threads=_threads(data.get(_MPS_THREADS), settings.mps_threads),
        launch_pending=settings.launch_pending,
    )
    written = data.get(_CATALOGUE)
    found = catalogue.parse(written, f"dispatcher-config, {_CATALOGUE}", tuple(engines)) if written else None
    return Choices(options, engine, found)


def _check_namespace(written: str | None, namespace: str) -> None:
    if written is not None and written.strip() != namespace:
        raise BadFile(
            f"{_SERVICE_NAMESPACE}: servers are in {namespace}, where the dispatcher may make them. Another namespace needs "
            "another deployment of it (`make deploy NAMESPACE=…`)."
        )


def _image(written: str | None, setting: str | None) -> str:
    image = (written or setting or "").strip()
    if image and not _IMAGE.fullmatch(image):
        raise BadFile(f"{_INFERENCE_IMAGE}: {image!r} is no image's name")
    return image


def _images(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = {}
    for key, image in pairs:
        engine, _, slice = key.partition("/")
        _check_slice(slice, "server_images")
        if not _IMAGE.fullmatch(image):
            raise BadFile(f"server_images, {key}: {image!r} is no image's name")
        table.setdefault(engine, {})[slice] = image
    return table


def _check_slice(slice: str, where: str) -> None:
    if slice not in _SLICES:
        raise BadFile(f"{where}: {slice!r} is no kind of slice; there are {', '.join(_SLICES[1:])}")


def _uids(pairs: Iterable[tuple[str, str]]) -> dict[str, int | None]:
    uids: dict[str, int | None] = {}
    for slice, written in pairs:
        _check_slice(slice, "server_uids")
        if written != "none" and not (written.isascii() and written.isdecimal()):
            raise BadFile(
                f"server_uids, {slice}: {written!r} is no user id; write a number, or `none` for the image's user"
            )
        uids[slice] = None if written == "none" else int(written)
    return uids


def _resources(written: str | None, setting: tuple[str, ...]) -> tuple[str, ...]:
    """One name a line; `#` begins a comment, and the hyphen of a YAML list may stand before a name."""
    if written is None:
        return setting
    lines = (line.partition("#")[0].strip().removeprefix("- ").strip("'\" ") for line in written.splitlines())
    names = tuple(dict.fromkeys(line for line in lines if line))
    for name in names:
        if not _RESOURCE.fullmatch(name):
            raise BadFile(f"{_GPU_RESOURCES}: {name!r} is no resource name; write one a line, as nvidia.com/mig-1g.5gb")
    return names


def _threads(written: str | None, setting: Iterable[tuple[str, str]]) -> dict[str, int]:
    """``1gb: 3`` a line, or pairs. Names may be those of whole resources (``nvidia.com/gpu-1gb``)."""
    table: dict[str, object] = dict(setting)
    if written is not None:
        try:
            data = yaml.safe_load(written)
        except yaml.YAMLError as error:
            raise BadFile(f"{_MPS_THREADS}: it is not YAML: {str(error).splitlines()[0]}") from None
        if not isinstance(data, dict):
            raise BadFile(f"{_MPS_THREADS}: write lines like `4gb: 12`")
        table = data
    found: dict[str, int] = {}
    for size, share in table.items():
        digits = str(share).strip()
        if not digits.isdecimal() or not 1 <= int(digits) <= 100:
            raise BadFile(f"{_MPS_THREADS}, {size}: {share!r} is no percentage from 1 to 100")
        found[str(size).strip().rpartition("-")[2]] = int(digits)
    return found


def _toleration(text: str) -> Toleration:
    """``key=value:Effect``, ``key:Effect`` or ``key``."""
    taint, colon, effect = text.rpartition(":")
    if not colon:
        taint, effect = text, ""
    if effect and effect not in _EFFECTS:
        raise BadFile(f"tolerations: {effect!r} is no effect of a taint; there are {', '.join(_EFFECTS)}")
    key, equals, value = taint.partition("=")
    return Toleration(key, "Equal" if equals else "Exists", value, effect)


def _cpu_shares(settings: Settings) -> tuple[CpuShare, ...]:
    shares = []
    for share in settings.cpu_slices:
        cores = share.cores if share.cores is not None else max(0.5, share.memory / (4 << 30))
        shares.append(CpuShare(share.memory >> 20, round(cores * 1000), share.count))
    return tuple(shares)


def _weights(text: str) -> Weights:
    kind, _, rest = text.partition(":")
    if kind == "emptyDir":
        return Weights(limit_mib=_mib(rest)) if rest else Weights()
    if kind == "hostPath" and rest.startswith("/"):
        return Weights(kind=VolumeKind.HOST, source=rest)
    name, _, mode = rest.partition(":")
    if kind == "claim" and name and mode in ("", "ro"):
        return Weights(kind=VolumeKind.CLAIM, source=name, read_only=mode == "ro")
    raise BadFile(f"weights_volume: {text!r} is none of emptyDir[:SIZE], hostPath:/FOLDER, claim:NAME[:ro]")


def _mib(text: str) -> int:
    match = re.fullmatch(r"(\d{1,7})(MiB|GiB|TiB)", text)
    if match is None:
        raise BadFile(f"weights_volume: {text!r} is no size; write it as 100GiB")
    return int(match[1]) * {"MiB": 1, "GiB": 1024, "TiB": 1024**2}[match[2]]
