"""Where a model may be cut: positions of the forward order that few tensors cross. Rules: docs/models/segments.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from worklode.graph.operator import Phase
from worklode.graph.training_graph import TrainingGraph

MAX_CROSSING = 16
"""Most tensors that may cross a cut between two modules. Assumption: a U-Net of four levels with three skips each hands
on 15; beyond it no model of the zoo is pipelined, and the bytes of what crosses are counted whatever their number."""

FORWARD_PHASES = (Phase.FORWARD, Phase.LOSS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Forward operators of one segment, in order.

    Attributes:
        operators: indices into the graph.
        unit: (container, number) of the module that repeats (`("layers", 3)`), or None.
        name: module path of the unit, or the modules it goes through, joined.
    """

    operators: tuple[int, ...]
    unit: tuple[str, int] | None
    name: str


def stretches(graph: TrainingGraph, max_crossing: int = MAX_CROSSING) -> tuple[Stretch, ...]:
    """Divide the forward operators of a graph at its cut points.

    Args:
        graph: one microbatch, unfused.
        max_crossing: most tensors that may cross between two modules.
    """
    order = [index for index, operator in enumerate(graph.operators) if operator.phase in FORWARD_PHASES]
    if not order:
        return ()
    modules = _Modules(graph)
    units = [modules.unit(graph.operators[index].module) for index in order]
    crossing = crossing_counts(graph, order)
    inside = _inside_units(units)
    atoms: list[list[int]] = [[]]
    for place, index in enumerate(order):
        atoms[-1].append(index)
        if place + 1 == len(order) or inside[place]:
            continue
        between_modules = modules.component(graph.operators[index].module) != modules.component(
            graph.operators[order[place + 1]].module
        )
        if crossing[place] <= (max_crossing if between_modules else 1):
            atoms.append([])
    return tuple(_stretch(graph, modules, atom) for atom in _merged(graph, modules, atoms))


def crossing_counts(graph: TrainingGraph, order: Sequence[int]) -> list[int]:
    """How many values cross from the first k + 1 operators of `order` to the rest of it, for every k."""
    place = {index: number for number, index in enumerate(order)}
    last: dict[int, int] = {}
    for number, index in enumerate(order):
        for access in graph.operators[index].reads:
            if graph.tensors[access.tensor].producer in place:
                last[access.tensor] = number
    change = [0] * (len(order) + 1)
    for tensor, reader in last.items():
        change[place[graph.tensors[tensor].producer]] += 1
        change[reader] -= 1
    counts, level = [], 0
    for difference in change[: len(order)]:
        level += difference
        counts.append(level)
    return counts


class _Modules:
    """Which module paths belong together."""

    def __init__(self, graph: TrainingGraph) -> None:
        self._containers = sorted({block.path for block in graph.blocks}, key=lambda path: (-len(path), path))
        parents = {path.rpartition(".")[0] for path in self._containers} | {""}
        self._parents = sorted(parents, key=lambda path: (-len(path), path))

    def unit(self, module: str) -> tuple[str, int] | None:
        """The child of a container of repeated blocks that a module is in: a block or an odd sibling of blocks."""
        for container in self._containers:
            rest = _below(container, module)
            if rest is not None and (head := rest.partition(".")[0]).isdecimal():
                return container, int(head)
        return None

    def component(self, module: str) -> str:
        """The unit, or the module beside the containers, that a module is in."""
        unit = self.unit(module)
        if unit is not None:
            return f"{unit[0]}.{unit[1]}"
        for parent in self._parents:
            rest = _below(parent, module)
            if rest:
                found = re.match(r"[^.]+(\.\d+)?", rest)
                assert found is not None
                return f"{parent}.{found.group()}" if parent else found.group()
        return module


def _below(container: str, module: str) -> str | None:
    """Path of a module below a container, or None where it is not in it."""
    if not container:
        return module
    return module[len(container) + 1 :] if module.startswith(f"{container}.") else None


def _inside_units(units: list[tuple[str, int] | None]) -> list[bool]:
    """Would a cut after position k divide a unit?"""
    last = {unit: place for place, unit in enumerate(units) if unit is not None}
    found, reach = [], -1
    for place, unit in enumerate(units):
        if unit is not None:
            reach = max(reach, last[unit])
        found.append(reach > place)
    return found


def _merged(graph: TrainingGraph, modules: _Modules, atoms: list[list[int]]) -> list[list[int]]:
    """Join what has no matrix product (norms, activations, losses, tables) to its neighbour outside of units.

    It joins what comes before, else what comes after; alone between units it stays a segment of its own.
    """
    merged: list[list[int]] = []
    run: list[list[int]] = []
    for atom in atoms:
        if _unit_of(graph, modules, atom) is None:
            run.append(atom)
            continue
        merged.extend(_merged_run(graph, run))
        merged.append(atom)
        run = []
    return merged + _merged_run(graph, run)


def _merged_run(graph: TrainingGraph, run: list[list[int]]) -> list[list[int]]:
    joined: list[list[int]] = []
    for atom in run:
        if joined and not (_has_product(graph, atom) and _has_product(graph, joined[-1])):
            joined[-1].extend(atom)
        else:
            joined.append(list(atom))
    return joined


def _has_product(graph: TrainingGraph, atom: list[int]) -> bool:
    return any(graph.operators[index].work.products for index in atom)


def _unit_of(graph: TrainingGraph, modules: _Modules, atom: list[int]) -> tuple[str, int] | None:
    """The one unit whose operators these are, or None."""
    units = {modules.unit(graph.operators[index].module) for index in atom}
    return next(iter(units)) if len(units) == 1 else None


def _stretch(graph: TrainingGraph, modules: _Modules, atom: list[int]) -> Stretch:
    unit = _unit_of(graph, modules, atom)
    names: dict[str, None] = {}
    for index in atom:
        operator = graph.operators[index]
        names.setdefault("loss" if operator.phase is Phase.LOSS else modules.component(operator.module))
    named = [name for name in names if name] or ["model"]
    joined = "+".join(named) if len(named) <= 4 else f"{named[0]}..{named[-1]}"
    return Stretch(operators=tuple(atom), unit=unit, name=joined)
