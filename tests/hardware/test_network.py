"""Networks: where the groups of a mesh lie, presets, files and their faults."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.errors import SpecError
from worklode.hardware import spec_file
from worklode.hardware.network import Level, Network, Topology, group_of
from worklode.hardware.network_file import NETWORKS_FOLDER, dump_network, load_network, network_names

# name: (bandwidth of a device [bytes/s], devices) of each level, published; sources beside the numbers in the files
PUBLISHED = {
    "aws-p6-b200": ((900e9, 8), (50e9, None)),
    "dgx-a100": ((300e9, 8), (25e9, None)),
    "dgx-b200": ((900e9, 8), (50e9, None)),
    "dgx-h100": ((450e9, 8), (50e9, None)),
    "hgx-h200": ((450e9, 8), (50e9, None)),
    "selene": ((300e9, 8), (25e9, None)),
    "tpuv2": ((248e9, 256), (6.25e9, None)),
    "tpuv3": ((280e9, 1024), (6.25e9, None)),
    "tpuv4": ((300e9, 4096), (6.25e9, None)),
    "vtrain-testbed": ((300e9, 8), (12.5e9, None)),
}


def level(name: str, devices: int | None, **changes: object) -> Level:
    facts: dict[str, object] = {
        "topology": Topology.SWITCH,
        "bandwidth_bytes_per_s": 1e9,
        "burst_bytes_per_s": 1e9,
        "latency_s": 1e-6,
        "bulk_latency_s": 2e-6,
    }
    return Level(name=name, devices=devices, **{**facts, **changes})  # type: ignore[arg-type]


def network(*levels: Level) -> Network:
    return Network(name="test", levels=levels)


# ---------------------------------------------------------------------------------------------------------- presets


def test_presets_are_as_published() -> None:
    assert network_names() == tuple(PUBLISHED)
    for name, levels in PUBLISHED.items():
        found = load_network(name)
        assert found.name == name
        assert tuple((one.bandwidth_bytes_per_s, one.devices) for one in found.levels) == levels, name
        assert all(0.5 < one.sustained_share <= 1 for one in found.levels)


def test_presets_are_read_without_parsing_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(data: bytes, where: str) -> object:
        raise AssertionError(f"{where} had to be parsed: run benchmarks/fit_network.py --write")

    monkeypatch.setattr(spec_file, "_parse", parse)
    for name in network_names():
        load_network(name)
    assert (NETWORKS_FOLDER / spec_file.PARSED_FILE).is_file()


@pytest.mark.parametrize("name", network_names())
def test_a_dumped_network_is_read_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(dump_network(load_network(name)))
    assert load_network(path) == load_network(name)


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean dgx-a100"):
        load_network("dgxa100")


# ----------------------------------------------------------------------------------------------------------- groups

NESTED = st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(NESTED, st.sampled_from([2, 4, 8]), st.sampled_from([1, 2, 4]), st.data())
def test_members_of_each_level_are_those_counted_one_by_one(
    sizes: list[int], per_node: int, per_rack: int, data: st.DataObject
) -> None:
    """The oracle numbers every device of the mesh and looks where the members of each group are."""
    mesh = {f"axis{at}": size for at, size in enumerate(sizes)}
    axis = data.draw(st.sampled_from(sorted(mesh)))
    levels = (level("node", per_node), level("rack", per_rack), level("hall", None))
    found = {span.level: span.members for span in group_of(network(*levels), mesh, axis).spans}
    position = list(mesh).index(axis)
    for others in product(*(range(size) for at, size in enumerate(sizes) if at != position)):
        members = []
        for along in range(sizes[position]):
            place = [*others[:position], along, *others[position:]]
            members.append(sum(at * prod(sizes[:axis_at]) for axis_at, at in enumerate(place)))
        nodes = {device // per_node for device in members}
        racks = {node // per_rack for node in nodes}
        counted = {"node": len(members) // len(nodes), "rack": len(nodes) // len(racks), "hall": len(racks)}
        assert {name: count for name, count in counted.items() if count > 1} == found


def test_a_torus_is_one_ring_for_each_dimension() -> None:
    torus = network(
        level("ici", 64, topology=Topology.TORUS, dimensions=(4, 4, 4), bandwidth_bytes_per_s=6e9), level("dcn", None)
    )
    mesh = {"tensor": 8, "data": 8, "pipeline": 3}
    line, part = group_of(torus, mesh, "tensor").spans
    assert (line.members, line.closed, part.members, part.closed) == (4, True, 2, False)
    assert line.bandwidth_bytes_per_s == part.bandwidth_bytes_per_s == 2e9
    # Rows two apart share the links of their columns and hop over one another.
    shared, whole = group_of(torus, mesh, "data").spans
    assert (shared.members, shared.closed, whole.members, whole.closed) == (2, True, 4, True)
    assert (shared.bandwidth_bytes_per_s, shared.latency_s) == (1e9, 2e-6)
    assert (whole.bandwidth_bytes_per_s, whole.latency_s) == (2e9, 1e-6)
    (between,) = group_of(torus, mesh, "pipeline").spans
    assert (between.level, between.members, between.topology) == ("dcn", 3, Topology.SWITCH)


def test_cards_are_shared_by_those_that_send() -> None:
    """Four cards for eight devices: half a card each, a whole one while the others are silent."""
    nodes = network(level("node", 8), level("cards", None, bandwidth_bytes_per_s=5e8, burst_bytes_per_s=1e9))
    mesh = {"tensor": 8, "data": 4}

    def rate(sizes: dict[str, int], axis: str, *, concurrent: bool) -> float:
        return group_of(nodes, sizes, axis, concurrent=concurrent).spans[-1].bandwidth_bytes_per_s

    assert rate(mesh, "data", concurrent=True) == 5e8
    assert rate(mesh, "data", concurrent=False) == 1e9
    assert rate({"data": 16}, "data", concurrent=False) == 5e8
    assert group_of(nodes, {"data": 16}, "data") == group_of(nodes, {"data": 16}, "data", concurrent=False)


def test_sizes_that_do_not_nest_are_taken_as_spread_out() -> None:
    nodes = network(level("node", 8), level("cards", None))
    assert [s.members for s in group_of(nodes, {"tensor": 6, "data": 4}, "tensor").spans] == [2, 3]
    # Six devices in all are in one node.
    assert [s.members for s in group_of(nodes, {"tensor": 6}, "tensor").spans] == [6]
    assert [s.members for s in group_of(nodes, {"tensor": 3, "data": 2}, "data").spans] == [2]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.booleans(), st.data())
def test_members_multiply_to_the_axis(sizes: list[int], concurrent: bool, data: st.DataObject) -> None:
    mesh = {f"axis{at}": size for at, size in enumerate(sizes)}
    axis = data.draw(st.sampled_from(sorted(mesh)))
    for name in ("vtrain-testbed", "tpuv4"):
        found = load_network(name)
        group = group_of(found, mesh, axis, concurrent=concurrent)
        assert group.devices == mesh[axis]
        by_name = {one.name: one for one in found.levels}
        for span in group.spans:
            assert 0 < span.bandwidth_bytes_per_s <= by_name[span.level].burst_bytes_per_s
            assert span.members > 1


def test_every_fault_of_a_mesh_at_once() -> None:
    small = network(level("node", 8), level("rack", 4))
    assert small.most_devices == 32
    with pytest.raises(SpecError) as caught:
        group_of(small, {"tensor": 0, "data": -2}, "expert")
    assert [fault.problem for fault in caught.value.faults] == ["no number of devices"] * 2 + ["no such axis"]
    with pytest.raises(SpecError, match=r"fewer devices than the mesh.*64 = tensor 8 x data 8.*at most 32 devices"):
        group_of(small, {"tensor": 8, "data": 8}, "data")


# ------------------------------------------------------------------------------------------------------------ files

SOUND = """\
name: mine
start: 8us
copy: 600GB/s
levels:
  - {name: node, devices: 4, topology: switch, bandwidth: {value: 300GB/s, source: mine}, latency: 1us, tree: false}
  - {name: cards, topology: switch, bandwidth_bytes_per_s: 12.5e9, burst: 25GB/s, latency_s: 1e-5, reduction_share: 0.5}
