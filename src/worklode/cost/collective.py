"""Time of a collective of a group of devices: every algorithm that may run it, and the fastest.

Formulas and their sources: docs/models/collective.md. Sizes are NCCL's message sizes (`graph.work.Communication`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from math import ceil, log2, prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worklode.errors import Fault, SpecError
from worklode.graph.work import Collective, Communication
from worklode.hardware.network import Group, Network, Span, Topology

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NOTHING = "nothing to send"
# How often the tensor goes around: an all-reduce is a reduce-scatter and an all-gather.
_PASSES = {Collective.ALL_REDUCE: 2, Collective.REDUCE_SCATTER: 1, Collective.ALL_GATHER: 1}
# A switch that adds up needs a message to it and one from it [steps].
_REDUCTION_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CollectiveTimes:
    """Times of one collective for B sizes.

    Attributes:
        time_s: [B] [s].
        algorithms: names of those that were compared.
        chosen: [B] index of the fastest, the first among equals.
    """

    time_s: Floats
    algorithms: tuple[str, ...]
    chosen: Ints

    @property
    def names(self) -> tuple[str, ...]:
        """[B] name of the fastest algorithm."""
        return tuple(self.algorithms[index] for index in self.chosen)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What an algorithm does, before the library that runs it adds its own.

    Attributes:
        name: of the algorithm.
        passes: how often the tensor goes around: twice in an all-reduce, to be added up and to be handed out.
        latency_s, bulk_latency_s: latencies on its longest chain of messages, short and long ones [s]; no `latency_s`
            where there is no protocol for short ones.
        wire_s: [B] time in which the busiest link carries its bytes at the sustained rate [s].
        kept_bytes: [B] bytes of a device's own part that it moves from its input to its output.
    """

    name: str
    passes: int
    latency_s: float | None
    bulk_latency_s: float
    wire_s: Floats
    kept_bytes: Floats


def collective_times(group: Group, collective: Collective, size_bytes: ArrayLike) -> CollectiveTimes:
    """Times of a collective for any number of sizes, by the fastest algorithm for each.

    Args:
        group: the group, on its network.
        collective: what is exchanged.
        size_bytes: [B] sizes of the whole tensor [bytes].
    """
    sizes = np.atleast_1d(np.asarray(size_bytes, np.float64))
    assert (sizes >= 0).all(), "sizes are not negative"
    plans = plans_of(group, collective, sizes) if group.devices > 1 else ()
    if not plans:
        return CollectiveTimes(
            time_s=np.zeros(len(sizes)), algorithms=(NOTHING,), chosen=np.zeros(len(sizes), np.int64)
        )
    times = np.stack([plan_time_s(group.network, plan) for plan in plans])
    sends = sizes > 0
    return CollectiveTimes(
        time_s=np.where(sends, times.min(axis=0), 0.0),
        algorithms=(*(plan.name for plan in plans), NOTHING),
        chosen=np.where(sends, times.argmin(axis=0), len(plans)),
    )


def communication_times(groups: Mapping[str, Group]) -> Callable[[Communication], float]:
    """Times of communications [s] on the groups of each axis, as `CostModel.on` takes them.

    The function returned raises SpecError for an axis without a group and a size that is not the group's.
    """
    known: dict[Communication, float] = {}

    def time_s(communication: Communication) -> float:
        found = known.get(communication)
        if found is None:
            group = _group_for(communication, groups)
            found = float(collective_times(group, communication.collective, communication.bytes).time_s[0])
            known[communication] = found
        return found

    return time_s


def plans_of(group: Group, collective: Collective, sizes: Floats) -> tuple[Plan, ...]:
    """Every algorithm that may run a collective on a group of at least two devices."""
    match collective:
        case Collective.ALL_REDUCE | Collective.REDUCE_SCATTER | Collective.ALL_GATHER:
            passes = _PASSES[collective]
            found = [ring_plan(group, sizes, passes), stepwise_plan(group, sizes, passes)]
            if collective is Collective.ALL_REDUCE:
                found += [tree_plan(group, sizes, passes=2), reduction_plan(group, sizes)]
        case Collective.BROADCAST:
            found = [chain_plan(group, sizes), tree_plan(group, sizes, passes=1)]
        case Collective.ALL_TO_ALL:
            found = [direct_plan(group, sizes)]
        case Collective.POINT_TO_POINT:
            found = [message_plan(group, sizes)]
    return tuple(plan for plan in found if plan is not None)


def plan_time_s(network: Network, plan: Plan) -> Floats:
    """[B] time of a plan [s] by the faster of two protocols, as NCCL's LL and Simple are.

        short messages  T = start + L + W/eager_share + K/copy
        long messages   T = start + passes·bulk_start + L_bulk + W + K/copy

    L latencies, W time on the wire, K bytes kept. Short messages carry a flag with their data instead of a
    synchronisation, which takes a share of the bandwidth.
    """
    kept_s = plan.kept_bytes / network.copy_bytes_per_s if network.copy_bytes_per_s else 0.0
    moved_s = plan.passes * network.bulk_start_s + plan.bulk_latency_s + plan.wire_s
    if plan.latency_s is not None:
        moved_s = np.minimum(moved_s, plan.latency_s + plan.wire_s / network.eager_share)
    return np.asarray(network.start_s + moved_s + kept_s)


