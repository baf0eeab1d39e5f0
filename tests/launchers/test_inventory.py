from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.core.slices import Host, Pool, Slice, SliceKind, cpu_slice, parse_resource
from ssis_dispatcher.files import BadFile
from ssis_dispatcher.launchers.inventory import (
    dump_inventory,
    load_inventory,
    parse_cluster,
    parse_inventory,
    shipped_inventories,
)


def test_the_packaged_a100_has_the_five_slices_of_the_readme() -> None:
    pools = load_inventory("a100-40")
    assert [(pool.slice.name, pool.slice.memory_mib) for pool in pools] == [
        ("nvidia.com/mig-1g.5gb", 4864),
        ("nvidia.com/mig-2g.10gb", 9856),
        ("nvidia.com/mig-3g.20gb", 19968),
        ("nvidia.com/mig-4g.20gb", 19968),
        ("nvidia.com/mig-7g.40gb", 40192),
    ]
    assert {pool.node for pool in pools} == {"a100"}


def test_the_packaged_mps_node_never_promises_more_than_its_eight_cards() -> None:
    pools = load_inventory("nebuly-mps")
    assert {pool.slice.kind for pool in pools} == {SliceKind.MPS}
    assert {pool.slice.name for pool in pools} >= {"nvidia.com/gpu-1gb", "nvidia.com/gpu-32gb"}
    assert sum(pool.total * pool.slice.memory_mib for pool in pools) <= 8 * 32768


def test_the_packaged_fleet_has_twenty_nodes_of_three_cards_cut_and_whole() -> None:
    pools = load_inventory("mixed-fleet")
    assert len({pool.node for pool in pools}) == 20
    whole = {pool.slice.memory_mib for pool in pools if pool.slice.kind is SliceKind.GPU}
    assert whole == {81920, 81559, 143771}
    assert {pool.slice.kind for pool in pools} == {SliceKind.GPU, SliceKind.MIG}
    for node in {pool.node for pool in pools}:
        cards = sum(pool.total * pool.slice.compute for pool in pools if pool.node == node)
        assert cards <= 8


@pytest.mark.parametrize("name", shipped_inventories())
def test_a_packaged_inventory_survives_being_written_and_read(name: str) -> None:
    pools = load_inventory(name)
    assert parse_inventory(dump_inventory(pools)) == pools