"""


def read(text: str, tmp_path: Path) -> Network:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_network(path)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    found = read(SOUND, tmp_path)
    inner, outer = found.levels
    assert (found.start_s, found.copy_bytes_per_s, found.eager_share) == (8e-6, 6e11, 1.0)
    assert (inner.devices, inner.tree, inner.burst_bytes_per_s, inner.bulk_latency_s) == (4, False, 3e11, 1e-6)
    assert (outer.devices, outer.tree, outer.burst_bytes_per_s, outer.reduction_share) == (None, True, 2.5e10, 0.5)
    assert found == replace(found, levels=(inner, outer))
    assert found.collective_cores == 0
    assert read("collective_cores: {value: 24, source: mine}\n" + SOUND, tmp_path).collective_cores == 24


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("start: 8us", "start: 8", "start: "),
        ("start: 8us", "start: 8us\nstart_s: 1e-6", "start_s: says the same as start"),
        ("start: 8us", "begin: 8us", "begin: unknown key"),
        ("copy: 600GB/s", "copy: 0GB/s", "copy: "),
        ("start: 8us", "start: 8us\ncollective_cores: 1.5", "collective_cores: must be a whole number"),
        ("devices: 4", "devices: 0", "levels[0].devices: is out of range"),
        ("devices: 4, ", "", "levels[0].devices: is missing: only an outermost switch"),
        ("devices: 4", "devices: 4, dimensions: [2, 2]", "levels[0].dimensions: only a torus has dimensions"),
        ("topology: switch, bandwidth:", "topology: torus, bandwidth:", "levels[0].dimensions: a torus has dimensions"),
        (
            "devices: 4, topology: switch",
            "devices: 4, topology: torus, dimensions: [2, 3]",
            "levels[0].dimensions: do not multiply to the devices",
        ),
        ("topology: switch, bandwidth:", "topology: mesh, bandwidth:", "levels[0].topology: unknown value"),
        ("topology: switch, bandwidth:", "bandwidth:", "levels[0].topology: is missing"),
        ("{value: 300GB/s, source: mine}", "{value: 300GB/s, wrong: 1}", "levels[0].bandwidth.wrong: unknown key"),
        ("{value: 300GB/s, source: mine}", "fast", "levels[0].bandwidth: "),
        ("burst: 25GB/s", "burst: 5GB/s", "levels[1].burst: is below the bandwidth"),
        ("latency: 1us", "latency: 10s", "levels[0].latency: is out of range"),
        ("latency: 1us", "latency: 1us, eager_share: 0.5", "levels[0].eager_share: unknown key"),
        ("latency: 1us", "latency: 1us, sustained_share: 0", "levels[0].sustained_share: is out of range"),
        ("reduction_share: 0.5", "reduction_share: 1.5", "levels[1].reduction_share: is out of range"),
        ("tree: false", "tree: 1", "levels[0].tree: must be true or false"),
        ("name: cards", "name: node", "levels: two levels of one name"),
        ("name: cards, ", "", "levels[1].name: is missing"),
    ],
)
def test_a_fault_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert SOUND.count(old) == 1
    with pytest.raises(SpecError) as caught:
        read(SOUND.replace(old, new), tmp_path)
    assert len(caught.value.faults) == 1, caught.value
    assert message in str(caught.value)


def test_files_that_hold_no_levels_and_all_faults_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="must be a list of levels"):
        read("name: x\n", tmp_path)
    with pytest.raises(SpecError, match="no such file"):
        load_network(tmp_path / "absent.yaml")
    with pytest.raises(SpecError) as caught:
        read(SOUND.replace("start: 8us", "start: x").replace("tree: false", "tree: 2"), tmp_path)
    assert len(caught.value.faults) == 2