# -------------------------------------------------------------------------------------------------------- algorithms


def ring_plan(group: Group, sizes: Floats, passes: int) -> Plan:
    """One ring through all members; nodes follow one another, and rings of several start points use all their links.

    W = passes·(n-1)/n·S / B, n - 1 steps a pass (Patarasuk and Yuan, JPDC 2009); B the least over the levels of the
    rate of a member times the members that share the way into a node.

    Args:
        group: of n devices.
        sizes: [B] S [bytes].
        passes: 2 for an all-reduce.
    """
    devices = group.devices
    latency_s, bulk_latency_s = _around(group)
    return Plan(
        name="ring",
        passes=passes,
        latency_s=passes * latency_s,
        bulk_latency_s=passes * bulk_latency_s,
        wire_s=passes * (devices - 1) / devices * sizes / _through_rate(group),
        kept_bytes=sizes / devices,
    )


def stepwise_plan(group: Group, sizes: Floats, passes: int) -> Plan | None:
    """Reduce-scatter level by level outwards, each on what the one before left; all-gather the other way round.

    On a level of one dimension W = (m-1)/m·S/B and S falls to S/m; on a torus of k dimensions the tensor is cut into k
    parts, of which each takes the dimensions in another order, so that all links are used (bucket algorithm, Barnett
    et al., Global Combine on Mesh Architectures with Wormhole Routing, IPPS 1993). None for a single span: the ring.
    """
    if len(group.spans) < 2:
        return None
    latency_s = bulk_latency_s = 0.0
    wire_s, left = np.zeros_like(sizes), sizes
    for spans in _levels(group):
        for stage in range(len(spans)):
            longest = np.zeros_like(sizes)
            for part in range(len(spans)):
                before = prod(spans[(part + step) % len(spans)].members for step in range(stage))
                span = spans[(part + stage) % len(spans)]
                share = (span.members - 1) / span.members / (before * len(spans))
                longest = np.maximum(longest, left * share / _ring_rate(span))
            wire_s = wire_s + longest
            latency_s += max((span.members - 1) * span.latency_s for span in spans)
            bulk_latency_s += max((span.members - 1) * span.bulk_latency_s for span in spans)
        left = left / prod(span.members for span in spans)
    torus = len({span.level for span in group.spans}) == 1
    return Plan(
        name="bucket ring" if torus else "hierarchical",
        passes=passes,
        latency_s=passes * latency_s,
        bulk_latency_s=passes * bulk_latency_s,
        wire_s=passes * wire_s,
        kept_bytes=sizes / group.devices,
    )


def tree_plan(group: Group, sizes: Floats, passes: int) -> Plan | None:
    """Two binary trees, each of half of the tensor, in which a leaf of one is an inner node of the other.

    Every member sends and receives S a pass: W = passes·S/B, with ceil(log2 m) steps a pass (Sanders, Speck and Träff,
    Two-tree algorithms, Parallel Computing 2009). Levels that do not build trees are chains of m - 1 steps.
    None on rings, and where there would be chains only.

    Args:
        group: of switches.
        sizes: [B] S [bytes].
        passes: 2 for an all-reduce (to the root and back), 1 for a broadcast.
    """
    if any(span.topology is not Topology.SWITCH for span in group.spans) or not any(s.tree for s in group.spans):
        return None
    steps = [ceil(log2(span.members)) if span.tree else span.members - 1 for span in group.spans]
    return Plan(
        name="tree",
        passes=passes,
        latency_s=passes * sum(count * span.latency_s for count, span in zip(steps, group.spans, strict=True)),
        bulk_latency_s=passes
        * sum(count * span.bulk_latency_s for count, span in zip(steps, group.spans, strict=True)),
        wire_s=passes * sizes / _through_rate(group),
        kept_bytes=np.zeros_like(sizes),
    )


def reduction_plan(group: Group, sizes: Floats) -> Plan | None:
    """All-reduce in a switch that adds up: each device fetches the sum of its part and sends it to all.

    A device sends all of its tensor to those that fetch, and its own part once more, which the switch multiplies:
    W = (1 + 1/n)·S/B_reduction, whatever n (Klenk et al., An In-Network Architecture for Accelerating Shared-Memory
    Multiprocessor Collectives, ISCA 2020). None where the switch cannot, or several levels are crossed.
    """
    if len(group.spans) != 1 or group.spans[0].reduction_bytes_per_s == 0.0:
        return None
    span = group.spans[0]
    return Plan(
        name="in the switch",
        passes=_PASSES[Collective.ALL_REDUCE],
        latency_s=None,
        bulk_latency_s=_REDUCTION_STEPS * span.bulk_latency_s,
        wire_s=(1.0 + 1.0 / span.members) * sizes / span.reduction_bytes_per_s,
        kept_bytes=np.zeros_like(sizes),
    )


