"""Suite `collectives`: errors pinned, what is left out, and how a row becomes a prediction."""

from __future__ import annotations

from pathlib import Path

import pytest

from worklode.graph.work import Collective
from worklode.hardware.network_file import load_network
from worklode.validation.collectives import (
    LARGE,
    NETWORK_OF_SYSTEM,
    TABLE,
    baseline_s,
    collectives,
    group_on,
    measured_collectives,
)
from worklode.validation.tables import Sieve

from .data import folder

HEADER = "system,op,n,nodes,bytes,time_us,busbw_GBps,source,note,status\n"


def test_errors_and_what_was_held_out() -> None:
    result = collectives(folder())
    by_name = {group.name: group for group in result.groups}
    for name, group in by_name.items():
        assert group.baseline_error is not None
        assert group.baseline_error > group.mean_error or len(group.points) < 5, name
        if LARGE not in name:
            assert group.target is None
            continue
        missed = "vidur" in name or "4 nodes" in name  # reasons: docs/models/collective.md
        assert group.met is not missed, (name, group.mean_error)
        assert group.mean_error < (0.36 if "4 nodes" in name else 0.22 if missed else 0.13), name
        if "NVSwitch" in name:
            assert group.held_out_error is not None and group.held_out_error < 0.14, name
            assert group.rank_correlation is not None and group.rank_correlation > 0.98, name
        else:  # the row that the share of EFA was read from, by hand
            assert sum(point.fitted for point in group.points) == int("4 nodes" in name), name
    large = [group for name, group in by_name.items() if LARGE in name]
    points = [point for group in large for point in group.points]
    assert sum(point.error for point in points) / len(points) < 0.11


def test_long_messages_between_nodes() -> None:
    """From 1 GiB on, an all-reduce of 32 devices on 4 nodes is within 3 %: no prediction of the rate, which was read
    from the largest, but a ring through nodes with all their cards has the right form."""
    (group,) = (g for g in collectives(folder()).groups if "4 nodes, from" in g.name)
    long = [point for point in group.points if point.measured > 5e-3]
    assert len(long) >= 3
    assert max(point.error for point in long) < 0.03


def rows(tmp_path: Path, *lines: str) -> tuple[list[str], dict[str, int]]:
    (tmp_path / TABLE).write_text(HEADER + "".join(f"{line}\n" for line in lines))
    sieve = Sieve()
    found = measured_collectives(tmp_path, sieve)
    return [m.name for m in found], {skipped.reason: skipped.count for skipped in sieve.skipped()}


def test_what_is_left_out_and_why(tmp_path: Path) -> None:
    aws = "AWS P6-B200 (NVLink5 + EFAv4 50GB/s per GPU)"
    found, reasons = rows(
        tmp_path,
        "A100-SXM NVLink3/NVSwitch,alltoall,4.0,1,2048,12.44,0.1,s,n,seen",
        "V100 NVLink2 (vTrain testbed),all_reduce,2.0,1,4194304,208.6,20.1,s,n,seen",
        "some cluster,all_reduce,,4,65536,78.959,1.61,s,n,seen",
        "DGX-A100 (vidur),all_reduce,16.0,2,2048,65,0.059,s,n,seen",
        f"{aws},all_reduce,32.0,4,32768,6348.8,0.01,s,time derived from busbw,seen",
        f"{aws},all_reduce,32.0,4,1073741824,5747.05,361.99,s,time derived from busbw,seen",
        "H100-SXM NVLink4/NVSwitch,barrier,4.0,1,0,12.44,0.1,s,n,seen",
    )
    assert found == ["alltoall of 2048 B, 4 devices", "all_reduce of 1073741824 B, 32 devices, 4 nodes"]
    assert sorted(reasons.values()) == [1, 1, 1, 2]
    assert any("hybrid cube mesh" in reason for reason in reasons)


def test_baseline_is_bytes_over_the_published_bandwidth(tmp_path: Path) -> None:
    (tmp_path / TABLE).write_text(
        HEADER
        + "A100-SXM NVLink3/NVSwitch,all_reduce,4.0,1,1200000,50,0,s,n,seen\n"
        + "AWS P6-B200 (NVLink5 + EFAv4 50GB/s per GPU),all_reduce,32.0,4,32000000,700,90,s,n,seen\n"
    )
    one, other = measured_collectives(tmp_path, Sieve())
    assert (one.collective, one.harness_s, other.harness_s) == (Collective.ALL_REDUCE, 0.0, 25e-6)
    assert baseline_s(one, load_network(one.network)) == pytest.approx(2 * 3 / 4 * 1.2e6 / 300e9)
    assert baseline_s(other, load_network(other.network)) == pytest.approx(25e-6 + 2 * 31 / 32 * 32e6 / (8 * 50e9))


def test_every_system_has_its_network() -> None:
    for name in NETWORK_OF_SYSTEM.values():
        assert group_on(load_network(name), 8).devices == 8
