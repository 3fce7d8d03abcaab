"""Suite of collectives: measured all-reduces, gathers, scatters and exchanges of GPUs against their networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worklode.cost.collective import collective_times
from worklode.graph.work import Collective
from worklode.hardware.network import Group as DeviceGroup
from worklode.hardware.network import Network, group_of
from worklode.hardware.network_file import load_network
from worklode.validation.score import Group, Point, SuiteResult
from worklode.validation.tables import Row, Sieve, fitted_half, read_table

TABLE = "collectives_measured.csv"
NETWORK_OF_SYSTEM: Mapping[str, str] = {
    "A100-SXM NVLink3/NVSwitch": "dgx-a100",
    "H100-SXM NVLink4/NVSwitch": "dgx-h100",
    "H200-SXM NVLink4/NVSwitch": "hgx-h200",
    "B200-SXM NVLink5/NVSwitch": "dgx-b200",
    "A100-SXM NVLink3 (vTrain testbed)": "vtrain-testbed",
    "4xA100-SXM NVLink3": "dgx-a100",
    "DGX-A100 (vidur)": "dgx-a100",
    "DGX-H100 (vidur)": "dgx-h100",
    "AWS P6-B200 (NVLink5 + EFAv4 50GB/s per GPU)": "aws-p6-b200",
}
# Systems of whose rows `benchmarks/fit_network.py` sees half; it sees none of the others.
FITTED_SYSTEMS = tuple(system for system in NETWORK_OF_SYSTEM if "NVSwitch" in system)
COLLECTIVE_OF_OP: Mapping[str, Collective] = {
    "all_reduce": Collective.ALL_REDUCE,
    "all_gather": Collective.ALL_GATHER,
    "reduce_scatter": Collective.REDUCE_SCATTER,
    "alltoall": Collective.ALL_TO_ALL,
}
# Row whose rate is the sustained share of EFA in the preset: seen by hand, so it is no test of it.
SHARE_OF_EFA = ("AWS P6-B200 (NVLink5 + EFAv4 50GB/s per GPU)", 32, 2**33)
BASELINE = "bytes on the wire / link bandwidth"
# Sizes from which bandwidth counts, as usual in the field [bytes].
LARGE_BYTES = 2**20
LARGE, SMALL = "from 1 MiB", "below 1 MiB (no target)"
TARGET = 0.15
MICROSECOND = 1e-6
# What the measuring program spends on a call, by a word of its system [s]: PyTorch's 20 to 30 us, as a later
# version of the source states (stas00/ml-engineering@0cc3de50, network/benchmarks/README.md). That the rows of AWS have
# it in them is an assumption, made when they were seen to be missed. It is added to predictions and baseline.
HOST_CALL_S = {"AWS": 25e-6}
# Two steps of the resolution a time derived from a rate of two decimals has [GB/s].
LEAST_RATE_GB_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCollective:
    """A row of the table.

    Attributes:
        group: what it is reported with.
        network: preset.
        devices: members of the communicator, which has the machine for itself.
        size_bytes: NCCL's message size [bytes].
        measured_s: as stated [s].
        harness_s: part of it that the measuring program spent [s].
        fitted: a constant of the network was taken from it, by the script of the fit or by hand.
        by_script: `benchmarks/fit_network.py` may see it.
    """

    group: str
    name: str
    network: str
    collective: Collective
    devices: int
    size_bytes: int
    measured_s: float
    harness_s: float
    fitted: bool
    by_script: bool


def collectives(folder: Path) -> SuiteResult:
    """Suite `collectives`."""
    sieve = Sieve()
    found = measured_collectives(folder, sieve)
    networks = {m.network: load_network(m.network) for m in found}
    predicted = predict_s(found, networks)
    groups = []
    for name in dict.fromkeys(m.group for m in found):
        points = tuple(
            Point(
                name=m.name,
                measured=m.measured_s,
                predicted=float(predicted[i]),
                baseline=baseline_s(m, networks[m.network]),
                fitted=m.fitted,
            )
            for i, m in enumerate(found)
            if m.group == name
        )
        target = TARGET if LARGE in name else None
        groups.append(Group(name=name, unit="s", points=points, baseline=BASELINE, target=target))
    return SuiteResult(
        suite="collectives",
        title="Collectives of GPUs",
        groups=tuple(groups),
        skipped=sieve.skipped(),
    )


def measured_collectives(folder: Path, sieve: Sieve) -> list[MeasuredCollective]:
    """Rows of the table that can be compared."""
    needed = ("system", "op", "n", "nodes", "bytes", "time_us", "busbw_GBps", "note")
    found = []
    for row in read_table(folder, TABLE, needed):
        reason = _left_out(row)
        if reason:
            sieve.out(reason)
            continue
        system, size, devices = row["system"], int(float(row["bytes"])), int(float(row["n"]))
        by_script = system in FITTED_SYSTEMS and fitted_half(row)
        nodes = "" if row["nodes"] == "1" else f", {row['nodes']} nodes"
        found.append(
            MeasuredCollective(
                group=f"{system}{nodes}, {LARGE if size >= LARGE_BYTES else SMALL}",
                name=f"{row['op']} of {size} B, {devices} devices{nodes}",
                network=NETWORK_OF_SYSTEM[system],
                collective=COLLECTIVE_OF_OP[row["op"]],
                devices=devices,
                size_bytes=size,
                measured_s=float(row["time_us"]) * MICROSECOND,
                harness_s=sum((spent for word, spent in HOST_CALL_S.items() if word in system), 0.0),
                fitted=by_script or (system, devices, size) == SHARE_OF_EFA,
                by_script=by_script,
            )
        )
    return found


def _left_out(row: Row) -> str:
    """Why a row is not compared; "" where it is."""
    system = row["system"]
    if system.startswith("V100"):
        return "V100: its hybrid cube mesh is no topology of the model"
    if system not in NETWORK_OF_SYSTEM or not row["n"] or row["op"] not in COLLECTIVE_OF_OP:
        return "number of devices or network not stated"
    if "vidur" in system and row["nodes"] != "1":
        return "network between the nodes not stated (at most 21 GB/s, less than one of DGX A100's cards)"
    if "derived from busbw" in row["note"] and float(row["busbw_GBps"]) < LEAST_RATE_GB_S:
        return "derived from a rate rounded to two decimals"
    return ""


def group_on(network: Network, devices: int) -> DeviceGroup:
    """A communicator of neighbours that has the machine for itself."""
    return group_of(network, {"data": devices}, "data", concurrent=False)


def predict_s(measured: Sequence[MeasuredCollective], networks: Mapping[str, Network]) -> NDArray[np.float64]:
    """Predicted times with what measuring spends [s]."""
    times = np.array([m.harness_s for m in measured], np.float64)
    indices: dict[tuple[str, Collective, int], list[int]] = {}
    for i, m in enumerate(measured):
        indices.setdefault((m.network, m.collective, m.devices), []).append(i)
    for (network, collective, devices), chosen in indices.items():
        sizes = [measured[i].size_bytes for i in chosen]
        times[chosen] += collective_times(group_on(networks[network], devices), collective, sizes).time_s
    return times


def baseline_s(m: MeasuredCollective, network: Network) -> float:
    """Bytes a ring or exchange sends over the published bandwidth of the outermost level in use [s]."""
    group = group_on(network, m.devices)
    level = next(level for level in network.levels if level.name == group.spans[-1].level)
    passes = 2 if m.collective is Collective.ALL_REDUCE else 1
    inside = m.devices // group.spans[-1].members
    wire_s = passes * (m.devices - 1) / m.devices * m.size_bytes / (level.bandwidth_bytes_per_s * inside)
    return m.harness_s + wire_s
