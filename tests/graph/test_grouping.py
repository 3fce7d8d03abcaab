"""The partition against a graph library: hulls are exact, and the order stays topological while groups merge."""

from __future__ import annotations

import rustworkx
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.graph.fusion import grouping as module
from worklode.graph.fusion.grouping import Grouping


@st.composite
def dags(draw: st.DrawFn) -> list[set[int]]:
    """Predecessors of each of up to 20 nodes."""
    count = draw(st.integers(2, 20))
    return [set(draw(st.lists(st.integers(0, i - 1), max_size=3))) if i else set() for i in range(count)]


def contracted(grouping: Grouping, predecessors: list[set[int]]) -> rustworkx.PyDiGraph[int, None]:
    graph: rustworkx.PyDiGraph[int, None] = rustworkx.PyDiGraph(multigraph=False)
    graph.add_nodes_from(list(range(len(predecessors))))
    for node, found in enumerate(predecessors):
        for before in found:
            one, other = grouping.find(before), grouping.find(node)
            if one != other:
                graph.add_edge(one, other, None)
    return graph


def slow_hull(graph: rustworkx.PyDiGraph[int, None], seeds: set[int]) -> set[int]:
    """Groups that are after one seed and before one."""
    after = set().union(*(rustworkx.descendants(graph, seed) for seed in seeds))
    before = set().union(*(rustworkx.ancestors(graph, seed) for seed in seeds))
    return (after & before) - seeds


@settings(max_examples=200, deadline=None)
@given(predecessors=dags(), data=st.data())
def test_hulls_and_order(predecessors: list[set[int]], data: st.DataObject) -> None:
    grouping = Grouping(predecessors)
    for _ in range(len(predecessors)):
        groups = sorted(grouping.members)
        if len(groups) < 2:
            break
        seeds = set(data.draw(st.lists(st.sampled_from(groups), min_size=2, max_size=3, unique=True)))
        between, preceding = grouping.hull(seeds)
        assert between == slow_hull(contracted(grouping, predecessors), seeds)
        assert not between & set(preceding)
        grouping.merge(seeds | between, preceding)
        check(grouping, predecessors)


def check(grouping: Grouping, predecessors: list[set[int]]) -> None:
    order = grouping.in_order()
    place = {group: position for position, group in enumerate(order)}
    assert sorted(order) == sorted({grouping.find(node) for node in range(len(predecessors))})
    for node, found in enumerate(predecessors):
        for before in found:
            one, other = grouping.find(before), grouping.find(node)
            assert one == other or place[one] < place[other]
            assert one == other or (one in grouping.sources[other] and other in grouping.targets[one])
    for group, members in grouping.members.items():
        assert members == sorted(members)
        assert all(grouping.find(member) == group for member in members)
        assert all(grouping.find(source) == source for source in grouping.sources[group] | grouping.targets[group])


def test_labels_are_renumbered_when_they_run_out(monkeypatch: object) -> None:
    """With a large least gap every move renumbers; the order must not care."""
    predecessors: list[set[int]] = [set(), set(), set(), {0, 2}, {1, 3}, {0, 4}]
    for gap in (1e-6, 0.9):
        module.LEAST_GAP, before = gap, module.LEAST_GAP
        try:
            grouping = Grouping(predecessors)
            for seeds in ({0, 3}, {1, 4}):
                between, preceding = grouping.hull(seeds)
                if not between:
                    grouping.merge(seeds, preceding)
                check(grouping, predecessors)
        finally:
            module.LEAST_GAP = before
