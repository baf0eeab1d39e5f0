"""Inventories as YAML files: what a cluster has, written down.

For plans, simulation and tests without a GPU, and for operators who know better than their nodes' labels::

    nodes:
      - name: a100                       # with `count`, the nodes are a100-1 … a100-4
        count: 4
        labels:                          # optional: the node's labels, from which sizes are read
          nvidia.com/gpu.product: NVIDIA-A100-SXM4-40GB
        host:                            # optional: what servers share beside the slices; left out, it is enough for all
          {cpus: 64, memory_mib: 524288, free_cpus: 12.5, free_memory_mib: 131072}
        resources:
          nvidia.com/mig-1g.5gb: 7       # how many slices there are
          nvidia.com/mig-3g.20gb:        # … or with more to say
            total: 2
            taken: 1                     # held by others
            memory_mib: 19968            # instead of what labels, table and name tell
            compute: 3/7                 # share of one device (of all cores for cpu slices)
          example.com/big-gpu:           # a name that tells nothing needs all of this
            {total: 1, kind: gpu, memory_mib: 81559, compute: 1}

`dump_inventory` writes the same format, and what it writes reads back as the same pools and hosts. Called by launchers, the
command line and the assembly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import msgspec
import yaml

from ssis_dispatcher.core.slices import Host, Pool, Slice, SliceKind, parse_resource
from ssis_dispatcher.files import BadFile, as_table, as_type, load, parse_yaml, suggestion

_NODE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_RESOURCE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9./_-]{0,251}[A-Za-z0-9])?")
_MOST_NODES = 10_000


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One resource of one node, as it is written."""

    total: int
    taken: int = 0
    memory_mib: int | None = None
    compute: int | float | str | None = None
    kind: SliceKind | None = None
    shared: bool | None = None
    source: str | None = None


