"""Collectives message by message over links, one event after another: the slow oracle of cost.collective."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass
class Simulator:
    """Messages over directed links; a message holds all links of its path at once, in order of readiness."""

    rate_of: dict[Hashable, float] = field(default_factory=dict)
    latency_of: dict[Hashable, float] = field(default_factory=dict)
    messages: list[tuple[tuple[Hashable, ...], float, tuple[int, ...]]] = field(default_factory=list)

    def link(self, name: Hashable, rate: float, latency_s: float) -> None:
        """Add a link."""
        self.rate_of[name], self.latency_of[name] = rate, latency_s

    def send(self, path: Sequence[Hashable], size: float, after: Sequence[int | None] = ()) -> int:
        """A message over links, once others have arrived; returns its number."""
        self.messages.append((tuple(path), size, tuple(index for index in after if index is not None)))
        return len(self.messages) - 1

    def busiest_s(self) -> float:
        """Time in which the busiest link carries its bytes [s]."""
        busy_s = dict.fromkeys(self.rate_of, 0.0)
        for path, size, _ in self.messages:
            for link in path:
                busy_s[link] += size / self.rate_of[link]
        return max(busy_s.values())

    def run(self) -> float:
        """When the last message arrives [s]."""
        waiting = [len(after) for _, _, after in self.messages]
        followers: dict[int, list[int]] = {}
        for index, (_, _, after) in enumerate(self.messages):
            for other in after:
                followers.setdefault(other, []).append(index)
        ready_s = [0.0] * len(self.messages)
        free_s = dict.fromkeys(self.rate_of, 0.0)
        heap = [(0.0, index) for index, count in enumerate(waiting) if count == 0]
        heapq.heapify(heap)
        last_s, done = 0.0, 0
        while heap:
            ready, index = heapq.heappop(heap)
            path, size, _ = self.messages[index]
            start = max([ready, *(free_s[link] for link in path)])
            end = start + size / min(self.rate_of[link] for link in path)
            for link in path:
                free_s[link] = end
            arrives = end + sum(self.latency_of[link] for link in path)
            last_s, done = max(last_s, arrives), done + 1
            for follower in followers.get(index, ()):
                ready_s[follower] = max(ready_s[follower], arrives)
                waiting[follower] -= 1
                if waiting[follower] == 0:
                    heapq.heappush(heap, (ready_s[follower], follower))
        assert done == len(self.messages), "messages wait for one another"
        return last_s


Frontier = dict[Hashable, tuple[int, ...]]
"""Last messages each device waits for."""


def ring_pass(
    sim: Simulator, members: Sequence[Hashable], paths: Sequence[Sequence[Hashable]], size: float, before: Frontier
) -> Frontier:
    """Reduce-scatter or all-gather of `size` bytes round a ring; `paths[i]` leads from member i to the next."""
    count = len(members)
    last: dict[int, int] = {}
    for step in range(count - 1):
        sent = {}
        for at in range(count):
            waits = before.get(members[at], ()) if step == 0 else (last[(at - 1) % count],)
            sent[at] = sim.send(paths[at], size / count, waits)
        last = sent
    return {members[(at + 1) % count]: (message,) for at, message in last.items()}


def switch_links(sim: Simulator, devices: int, rate: float, latency_s: float) -> None:
    """Links of devices to and from a switch."""
    for device in range(devices):
        sim.link(("out", device), rate, latency_s)
        sim.link(("in", device), rate, 0.0)


def over_switch(one: int, other: int) -> tuple[Hashable, ...]:
    """Path between two devices on a switch."""
    return (("out", one), ("in", other))


def ring_on_switch_s(devices: int, size: float, rate: float, latency_s: float, passes: int) -> float:
    """A ring of devices on one switch."""
    sim = Simulator()
    switch_links(sim, devices, rate, latency_s)
    paths = [over_switch(device, (device + 1) % devices) for device in range(devices)]
    before: Frontier = {}
    for _ in range(passes):
        before = ring_pass(sim, range(devices), paths, size, before)
    return sim.run()


def ring_on_ring_s(devices: int, size: float, rate: float, latency_s: float, passes: int) -> float:
    """Two rings of opposite senses on a closed ring of links, half of the tensor each; `rate` of both links."""
    sim = Simulator()
    for sense in (1, -1):
        for device in range(devices):
            sim.link((device, sense), rate / 2, latency_s)
        members = [device * sense % devices for device in range(devices)]
        before: Frontier = {}
        for _ in range(passes):
            before = ring_pass(sim, members, [[(member, sense)] for member in members], size / 2, before)
    return sim.run()


def gather_on_line_s(devices: int, size: float, rate: float, latency_s: float) -> float:
    """Every part travels outwards to both ends of a line; `rate` of a device inside the line."""
    sim = Simulator()
    for device in range(devices):
        for sense in (1, -1):
            sim.link((device, sense), rate / 2, latency_s)
    # Nearer parts first: a device passes on what has travelled least.
    heads: dict[tuple[int, int], int | None] = {(part, sense): None for part in range(devices) for sense in (1, -1)}
    for hop in range(devices - 1):
        for (part, sense), waits in list(heads.items()):
            at = part + sense * hop
            if 0 <= at + sense < devices:
                heads[part, sense] = sim.send([(at, sense)], size / devices, (waits,))
    return sim.run()


def exchange_on_switch_s(devices: int, size: float, rate: float, latency_s: float) -> float:
    """All-to-all: a device sends to the next, the second next and so on, each once the one before has arrived."""
    sim = Simulator()
    switch_links(sim, devices, rate, latency_s)
    last: dict[int, int | None] = dict.fromkeys(range(devices))
    for step in range(1, devices):
        for device in range(devices):
            path = over_switch(device, (device + step) % devices)
            last[device] = sim.send(path, size / devices, (last[device],))
    return sim.run()


def exchange_on_ring_s(devices: int, size: float, rate: float, latency_s: float, *, closed: bool, pieces: int) -> float:
    """All-to-all along the shorter way of a ring, or along a line, in pieces that are stored at every hop."""
    sim = Simulator()
    for device in range(devices):
        for sense in (1, -1):
            sim.link((device, sense), rate / 2, latency_s)
    for piece in range(pieces):
        for distance in range(1, devices):
            for device in range(devices):
                target = device + distance
                if closed:
                    halfway = 2 * distance == devices and (device + piece) % 2
                    sense = 1 if 2 * distance < devices or halfway else -1
                    hops = distance if sense == 1 else devices - distance
                else:
                    target %= devices
                    sense, hops = (1, target - device) if target > device else (-1, device - target)
                message: int | None = None
                for hop in range(hops):
                    at = (device + sense * hop) % devices
                    message = sim.send([(at, sense)], size / devices / pieces, (message,))
    return sim.run()


def torus_s(dimensions: tuple[int, int], size: float, rate: float, latency_s: float, passes: int) -> float:
    """Bucket algorithm on a closed 2D torus: two parts take the dimensions in opposite order; `rate` of four links."""
    sim = Simulator()
    rows, cols = dimensions
    for row in range(rows):
        for col in range(cols):
            for dim in (0, 1):
                for sense in (1, -1):
                    sim.link((row, col, dim, sense), rate / 4, latency_s)
    # Part p is scattered along dimension p and then the other; a stage starts once all parts have finished the last.
    order = [0, 1] if passes == 1 else [0, 1, 1, 0]
    before: Frontier = {}
    for stage in order:
        last: list[int] = []
        for part in (0, 1):
            dim = part if stage == 0 else 1 - part
            left = size / 4 / (dimensions[part] if stage == 1 else 1)
            for sense in (1, -1):
                for line in range(dimensions[1 - dim]):
                    members = [(at, line) if dim == 0 else (line, at) for at in range(dimensions[dim])][::sense]
                    paths = [[(*member, dim, sense)] for member in members]
                    for found in ring_pass(sim, members, paths, left, before).values():
                        last += found
        before = dict.fromkeys(((row, col) for row in range(rows) for col in range(cols)), tuple(last))
    return sim.run()


@dataclass(frozen=True)
class Nodes:
    """Nodes of devices on a switch each, a card for each device between them."""

    nodes: int
    per_node: int
    inner_rate: float
    outer_rate: float
    inner_latency_s: float
    outer_latency_s: float

    def links(self, sim: Simulator) -> None:
        """Links of all devices at both levels."""
        for device in range(self.nodes * self.per_node):
            for level, rate, latency_s in (
                ("inner", self.inner_rate, self.inner_latency_s),
                ("outer", self.outer_rate, self.outer_latency_s),
            ):
                sim.link((level, "out", device), rate, latency_s)
                sim.link((level, "in", device), rate, 0.0)

    def path(self, one: int, other: int) -> tuple[Hashable, ...]:
        """Links between two devices."""
        level = "inner" if one // self.per_node == other // self.per_node else "outer"
        return ((level, "out", one), (level, "in", other))

    def hierarchical_s(self, size: float) -> float:
        """All-reduce: scatter inside, all-reduce across, gather inside."""
        sim = Simulator()
        self.links(sim)
        inner = [[node * self.per_node + at for at in range(self.per_node)] for node in range(self.nodes)]
        outer = [[node * self.per_node + at for node in range(self.nodes)] for at in range(self.per_node)]
        before: Frontier = {}
        for rings, part in ((inner, size), (outer, size / self.per_node), (outer, size / self.per_node), (inner, size)):
            after: Frontier = {}
            for ring in rings:
                paths = [self.path(one, ring[(at + 1) % len(ring)]) for at, one in enumerate(ring)]
                after.update(ring_pass(sim, ring, paths, part, before))
            before = after
        return sim.run()

    def ring_s(self, size: float, passes: int) -> float:
        """A ring from every device of a node through all, each entering and leaving nodes over another card."""
        sim = Simulator()
        self.links(sim)
        for first in range(self.per_node):
            ring = [
                node * self.per_node + (first + at) % self.per_node
                for node in range(self.nodes)
                for at in range(self.per_node)
            ]
            paths = [self.path(one, ring[(at + 1) % len(ring)]) for at, one in enumerate(ring)]
            before: Frontier = {}
            for _ in range(passes):
                before = ring_pass(sim, ring, paths, size / self.per_node, before)
        return sim.run()


def two_trees(devices: int, size: float, rate: float, latency_s: float) -> Simulator:
    """All-reduce by two binary trees on a switch, the second the mirror of the first, half of the tensor each."""
    sim = Simulator()
    switch_links(sim, devices, rate, latency_s)
    first = alternate_parents(devices)
    mirrored = {devices - 1 - child: devices - 1 - parent for child, parent in first.items()}
    for parent_of in (first, mirrored):
        (root,) = set(range(devices)) - set(parent_of)
        order = [root]
        for device in order:
            order += [child for child, parent in parent_of.items() if parent == device]
        up: dict[int, int] = {}
        for device in reversed(order[1:]):
            waits = [up[child] for child, parent in parent_of.items() if parent == device]
            up[device] = sim.send(over_switch(device, parent_of[device]), size / 2, waits)
        down: dict[int, int] = {}
        for device in order[1:]:
            parent = parent_of[device]
            waits = [down[parent]] if parent in down else [up[c] for c, above in parent_of.items() if above == root]
            down[device] = sim.send(over_switch(parent, device), size / 2, waits)
    return sim


def alternate_parents(devices: int) -> dict[int, int]:
    """Parents in a binary tree whose odd devices are leaves: 2 below 4 or 0, 6 below 4, 1 and 3 below 2, and so on."""
    parents = {}
    for device in range(1, devices):
        bit = device & -device
        above = (device ^ bit) | (bit << 1)
        parents[device] = above if above < devices else device ^ bit
    return parents