def chain_plan(group: Group, sizes: Floats) -> Plan:
    """Broadcast from one member to the next in small pieces: W = S/B, n - 1 steps."""
    latency_s, bulk_latency_s = _around(group)
    return Plan(
        name="chain",
        passes=1,
        latency_s=latency_s,
        bulk_latency_s=bulk_latency_s,
        wire_s=sizes / _through_rate(group),
        kept_bytes=np.zeros_like(sizes),
    )


def direct_plan(group: Group, sizes: Floats) -> Plan:
    """All-to-all by a message to every other member, over each level what has to cross it.

    Of the S bytes of a member S·(m - 1)·P/n go to members that it reaches over a switch of m groups of P. On a ring of
    m, S·(m - 1)/m of what stays inside the torus travels m²/4/(m - 1) links on average, and on a line, whose ends are
    not joined, twice as long; all dimensions of a torus carry messages at once.
    """
    n = group.devices
    wire_s = np.zeros_like(sizes)
    latency_s = bulk_latency_s = 0.0
    inside = 1
    for spans in _levels(group):
        joined = inside * prod(span.members for span in spans)
        for span in spans:
            m = span.members
            crossing = sizes * joined / n * (m - 1) / m
            if span.topology is Topology.SWITCH:
                rate, steps = span.bandwidth_bytes_per_s, (m - 1) * inside
            else:
                links = (m * m // 4) / (m - 1)
                rate, steps = _ring_rate(span) / links, m // 2 if span.closed else m - 1
            wire_s = np.maximum(wire_s, crossing / rate)
            latency_s += steps * span.latency_s
            bulk_latency_s += steps * span.bulk_latency_s
        inside = joined
    return Plan(
        name="direct", passes=1, latency_s=latency_s, bulk_latency_s=bulk_latency_s, wire_s=wire_s, kept_bytes=sizes / n
    )


def message_plan(group: Group, sizes: Floats) -> Plan:
    """One message to the next member, over the outermost level the group spans: W = S/B, on a ring S/(B/2).

    The group's pair with the longest way counts: neighbouring stages of a pipeline in two nodes.
    """
    span = group.spans[-1]
    links = 1 if span.topology is Topology.SWITCH else 2  # a message takes one of a ring's two directions
    return Plan(
        name="direct",
        passes=1,
        latency_s=span.latency_s,
        bulk_latency_s=span.bulk_latency_s,
        wire_s=sizes * links / span.bandwidth_bytes_per_s,
        kept_bytes=np.zeros_like(sizes),
    )


# ------------------------------------------------------------------------------------------------------------ pieces


def _levels(group: Group) -> Iterator[tuple[Span, ...]]:
    """Spans by level, from the innermost."""
    for _, spans in groupby(group.spans, key=lambda span: span.level):
        yield tuple(spans)


def _ring_rate(span: Span) -> float:
    """Rate of a logical ring on a span [bytes/s]: a line has to lead it back over the other direction."""
    on_line = span.topology is Topology.RING and not span.closed
    return span.bandwidth_bytes_per_s * (0.5 if on_line else 1.0)


def _through_rate(group: Group) -> float:
    """Rate of rings or trees through all members [bytes/s].

    The members inside a node use its ways out together, a ring from each of them. One edge in m of a ring leaves the
    node, so that the links inside it carry (m - 1)/m of the bytes.
    """
    rates, inside = [], 1
    for spans in _levels(group):
        for span in spans:
            rate = _ring_rate(span) * inside
            leaves = span.topology is Topology.SWITCH and span is not group.spans[-1]
            rates.append(rate * span.members / (span.members - 1) if leaves else rate)
        inside *= prod(span.members for span in spans)
    return min(rates)


def _around(group: Group) -> tuple[float, float]:
    """Latencies of n - 1 steps of a ring, short and long messages [s]: all its edges but one of the innermost."""
    return (
        _sum_of_edges(group, (span.latency_s for span in group.spans)),
        _sum_of_edges(group, (span.bulk_latency_s for span in group.spans)),
    )


def _sum_of_edges(group: Group, latencies_s: Iterable[float]) -> float:
    total, outside, latencies = 0.0, group.devices, tuple(latencies_s)
    for at, (span, latency_s) in enumerate(zip(group.spans, latencies, strict=True)):
        outside //= span.members
        edges = (span.members - 1) * outside if at < len(group.spans) - 1 else span.members
        total += edges * latency_s
    return total - latencies[0]


def _group_for(communication: Communication, groups: Mapping[str, Group]) -> Group:
    group = groups.get(communication.axis)
    if group is None:
        problem = "a collective along an axis without a group"
        raise SpecError(
            Fault(where="operator", value=str(communication), problem=problem, allowed=", ".join(groups) or "none")
        )
    if group.devices != communication.devices:
        problem = "a collective of another number of devices than its axis has"
        raise SpecError(
            Fault(where="operator", value=str(communication), problem=problem, allowed=f"{group.devices} devices")
        )
    return group
