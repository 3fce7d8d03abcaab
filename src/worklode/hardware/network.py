"""The network between devices, and the groups of devices that communicate on it: docs/models/network.md.

A network is a list of levels from the innermost: links inside a node, then between nodes. A group is where the members
of one communicator lie on it, with the bandwidth and latency they see there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import gcd, prod

from worklode.errors import Fault, SpecError


class Topology(StrEnum):
    """How the devices (or groups of devices) of a level are connected."""

    SWITCH = "switch"
    RING = "ring"
    TORUS = "torus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of a network: it joins `devices` groups of the level inside it (devices, at the innermost).

    Attributes:
        name: of the links (`nvlink`).
        devices: groups joined; None on the outermost: as many as are needed.
        topology: switch (every pair at full rate), ring, or torus of `dimensions`, innermost first.
        bandwidth_bytes_per_s: what one device sends over all its links of the level while all devices send [bytes/s].
        burst_bytes_per_s: the same while the others of its group of the inner level are silent, where they share what
            leaves the group (a node of 8 devices and 4 network cards) [bytes/s].
        sustained_share: share of the bandwidth that long transfers reach [1].
        latency_s: from one device to the next for a short message [s]; `bulk_latency_s` for a long one.
        tree: whether libraries build trees over it; NCCL chains the devices inside a node.
        reduction_share: share of the bandwidth reached while the switch adds up what passes it; 0 where it cannot.
    """

    name: str
    devices: int | None
    topology: Topology
    bandwidth_bytes_per_s: float
    burst_bytes_per_s: float
    sustained_share: float = 1.0
    latency_s: float = 0.0
    bulk_latency_s: float = 0.0
    dimensions: tuple[int, ...] = ()
    tree: bool = True
    reduction_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Levels from the innermost, and what the library that runs collectives adds.

    Attributes:
        name: of a preset, or "".
        levels: from the innermost.
        start_s: from the start of a collective on the device to its first message [s].
        bulk_start_s: what the protocol of long messages takes to fill its pipeline, for each pass of the tensor [s].
        eager_share: share of the bandwidth that the protocol of short messages reaches [1]; 1 where there is only one.
        copy_bytes_per_s: rate at which a device moves the part it keeps from its input to its output [bytes/s]; None
            where that costs nothing.
        collective_cores: vector cores of a device that a collective holds while it runs [count]; kernels beside it have
            the others.
    """

    name: str = ""
    levels: tuple[Level, ...]
    start_s: float = 0.0
    bulk_start_s: float = 0.0
    eager_share: float = 1.0
    copy_bytes_per_s: float | None = None
    collective_cores: int = 0

    @property
    def most_devices(self) -> int | None:
        """Devices the network can have; None for any number."""
        sizes = [level.devices for level in self.levels]
        return None if None in sizes else prod(size for size in sizes if size is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The members of a group that one dimension of one level connects.

    Attributes:
        level: name of the level; spans of one name are the dimensions of a torus.
        members: at least 2.
        topology: switch or ring.
        closed: a ring whose ends are joined; a part of a ring is a line.
        bandwidth_bytes_per_s: sustained rate at which one member sends here, both directions of a ring together, while
            the other groups of its axis do the same [bytes/s].
        reduction_bytes_per_s: the same while the switch adds up; 0 where it cannot [bytes/s].
        latency_s, bulk_latency_s: from a member to the next [s].
        tree: as in `Level`.
    """

    level: str
    members: int
    topology: Topology
    closed: bool
    bandwidth_bytes_per_s: float
    reduction_bytes_per_s: float
    latency_s: float
    bulk_latency_s: float
    tree: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A communicator: its spans from the innermost, their members multiplying to `devices`."""

    network: Network
    spans: tuple[Span, ...]

    @property
    def devices(self) -> int:
        """Members of the group."""
        return prod(span.members for span in self.spans)


def group_of(network: Network, sizes: Mapping[str, int], axis: str, *, concurrent: bool = True) -> Group:
    """The groups of one axis of a mesh that is laid out on a network, all of which look alike.

    Devices are numbered along the axes in the order given, the first varying fastest: neighbours on the first axis are
    neighbours on the network. Where sizes do not nest (3 devices of a node of 8), the group is taken as spread over
    more nodes than some of its kind are.

    Args:
        network: the network.
        sizes: devices along each axis of the mesh, in the order of placement (`{"tensor": 8, "data": 16}`).
        axis: the axis whose groups are wanted.
        concurrent: all groups of the axis communicate at the same time, as they do in training; False for one alone.

    Raises:
        SpecError: no such axis, a size that is not positive, more devices than the network has.
    """
    _check_mesh(network, sizes, axis)
    total = prod(sizes.values())
    stride = prod(list(sizes.values())[: list(sizes).index(axis)])
    remaining = sizes[axis]
    inside = 1  # devices of one group joined by the level at hand
    spans: list[Span] = []
    for level in network.levels:
        of_group = sizes[axis] // remaining  # members inside one such group
        for size in level.dimensions or (level.devices,):
            step = max(1, stride // inside)
            fits = size is None or total <= inside * size
            members = remaining if fits else gcd(remaining, max(1, (size or 1) // step))
            if members > 1:
                busy = min(inside, total) if concurrent else of_group
                spans.append(_span(level, size, members, step, inside / busy, concurrent))
            remaining //= members
            stride *= members
            inside *= size or 1
    assert remaining == 1, "the mesh fits the network"
    return Group(network=network, spans=tuple(spans))


def _span(level: Level, size: int | None, members: int, step: int, per_busy: float, concurrent: bool) -> Span:
    """Members of a dimension of a level, `step` apart; `per_busy` devices of an inner group for each that sends."""
    on_ring = level.topology is not Topology.SWITCH
    if on_ring:
        # Each dimension has its own links; groups that interleave on a ring share them, and hop over one another.
        share = 1.0 / (max(1, len(level.dimensions)) * (step if concurrent else 1))
        bandwidth = level.bandwidth_bytes_per_s * share
    else:
        bandwidth = min(level.burst_bytes_per_s, level.bandwidth_bytes_per_s * per_busy)
    hops = step if on_ring else 1
    return Span(
        level=level.name,
        members=members,
        topology=Topology.RING if on_ring else Topology.SWITCH,
        closed=on_ring and members * step == size,
        bandwidth_bytes_per_s=bandwidth * level.sustained_share,
        reduction_bytes_per_s=bandwidth * level.reduction_share,
        latency_s=level.latency_s * hops,
        bulk_latency_s=level.bulk_latency_s * hops,
        tree=level.tree and not on_ring,
    )


def _check_mesh(network: Network, sizes: Mapping[str, int], axis: str) -> None:
    faults = [
        Fault(where="mesh", path=name, value=str(size), problem="no number of devices", allowed="1 or more")
        for name, size in sizes.items()
        if size < 1
    ]
    if axis not in sizes:
        faults.append(Fault(where="mesh", value=axis, problem="no such axis", allowed=", ".join(sizes)))
    most, total = network.most_devices, prod(sizes.values())
    if not faults and most is not None and total > most:
        shown = " x ".join(f"{name} {size}" for name, size in sizes.items())
        faults.append(
            Fault(
                where=f"network {network.name}".strip(),
                value=f"{total} = {shown}",
                problem="has fewer devices than the mesh",
                allowed=f"at most {most} devices",
            )
        )
    if faults:
        raise SpecError(*faults)
