"""Collectives: closed forms, a simulator that moves every message, laws that hold for any group."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from math import ceil, log2
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.cost.collective import (
    NOTHING,
    CollectiveTimes,
    collective_times,
    communication_times,
    plan_time_s,
    plans_of,
)
from worklode.errors import SpecError
from worklode.graph.work import Collective, Communication
from worklode.hardware.network import Group, Level, Network, Span, Topology, group_of
from worklode.hardware.network_file import load_network, network_names

RATE, LATENCY_S, SIZE = 2e9, 3e-6, 1e8
SWITCH, RING = Topology.SWITCH, Topology.RING


def _simulator() -> ModuleType:
    path = Path(__file__).with_name("message_simulator.py")
    spec = importlib.util.spec_from_file_location("message_simulator", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["message_simulator"] = module
    spec.loader.exec_module(module)
    return module


simulate = _simulator()


def span(members: int, topology: Topology = SWITCH, **changes: object) -> Span:
    facts = {
        "level": "links",
        "members": members,
        "topology": topology,
        "closed": topology is RING,
        "bandwidth_bytes_per_s": RATE,
        "reduction_bytes_per_s": 0.0,
        "latency_s": LATENCY_S,
        "bulk_latency_s": LATENCY_S,
        "tree": False,
    }
    return Span(**{**facts, **changes})  # type: ignore[arg-type]


def group(*spans: Span, **library: float) -> Group:
    """A group on a network whose library adds nothing unless it is said."""
    return Group(network=Network(levels=(), **library), spans=spans)  # type: ignore[arg-type]


def time_s(on: Group, collective: Collective, size: float = SIZE) -> float:
    return float(collective_times(on, collective, size).time_s[0])


def by(name: str, on: Group, collective: Collective, size: float = SIZE) -> float:
    """Time of one algorithm, whether or not it is the fastest."""
    (plan,) = [plan for plan in plans_of(on, collective, np.array([size])) if plan.name == name]
    return float(plan_time_s(on.network, plan)[0])


# ---------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("devices", [2, 3, 8, 64])
def test_ring_on_a_switch(devices: int) -> None:
    once = (devices - 1) / devices * SIZE / RATE + (devices - 1) * LATENCY_S
    on = group(span(devices))
    assert time_s(on, Collective.ALL_GATHER) == pytest.approx(once)
    assert time_s(on, Collective.REDUCE_SCATTER) == pytest.approx(once)
    assert time_s(on, Collective.ALL_REDUCE) == pytest.approx(2 * once)
    assert collective_times(on, Collective.ALL_REDUCE, SIZE).names == ("ring",)


@pytest.mark.parametrize("devices", [4, 8, 64, 1000])
def test_a_tree_takes_over_where_latency_counts(devices: int) -> None:
    on = group(span(devices, tree=True))
    small, large = collective_times(on, Collective.ALL_REDUCE, [8.0, 1e12]).names
    assert (small, large) == ("tree", "ring")
    assert by("tree", on, Collective.ALL_REDUCE) == pytest.approx(2 * SIZE / RATE + 2 * ceil(log2(devices)) * LATENCY_S)
    assert by("tree", on, Collective.BROADCAST) == pytest.approx(SIZE / RATE + ceil(log2(devices)) * LATENCY_S)


def test_a_switch_that_adds_up_sends_the_tensor_once_and_a_part() -> None:
    on = group(span(8, reduction_bytes_per_s=RATE))
    assert by("in the switch", on, Collective.ALL_REDUCE) == pytest.approx((1 + 1 / 8) * SIZE / RATE + 2 * LATENCY_S)
    assert collective_times(on, Collective.ALL_REDUCE, SIZE).names == ("in the switch",)
    pair = group(span(2, reduction_bytes_per_s=RATE))
    assert collective_times(pair, Collective.ALL_REDUCE, SIZE).names == ("ring",)


def test_two_protocols_and_the_part_that_stays() -> None:
    library = {"start_s": 5e-6, "bulk_start_s": 2e-5, "eager_share": 0.5, "copy_bytes_per_s": 1e10}
    on = group(span(4, bulk_latency_s=2 * LATENCY_S), **library)
    steps, wire_s, kept_s = 3, 0.75 / RATE, 0.25 / 1e10
    small, large = collective_times(on, Collective.ALL_GATHER, [1e3, 1e9]).time_s
    assert small == pytest.approx(5e-6 + steps * LATENCY_S + 1e3 * (wire_s / 0.5 + kept_s))
    assert large == pytest.approx(5e-6 + 2e-5 + steps * 2 * LATENCY_S + 1e9 * (wire_s + kept_s))
    # Twice round fills the pipeline twice.
    assert time_s(on, Collective.ALL_REDUCE, 1e9) == pytest.approx(
        5e-6 + 4e-5 + 2 * steps * 2 * LATENCY_S + 1e9 * (2 * wire_s + kept_s)
    )


def test_a_message_between_neighbours() -> None:
    inner, outer = span(4, level="inner"), span(3, level="outer", bandwidth_bytes_per_s=RATE / 4)
    assert time_s(group(inner), Collective.POINT_TO_POINT) == pytest.approx(SIZE / RATE + LATENCY_S)
    assert time_s(group(inner, outer), Collective.POINT_TO_POINT) == pytest.approx(4 * SIZE / RATE + LATENCY_S)
    # One of a ring's two directions.
    assert time_s(group(span(4, RING)), Collective.POINT_TO_POINT) == pytest.approx(2 * SIZE / RATE + LATENCY_S)


def test_what_is_published_of_a_gather_on_a_tpu() -> None:
    """34 MB over 4 chips of TPUv5e in a line of 45 GB/s links: 560 us by the book's arithmetic (680 us measured).

    Source: jax-ml/scaling-book@0819a7d8, sharding.md.
    """
    line = span(4, RING, closed=False, bandwidth_bytes_per_s=90e9, latency_s=1e-6, bulk_latency_s=1e-6)
    assert time_s(group(line), Collective.ALL_GATHER, 34e6) == pytest.approx(560e-6, rel=0.03)


# ------------------------------------------------------------------------------------------------------- simulator


@pytest.mark.parametrize("devices", [2, 3, 4, 7, 8])
def test_one_level_message_by_message(devices: int) -> None:
    facts = (devices, SIZE, RATE, LATENCY_S)
    for passes, collective in ((1, Collective.ALL_GATHER), (2, Collective.ALL_REDUCE)):
        assert time_s(group(span(devices)), collective) == pytest.approx(simulate.ring_on_switch_s(*facts, passes))
        assert time_s(group(span(devices, RING)), collective) == pytest.approx(simulate.ring_on_ring_s(*facts, passes))
    line = group(span(devices, RING, closed=False))
    assert time_s(line, Collective.ALL_GATHER) == pytest.approx(simulate.gather_on_line_s(*facts))
    assert time_s(group(span(devices)), Collective.ALL_TO_ALL) == pytest.approx(simulate.exchange_on_switch_s(*facts))


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("devices", [2, 3, 4, 5, 8])
def test_all_to_all_on_a_ring_message_by_message(devices: int, closed: bool) -> None:
    """Links wait for messages now and then, up to a tenth; never less than the busiest link needs."""
    on = group(span(devices, RING, closed=closed, latency_s=0.0, bulk_latency_s=0.0))
    exact = simulate.exchange_on_ring_s(devices, SIZE, RATE, 0.0, closed=closed, pieces=6)
    assert time_s(on, Collective.ALL_TO_ALL) <= exact * (1 + 1e-9)
    assert time_s(on, Collective.ALL_TO_ALL) == pytest.approx(exact, rel=0.1)


def test_torus_message_by_message() -> None:
    for passes, collective in ((1, Collective.REDUCE_SCATTER), (2, Collective.ALL_REDUCE)):
        for rows, cols in ((2, 2), (4, 4), (4, 2), (3, 6)):
            # A dimension has half of a device's links.
            on = group(*(span(m, RING, bandwidth_bytes_per_s=RATE / 2) for m in (rows, cols)))
            exact = simulate.torus_s((rows, cols), SIZE, RATE, LATENCY_S, passes)
            assert by("bucket ring", on, collective) == pytest.approx(exact)


NODES = [(2, 2, 8e9, 1e9), (4, 4, 8e9, 1e9), (4, 4, 1e9, 1e9), (2, 8, 1e9, 5e8), (8, 2, 2e9, 4e9)]


@pytest.mark.parametrize(("nodes", "per_node", "inner", "outer"), NODES)
def test_nodes_message_by_message(nodes: int, per_node: int, inner: float, outer: float) -> None:
    system = simulate.Nodes(nodes, per_node, inner, outer, 1e-6, 5e-6)
    on = group(
        span(per_node, level="inner", bandwidth_bytes_per_s=inner, latency_s=1e-6, bulk_latency_s=1e-6),
        span(nodes, level="outer", bandwidth_bytes_per_s=outer, latency_s=5e-6, bulk_latency_s=5e-6),
    )
    exact = system.hierarchical_s(SIZE)
    assert by("hierarchical", on, Collective.ALL_REDUCE) == pytest.approx(exact)
    # A ring's messages meet others on the links of its slower level only: within a twentieth.
    for passes, collective in ((1, Collective.ALL_GATHER), (2, Collective.ALL_REDUCE)):
        assert by("ring", on, collective) == pytest.approx(system.ring_s(SIZE, passes), rel=0.05)


@pytest.mark.parametrize("devices", [4, 8, 16, 32])
def test_two_trees_message_by_message(devices: int) -> None:
    on = group(span(devices, tree=True))
    (plan,) = [p for p in plans_of(on, Collective.ALL_REDUCE, np.array([SIZE])) if p.name == "tree"]
    assert plan.wire_s[0] == pytest.approx(simulate.two_trees(devices, SIZE, RATE, LATENCY_S).busiest_s())
    assert plan.latency_s == pytest.approx(simulate.two_trees(devices, 1e-9, RATE, LATENCY_S).run())


# ------------------------------------------------------------------------------------------------------------- laws

counts = st.integers(2, 16)
rates = st.floats(1e8, 1e12)
latencies = st.floats(0.0, 1e-4)


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """Groups of up to three spans on up to two levels, with any library."""
    levels = draw(st.sampled_from([("a",), ("a", "b"), ("a", "a"), ("a", "a", "b")]))
    spans = []
    for level in levels:
        on_ring = level == "a" and levels.count("a") > 1
        topology = RING if on_ring else draw(st.sampled_from([SWITCH, RING] if level == "a" else [SWITCH]))
        rate, latency_s = draw(rates), draw(latencies)
        spans.append(
            span(
                draw(counts),
                topology,
                level=level,
                closed=topology is RING and draw(st.booleans()),
                bandwidth_bytes_per_s=rate,
                reduction_bytes_per_s=draw(st.sampled_from([0.0, rate / 2])),
                latency_s=latency_s,
                bulk_latency_s=latency_s * draw(st.floats(1.0, 5.0)),
                tree=topology is SWITCH and draw(st.booleans()),
            )
        )
    return group(
        *spans,
        start_s=draw(latencies),
        bulk_start_s=draw(latencies),
        eager_share=draw(st.floats(0.1, 1.0)),
        copy_bytes_per_s=draw(rates),
    )


collectives = st.sampled_from(list(Collective))


@settings(max_examples=200, deadline=None)
@given(groups(), collectives, st.floats(1.0, 1e11), st.floats(1.0, 4.0))
def test_time_never_falls_with_size_or_latency_nor_rises_with_bandwidth(
    on: Group, collective: Collective, size: float, factor: float
) -> None:
    def times(changed: Group, of: float = size) -> float:
        return time_s(changed, collective, of) * (1 + 1e-9)

    base = time_s(on, collective, size)
    assert times(on, size * factor) >= base
    for at, one in enumerate(on.spans):

        def other(new: Span, at: int = at) -> Group:
            return replace(on, spans=(*on.spans[:at], new, *on.spans[at + 1 :]))

        faster = replace(
            one,
            bandwidth_bytes_per_s=one.bandwidth_bytes_per_s * factor,
            reduction_bytes_per_s=one.reduction_bytes_per_s * factor,
        )
        slower = replace(one, latency_s=one.latency_s * factor, bulk_latency_s=one.bulk_latency_s * factor)
        assert time_s(other(faster), collective, size) <= base * (1 + 1e-9)
        assert times(other(slower)) >= base


@settings(max_examples=100, deadline=None)
@given(groups(), st.floats(1.0, 1e11))
def test_scatter_and_gather_make_a_reduction_where_the_library_adds_nothing(on: Group, size: float) -> None:
    bare = group(*on.spans)
    for plan in plans_of(bare, Collective.REDUCE_SCATTER, np.ones(1)):
        parts = by(plan.name, bare, Collective.REDUCE_SCATTER, size) + by(plan.name, bare, Collective.ALL_GATHER, size)
        assert by(plan.name, bare, Collective.ALL_REDUCE, size) == pytest.approx(parts)


@settings(max_examples=100, deadline=None)
@given(groups(), collectives, st.lists(st.floats(0.0, 1e11), min_size=1, max_size=6))
def test_many_sizes_at_once_are_each_alone_and_the_fastest_is_named(
    on: Group, collective: Collective, sizes: list[float]
) -> None:
    found: CollectiveTimes = collective_times(on, collective, sizes)
    for at, size in enumerate(sizes):
        assert found.time_s[at] == time_s(on, collective, size)
        if size == 0:
            assert (found.time_s[at], found.names[at]) == (0.0, NOTHING)
            continue
        plans = plans_of(on, collective, np.array([size]))
        alone = {plan.name: float(plan_time_s(on.network, plan)[0]) for plan in plans}
        assert alone[found.names[at]] == min(alone.values()) == found.time_s[at]


@settings(max_examples=100, deadline=None)
@given(groups(), st.floats(1.0, 1e11))
def test_no_all_reduce_beats_its_bytes(on: Group, size: float) -> None:
    """Every device sends at least (n - 1)/n of the tensor, however, over all its links together."""
    out = sum(s.bandwidth_bytes_per_s + s.reduction_bytes_per_s for s in on.spans)
    inside = on.devices // on.spans[-1].members
    assert time_s(on, Collective.ALL_REDUCE, size) >= size * (on.devices - 1) / on.devices / (out * max(1, inside))


# ------------------------------------------------------------------------------------------------- beside the others


@pytest.mark.parametrize("name", network_names())
def test_every_preset_runs_every_collective_on_every_axis(name: str) -> None:
    network = load_network(name)
    sizes = {"tensor": 4, "expert": 2, "data": 8, "pipeline": 4}
    for axis, size in sizes.items():
        on = group_of(network, sizes, axis)
        assert on.devices == size
        for collective in Collective:
            found = collective_times(on, collective, np.logspace(2, 11, 30))
            assert (np.diff(found.time_s) >= 0).all() and found.time_s[0] > 0
            # At most five times the bytes of a bus on the slowest link in use: nothing is off by orders.
            slowest = min(s.bandwidth_bytes_per_s for s in on.spans)
            assert 1e11 / 8 / (slowest * 32) < found.time_s[-1] < 5 * 1e11 / slowest


def test_a_group_of_one_sends_nothing() -> None:
    on = group_of(load_network("dgx-a100"), {"tensor": 1, "data": 8}, "tensor")
    found = collective_times(on, Collective.ALL_REDUCE, [1e6, 1e9])
    assert found.time_s.tolist() == [0.0, 0.0] and found.names == (NOTHING, NOTHING)


def test_communications_of_a_graph() -> None:
    network = load_network("dgx-h100")
    sizes = {"tensor": 8, "data": 4}
    chosen = {axis: group_of(network, sizes, axis) for axis in sizes}
    time_of = communication_times(chosen)
    asked = Communication(collective=Collective.ALL_REDUCE, bytes=2**26, axis="data", devices=4)
    assert time_of(asked) == time_s(chosen["data"], Collective.ALL_REDUCE, 2**26) == time_of(asked)
    with pytest.raises(SpecError, match=r"axis without a group.*allowed: tensor, data"):
        time_of(replace(asked, axis="expert"))
    with pytest.raises(SpecError, match=r"another number of devices.*allowed: 4 devices"):
        time_of(replace(asked, devices=5))


def test_tensor_groups_stay_in_the_node_and_data_groups_share_its_cards() -> None:
    """Selene, 8-way tensor and 16-way data: NVLink for one, one card for each member of the other."""
    network = load_network("selene")
    sizes = {"tensor": 8, "data": 16}
    inner, outer = network.levels
    (tensor,) = group_of(network, sizes, "tensor").spans
    (data,) = group_of(network, sizes, "data").spans
    assert tensor.bandwidth_bytes_per_s == inner.bandwidth_bytes_per_s * inner.sustained_share
    assert data.bandwidth_bytes_per_s == outer.bandwidth_bytes_per_s * outer.sustained_share
    large = 2e9
    assert time_s(group_of(network, sizes, "data"), Collective.ALL_REDUCE, large) == pytest.approx(
        2 * 15 / 16 * large / data.bandwidth_bytes_per_s, rel=0.05
    )


def test_levels_are_used() -> None:
    level = Level(
        name="x", devices=None, topology=SWITCH, bandwidth_bytes_per_s=RATE, burst_bytes_per_s=RATE, latency_s=LATENCY_S
    )
    network = Network(levels=(level,))
    on = group_of(network, {"data": 3}, "data")
    assert by("ring", on, Collective.ALL_GATHER) == pytest.approx(2 / 3 * SIZE / RATE + 2 * LATENCY_S, rel=1e-3)