def test_a_file_says_more_than_a_name_where_it_must(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(
        """
nodes:
  - name: a
    count: 2
    labels: {nvidia.com/gpu.product: NVIDIA-A100-SXM4-40GB, nvidia.com/gpu.memory: 40960, nvidia.com/mps.capable: true}
    resources:
      nvidia.com/gpu: 3
      nvidia.com/mig-3g.20gb: {total: 2, taken: 1, memory_mib: 19000, compute: 3/7}
  - name: b.example
    resources:
      example.com/big: {total: 1, kind: gpu, memory_mib: 81559}
      cpu-2gib: {total: 4, compute: 0.25}
  - name: empty
"""
    )
    third = Slice(19000, 3 / 7, "nvidia.com/mig-3g.20gb", SliceKind.MIG, source="setting")
    whole = Slice(40960, 1.0, "nvidia.com/gpu", SliceKind.GPU, source="label")
    assert load_inventory(file) == (
        Pool("a-1", whole, 3),
        Pool("a-1", third, 2, 1),
        Pool("a-2", whole, 3),
        Pool("a-2", third, 2, 1),
        Pool("b.example", Slice(81559, 1.0, "example.com/big", SliceKind.GPU, source="setting"), 1),
        Pool("b.example", Slice(2048, 0.25, "cpu-2gib", SliceKind.CPU), 4),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "f.yaml: expected a mapping of names to values, not nothing"),
        ("[1]", "f.yaml: expected a mapping of names to values, not a list"),
        ("nodes: {}", "f.yaml: `nodes` must be a list"),
        ("node: []", "f.yaml: unknown key `node`. Did you mean `nodes`?"),
        ("nodes:\n- name: a\n  name: b", "f.yaml:3: `name` occurs twice"),
        ("nodes:\n- &x {name: a}\n- *x", "f.yaml:3: aliases (*name) are not supported here"),
        ("nodes:\n- {name: a, {b: 1}: 2}", "f.yaml:2: a key must be plain text"),
        ("nodes:\n  - name: [", "f.yaml:2: "),
        ("nodes: [{}]", "f.yaml: nodes[0]: `name` must be a node name"),
        ("nodes: [{name: ../x}]", "not '../x'"),
        ("nodes: [{name: a, 5: x}]", "the key 5 must be text"),
        ("nodes: [{name: a}, {name: a}]", "f.yaml: nodes[1]: there is another node `a`"),
        ("nodes: [{name: a, resource: {}}]", "f.yaml: nodes[0]: unknown key `resource`. Did you mean `resources`?"),
        ("nodes: [{name: a, host: {cpus: 4}}]", "(a), host: Object missing required field memory_mib"),
        ("nodes: [{name: a, host: {cpu: 4, memory_mib: 1}}]", "(a), host: unknown key `cpu`. Did you mean `cpus`?"),
        ("nodes: [{name: a, host: {cpus: .nan, memory_mib: 1}}]", "(a), host, cpus: cannot be nan"),
        ("nodes: [{name: a, host: {cpus: -1, memory_mib: 1}}]", "(a), host, cpus: cannot be -1"),
        ("nodes: [{name: a, host: {cpus: 1, memory_mib: -1}}]", "what is free must be between 0 and what there is"),
        ("nodes: [{name: a, host: {cpus: 1, memory_mib: 1, free_cpus: 2}}]", "what is free must be between 0"),
        ("nodes: [{name: a, host: 64}]", "(a), host: expected a mapping of names to values"),
        ("nodes: [{name: a, count: 0}]", "f.yaml: nodes[0] (a), count: must be between 1 and 10000"),
        ("nodes: [{name: a, count: many}]", "f.yaml: nodes[0] (a), count: expected int, got str"),
        ("nodes: [{name: a, count: 9999}, {name: b, count: 9999}]", "more than 10000 nodes"),
        ("nodes: [{name: a, resources: {nvidia.com/gpu: two}}]", "(a), nvidia.com/gpu: expected int, got str at total"),
        ("nodes: [{name: a, resources: {nvidia.com/gpu: true}}]", "expected int, got bool"),
        ("nodes: [{name: a, resources: {nvidia.com/gpu: -1}}]", "`taken` (0) must be between 0 and `total` (-1)"),
        ("nodes: [{name: a, resources: {nvidia.com/gpu: {total: 1, taken: 2}}}]", "`taken` (2) must be between"),
        ("nodes: [{name: a, resources: {nvidia.com/gpu: {totl: 1}}}]", "unknown key `totl`. Did you mean `total`?"),
        ("nodes: [{name: a, resources: {nvidia.com/gpu: {taken: 1}}}]", "missing required field total"),
        ("nodes: [{name: a, resources: {nvidia.com/mig-1g: 1}}]", "this name tells no size: give `kind`"),
        ("nodes: [{name: a, resources: {x y: 1}}]", "this is not a resource name"),
        ("nodes: [{name: a, resources: {x: {total: 1, kind: tpu, memory_mib: 1}}}]", "Invalid enum value 'tpu'"),
        ("nodes: [{name: a, resources: {cpu-1gib: {total: 1, memory_mib: -1}}}]", "`memory_mib` cannot be -1"),
        ("nodes: [{name: a, resources: {cpu-1gib: {total: 1, compute: 3/0}}}]", "a share between 0 and 1"),
        ("nodes: [{name: a, resources: {cpu-1gib: {total: 1, compute: 2}}}]", "a share between 0 and 1"),
        ("nodes: [{name: a, resources: {cpu-1gib: {total: 1, compute: .nan}}}]", "a share between 0 and 1"),
        ("nodes: " + "[" * 5000, "f.yaml: "),
        ("!!python/object/apply:os.system [id]", "f.yaml:1: could not determine a constructor"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, words: str) -> None:
    with pytest.raises(BadFile) as caught:
        parse_inventory(text, "f.yaml")
    assert words in str(caught.value)
    assert "f.yaml" in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"no inventory of this name is shipped\. Did you mean `mixed-fleet`"):
        load_inventory("mixedfleet")
    with pytest.raises(BadFile, match="Is a directory"):
        load_inventory(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"\x00\xff\xfe")
    with pytest.raises(BadFile, match="not UTF-8 text"):
        load_inventory(file)
    file.write_bytes(b"#" * (5 << 20))
    with pytest.raises(BadFile, match="larger than 4 MiB"):
        load_inventory(file)