class _Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CPU and memory of a node, as they are written. What is free is all, unless it is said."""

    cpus: int | float
    memory_mib: int
    free_cpus: int | float | None = None
    free_memory_mib: int | None = None


class Cluster(msgspec.Struct, frozen=True):
    """All that an inventory says. Nodes that are not among ``hosts`` have as much CPU and memory as anybody asks."""

    pools: tuple[Pool, ...]
    hosts: tuple[Host, ...] = ()


def load_inventory(name_or_path: str | Path) -> tuple[Pool, ...]:
    """The slices of `load_cluster`."""
    return load_cluster(name_or_path).pools


def load_cluster(name_or_path: str | Path) -> Cluster:
    """The inventory that is shipped under this name (`shipped_inventories`), else the one in this file.

    Raises `BadFile` that names the file and the field.
    """
    name = str(name_or_path)
    if name in shipped_inventories():
        return parse_cluster((_folder() / f"{name}.yaml").read_text(encoding="utf-8"), f"{name}.yaml (shipped)")
    path = Path(name_or_path)
    if not path.exists():
        raise BadFile(f"{name}: there is no such file, and no inventory of this name is shipped.{_shipped_like(name)}")
    return _cluster(load(path), name)


def parse_inventory(text: str, file: str = "inventory") -> tuple[Pool, ...]:
    """The slices of `parse_cluster`."""
    return parse_cluster(text, file).pools


def parse_cluster(text: str, file: str = "inventory") -> Cluster:
    """What the YAML ``text`` describes; ``file`` is its name in errors. Raises `BadFile`."""
    return _cluster(parse_yaml(text, file), file)


def shipped_inventories() -> tuple[str, ...]:
    """Names of the inventories that are part of the package."""
    return tuple(sorted(entry.name[:-5] for entry in _folder().iterdir() if entry.name.endswith(".yaml")))


def dump_inventory(pools: Iterable[Pool], hosts: Iterable[Host] = ()) -> str:
    """``pools`` and ``hosts`` as YAML that `parse_cluster` reads back as the same, node by node."""
    nodes: dict[str, dict[str, list[object]]] = {}
    for pool in pools:
        nodes.setdefault(pool.node, {}).setdefault(pool.slice.name, []).append(_spec(pool))
    limits = {host.node: _host_spec(host) for host in hosts}
    described = []
    for name in [*nodes, *(name for name in limits if name not in nodes)]:
        node: dict[str, object] = {"name": name}
        if name in limits:
            node["host"] = limits[name]
        if name in nodes:
            node["resources"] = {key: specs if len(specs) > 1 else specs[0] for key, specs in nodes[name].items()}
        described.append(node)
    return yaml.safe_dump({"nodes": described}, sort_keys=False, allow_unicode=True, width=120)


def _cluster(data: object, file: str) -> Cluster:
    nodes = as_table(data, file, ("nodes",)).get("nodes")
    if not isinstance(nodes, list):
        raise BadFile(f"{file}: `nodes` must be a list, one entry per node or kind of node")
    pools: list[Pool] = []
    hosts: list[Host] = []
    names: set[str] = set()
    for index, node in enumerate(nodes):
        for name, host, slices in _node(node, f"{file}: nodes[{index}]"):
            if name in names:
                raise BadFile(f"{file}: nodes[{index}]: there is another node `{name}`")
            names.add(name)
            if len(names) > _MOST_NODES:
                raise BadFile(f"{file}: more than {_MOST_NODES} nodes")
            pools += [Pool(name, slice, total, taken) for slice, total, taken in slices]
            if host is not None:
                hosts.append(msgspec.structs.replace(host, node=name))
    return Cluster(tuple(pools), tuple(hosts))


def _node(node: object, where: str) -> Iterable[tuple[str, Host | None, list[tuple[Slice, int, int]]]]:
    """The nodes that one entry stands for, each with its CPU and memory, and its slices."""
    table = as_table(node, where, ("name", "count", "labels", "host", "resources"))
    name = table.get("name")
    if not isinstance(name, str) or not _NODE_NAME.fullmatch(name):
        raise BadFile(f"{where}: `name` must be a node name (letters, digits, `-` and `.`), not {name!r}")
    where = f"{where} ({name})"
    count = as_type(table.get("count", 1), int, f"{where}, count")
    if not 1 <= count <= _MOST_NODES:
        raise BadFile(f"{where}, count: must be between 1 and {_MOST_NODES}, not {count}")
    labels = {key: _label(value) for key, value in as_table(table.get("labels", {}), f"{where}, labels").items()}
    slices = [
        _resource(resource, spec, labels, f"{where}, {resource}")
        for resource, specs in as_table(table.get("resources", {}), f"{where}, resources").items()
        for spec in (specs if isinstance(specs, list) else [specs])
    ]
    host = _host(table["host"], f"{where}, host") if "host" in table else None
    names = [name] if "count" not in table else [f"{name}-{number}" for number in range(1, count + 1)]
    return ((name, host, slices) for name in names)


def _host(written: object, where: str) -> Host:
    as_table(written, where, _Host.__struct_fields__)
    spec = as_type(written, _Host, where)
    totals = _millis(spec.cpus, f"{where}, cpus"), spec.memory_mib
    free = (
        totals[0] if spec.free_cpus is None else _millis(spec.free_cpus, f"{where}, free_cpus"),
        totals[1] if spec.free_memory_mib is None else spec.free_memory_mib,
    )
    if not (0 <= free[0] <= totals[0] and 0 <= free[1] <= totals[1] < 1 << 40):
        raise BadFile(f"{where}: what is free must be between 0 and what there is")
    if (spec.free_cpus, spec.free_memory_mib) == (None, None):
        totals = (0, 0)  # all that is free
    return Host("", *free, *totals)


def _millis(cpus: float, where: str) -> int:
    if not 0 <= cpus < 1 << 20:
        raise BadFile(f"{where}: cannot be {cpus}")
    return round(cpus * 1000)


def _host_spec(host: Host) -> dict[str, float]:
    """How ``host`` is written."""
    free = {"cpus": _cpus(host.cpu_millis), "memory_mib": host.memory_mib}
    if not host.total_cpu_millis and not host.total_memory_mib:
        return free
    return {
        "cpus": _cpus(host.total_cpu_millis),
        "memory_mib": host.total_memory_mib,
        "free_cpus": free["cpus"],
        "free_memory_mib": free["memory_mib"],
    }


def _cpus(millis: int) -> float:
    return millis // 1000 if millis % 1000 == 0 else millis / 1000


def _resource(name: str, written: object, labels: Mapping[str, str], where: str) -> tuple[Slice, int, int]:
    """One resource of a node: its slice, how many there are, how many are taken."""
    if not _RESOURCE_NAME.fullmatch(name):
        raise BadFile(f"{where}: this is not a resource name")
    if isinstance(written, dict):
        as_table(written, where, _Spec.__struct_fields__)
    spec = as_type(written if isinstance(written, dict) else {"total": written}, _Spec, where)
    if not 0 <= spec.taken <= spec.total:
        raise BadFile(f"{where}: `taken` ({spec.taken}) must be between 0 and `total` ({spec.total})")
    return _slice(name, spec, labels, where), spec.total, spec.taken


def _slice(name: str, spec: _Spec, labels: Mapping[str, str], where: str) -> Slice:
    slice = parse_resource(name, labels)
    if slice is None:
        if spec.kind is None or spec.memory_mib is None:
            raise BadFile(f"{where}: this name tells no size: give `kind` (mig, mps, gpu or cpu) and `memory_mib`")
        slice = Slice(0, 1.0, name, spec.kind)
    changes: dict[str, object] = {}
    if spec.memory_mib is not None:
        if not 0 <= spec.memory_mib < 1 << 40:
            raise BadFile(f"{where}: `memory_mib` cannot be {spec.memory_mib}")
        changes = {"memory_mib": spec.memory_mib, "source": "setting"}
    if spec.compute is not None:
        changes["compute"] = _compute(spec.compute, where)
    changes |= {field: value for field in ("kind", "shared", "source") if (value := getattr(spec, field)) is not None}
    return msgspec.structs.replace(slice, **changes)


def _compute(written: int | float | str, where: str) -> float:
    """A share as a number or a fraction (``3/7``)."""
    try:
        share = float(Fraction(written)) if isinstance(written, str) else float(written)
    except (ValueError, ZeroDivisionError, OverflowError):
        share = -1.0
    if not 0 <= share <= 1:
        raise BadFile(f"{where}: `compute` must be a share between 0 and 1 (0.5, 3/7), not {written!r}")
    return share


def _spec(pool: Pool) -> object:
    """How ``pool`` is written: a number where its name tells the rest, else all of it."""
    slice = pool.slice
    spec: dict[str, object] = {"total": pool.total}
    if pool.taken:
        spec["taken"] = pool.taken
    if slice != parse_resource(slice.name):
        fraction = Fraction(slice.compute).limit_denominator(1000)
        spec["memory_mib"] = slice.memory_mib
        spec["compute"] = str(fraction) if float(fraction) == slice.compute else slice.compute
        spec["kind"] = str(slice.kind)
        if slice.shared:
            spec["shared"] = True
        spec["source"] = slice.source
    return spec if len(spec) > 1 else pool.total


def _label(value: object) -> str:
    """A label's value as Kubernetes would have it: text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _folder() -> Traversable:
    return files("ssis_dispatcher") / "data" / "inventories"


def _shipped_like(name: str) -> str:
    return suggestion(name, shipped_inventories())
