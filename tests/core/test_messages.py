"""News of an inventory."""

from __future__ import annotations

from ssis_dispatcher.core.messages import InventoryChanged
from ssis_dispatcher.core.slices import Host, Pool, cpu_slice

SMALL, LARGE = cpu_slice(1024), cpu_slice(4096)


def told(pools: dict[str, int], **cpus: int) -> InventoryChanged:
    found = tuple(Pool(node, slice, 4, taken) for node, taken in pools.items() for slice in (SMALL, LARGE))
    return InventoryChanged("test", found, tuple(Host(node, cpu, 1024) for node, cpu in cpus.items()))


def test_news_are_of_the_nodes_that_have_changed_and_whole_for_those() -> None:
    before = told({"a": 0, "b": 0, "c": 0}, a=1000, b=1000, c=1000)
    news = told({"a": 0, "b": 1, "d": 0}, a=1000, b=1000, d=1000).since(before)
    assert news.nodes == ("b", "c", "d")
    assert [(pool.node, pool.slice, pool.taken) for pool in news.pools] == [
        ("b", SMALL, 1),
        ("b", LARGE, 1),
        ("d", SMALL, 0),
        ("d", LARGE, 0),
    ]
    assert [host.node for host in news.hosts] == ["b", "d"]


def test_a_node_whose_cpu_alone_has_changed_or_is_no_longer_told_is_news() -> None:
    before = told({"a": 0, "b": 0}, a=1000, b=1000)
    assert told({"a": 0, "b": 0}, a=500, b=1000).since(before).nodes == ("a",)
    news = told({"a": 0, "b": 0}, b=1000).since(before)
    assert (news.nodes, len(news.pools), news.hosts) == (("a",), 2, ())


def test_where_nothing_has_changed_there_are_none() -> None:
    before = told({"a": 0}, a=1000)
    assert before.since(before) == InventoryChanged("test", (), (), ())