def test_two_sizes_under_one_name_on_one_node_survive() -> None:
    pools = tuple(Pool("a", Slice(size, 1.0, "nvidia.com/gpu", SliceKind.GPU, source="device"), 1) for size in (7, 9))
    assert parse_inventory(dump_inventory(pools)) == pools


def test_a_pool_that_its_name_tells_all_about_is_written_as_a_number() -> None:
    slice = parse_resource("nvidia.com/mig-1g.5gb")
    assert slice is not None
    assert dump_inventory([Pool("a", slice, 7)]).endswith("nvidia.com/mig-1g.5gb: 7\n")


SLICES = st.builds(
    Slice,
    memory_mib=st.integers(0, 1 << 30),
    compute=st.floats(0, 1),
    name=st.sampled_from(["nvidia.com/gpu", "nvidia.com/mig-1g.5gb", "example.com/x.y", "cpu-1gib"]),
    kind=st.sampled_from(SliceKind),
    shared=st.booleans(),
    source=st.sampled_from(["label", "device", "table", "name", "setting", "unknown"]),
)


@given(st.lists(st.tuples(SLICES, st.integers(0, 99), st.integers(0, 9)), max_size=6))
def test_whatever_there_is_survives_being_written_and_read(rows: list[tuple[Slice, int, int]]) -> None:
    rows.sort(key=lambda row: row[0].name)
    pools = tuple(Pool("n", slice, total + taken, taken) for slice, total, taken in rows)
    assert parse_inventory(dump_inventory(pools)) == pools


HOSTS = st.tuples(st.integers(0, 99_999), st.integers(0, 1 << 30), st.integers(0, 99_999), st.integers(0, 1 << 30))


@given(st.dictionaries(st.sampled_from("abc"), HOSTS), st.sets(st.sampled_from("abd")))
def test_cpu_and_memory_of_nodes_survive(numbers: dict[str, tuple[int, int, int, int]], slices: set[str]) -> None:
    pools = tuple(Pool(node, cpu_slice(2048, 0.25), 3) for node in sorted(slices))
    hosts = {
        Host(node, cpu, mib, cpu + more_cpu, mib + more_mib) for node, (cpu, mib, more_cpu, more_mib) in numbers.items()
    }
    hosts |= {Host("free", 1500, 4096)}
    found = parse_cluster(dump_inventory(pools, hosts))
    assert found.pools == pools
    assert set(found.hosts) == hosts


def test_what_a_node_has_beside_its_slices_is_read_for_each_of_its_kind() -> None:
    text = """
nodes:
  - name: a
    count: 2
    host: {cpus: 64, memory_mib: 524288, free_cpus: 12.5}
    resources: {nvidia.com/gpu-4gb: 2}
  - name: b
    host: {cpus: 8, memory_mib: 1024}
"""
    assert parse_cluster(text).hosts == (
        Host("a-1", 12_500, 524_288, 64_000, 524_288),
        Host("a-2", 12_500, 524_288, 64_000, 524_288),
        Host("b", 8_000, 1_024),
    )


def test_shares_of_ram_survive() -> None:
    pools = (Pool("here", cpu_slice(2048, 0.25), 3), Pool("here", cpu_slice(700, 1 / 3), 1))
    assert parse_inventory(dump_inventory(pools)) == pools
