"""Where a figure comes from: a tree from area, TDP, energy or time down to constants with unit and source.

What a part depends on is not written down a second time: every constant and every field of the design is raised by a
little, and the parts that move depend on it. The share of the rise that arrives is the elasticity: 1 where a part is
proportional to the constant, 0.5 where it grows with the root.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import area_parts
from worklode.hardware.energy import energy_constants
from worklode.hardware.power import tdp_parts
from worklode.hardware.technology import Constant, Technology
from worklode.schedule.analysis import analyze
from worklode.search.evaluate import Evaluator

# Relative rise of a constant or field [1]: small against curvature, large against rounding.
RISE = 1e-4
# Relative rise where the figure is a schedule, which may change by steps [1].
SCHEDULE_RISE = 0.02
# What moves a part by less than this share of the rise does not count [1].
LEAST_ELASTICITY = 0.01
# Operators shown below a time [count].
LONGEST_SHOWN = 8

Parts = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A figure, how it is made, and what it is made of.

    Attributes:
        name, value, unit: the figure.
        share: of the figure above [1]; None where it is no part of it.
        elasticity: by how many percent the figure above rises with one percent of this; None where it is a part.
        how: formula or remark; source: where a constant or field comes from.
    """

    name: str
    value: float
    unit: str
    share: float | None = None
    elasticity: float | None = None
    how: str = ""
    source: str = ""
    children: tuple[Node, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "share": self.share,
            "elasticity": self.elasticity,
            "how": self.how,
            "source": self.source,
            "children": [child.to_dict() for child in self.children],
        }


_FIELD_UNITS = {
    "sram_bytes": "B",
    "tensor_core_buffer_bytes": "B",
    "vector_core_buffer_bytes": "B",
    "hbm_stack_bytes_per_s": "B/s",
    "link_bytes_per_s": "B/s",
    "clock_hz": "Hz",
    "operator_start_s": "s",
    "operator_fill_s": "s",
}
_AREA_HOW = {
    "tensor_core_macs": "(1 + spare) · cores · rows · cols · MAC area",
    "tensor_core_buffers": "(1 + spare) · cores · buffer bytes · 8 · bit cell · overhead",
    "vector_lanes": "(1 + spare) · cores · lanes · lane area",
    "vector_core_buffers": "(1 + spare) · cores · buffer bytes · 8 · bit cell · overhead",
    "core_control": "(1 + spare) · cores · area of sequencing",
    "sram": "(1 + spare) · SRAM bytes · 8 · bit cell · overhead",
    "hbm": "stacks · PHY + bandwidth · controller",
    "links": "bandwidth of one direction · (PHY + controller)",
    "network": "(1 + spare) · port bytes · area per byte of width",
    "fixed": "as stated",
}
_TDP_HOW = {
    "tensor_core_macs": "clock · activity · MACs · energy of a MAC",
    "tensor_core_buffers": "clock · activity · cores · energy of operands per cycle",
    "vector_lanes": "clock · activity · lanes · energy of an operation",
    "sram": "clock · activity · port bytes · energy of a byte",
    "hbm": "activity · bandwidth · energy of a byte",
    "links": "2 · bandwidth · energy of a byte",
    "fixed": "as stated",
    "leakage": "logic area · leakage + memory · leakage",
}


def explain_area(accelerator: Accelerator, technology: Technology, sources: Mapping[str, str]) -> Node:
    """Tree of the die area."""

    def parts(design: Accelerator, constants: Technology) -> Parts:
        return _floats(area_parts(design, constants))

    return _of_parts("area", "mm2", parts, _AREA_HOW, accelerator, technology, sources, page="docs/models/area.md")


def explain_tdp(accelerator: Accelerator, technology: Technology, sources: Mapping[str, str]) -> Node:
    """Tree of the thermal design power."""

    def parts(design: Accelerator, constants: Technology) -> Parts:
        return _floats(tdp_parts(design, constants))

    return _of_parts("TDP", "W", parts, _TDP_HOW, accelerator, technology, sources, page="docs/models/power.md")


def explain_energy(evaluator: Evaluator, accelerator: Accelerator, sources: Mapping[str, str]) -> Node:
    """Tree of the energy of one iteration: events times energy of an event."""

    def events(design: Accelerator, constants: Technology) -> Parts:
        return _floats(energy_constants(design, constants))

    counts = evaluator.event_counts(evaluator.reported_step(accelerator))
    each = events(accelerator, evaluator.technology)
    leaves = _dependences(events, accelerator, evaluator.technology, sources)
    total = sum(count * each[event] for _, count, event in counts)
    children = []
    for part, count, event in counts:
        unit = "W" if event == "static_w" else "J"
        counted = "iteration time [s]" if event == "static_w" else "events"
        constant = Node(name=event, value=each[event], unit=unit, how="of one event", children=leaves[event])
        number = Node(name=counted, value=count, unit="s" if event == "static_w" else "1", how="of the schedule")
        children.append(
            Node(
                name=part,
                value=count * each[event],
                unit="J",
                share=count * each[event] / total,
                how=f"{counted} · {event}",
                children=(number, constant),
            )
        )
    return Node(name="energy", value=total, unit="J", how="docs/models/energy.md", children=_largest_first(children))


def explain_time(evaluator: Evaluator, accelerator: Accelerator, sources: Mapping[str, str]) -> Node:
    """Tree of the iteration time: what it is bound by, its longest operators, and the fields it depends on."""
    step = evaluator.reported_step(accelerator)
    total = step.schedule.makespan_s
    # How time changes is told by quick schedules, of this design as of the changed ones.
    quick_s = evaluator.step(accelerator).schedule.makespan_s
    by_resource = tuple(
        Node(name=name, value=share * total, unit="s", share=share, how="links of the chain that it bounds")
        for name, share in evaluator.reported_bound_by(accelerator)
        if share > 0
    )
    fields_of_time = ("clock_hz", "clock_share", "hbm_stack_bytes_per_s", "hbm_share", "operator_start_s")
    changed = []
    for name in (*fields_of_time, "operator_fill_s"):
        value = getattr(accelerator, name)
        if not value:
            continue
        raised = evaluator.step(replace(accelerator, **{name: value * (1 + SCHEDULE_RISE)})).schedule.makespan_s
        elasticity = (raised / quick_s - 1) / SCHEDULE_RISE
        changed.append(_field(name, value, elasticity, sources))
    chain = analyze(step.problem, step.schedule).chain
    spent: dict[int, tuple[float, int]] = {}
    for link in chain:
        item = int(evaluator.arrays.item_of[link.task])
        time_s, count = spent.get(item, (0.0, 0))
        spent[item] = (time_s + link.duration_s + link.slowed_s, count + 1)
    first = {int(evaluator.arrays.item_of[link.task]): link.task for link in reversed(chain)}
    longest = sorted(spent, key=lambda item: -spent[item][0])[:LONGEST_SHOWN]
    operators = tuple(_operator(evaluator, step, accelerator, first[item], *spent[item]) for item in longest)
    return Node(
        name="iteration time",
        value=total,
        unit="s",
        how="end of the last operator of the schedule (docs/models/schedule.md)",
        children=(
            Node(name="bound by", value=total, unit="s", how="adds up to the whole", children=by_resource),
            Node(
                name="longest operators of the chain",
                value=sum(node.value for node in operators),
                unit="s",
                share=sum(node.value for node in operators) / total,
                how="equal operators together",
                children=operators,
            ),
            Node(name="depends on", value=total, unit="s", how="elasticities", children=tuple(changed)),
        ),
    )


def _operator(evaluator: Evaluator, step: Any, accelerator: Accelerator, task: int, time_s: float, count: int) -> Node:
    operator = evaluator.fused.operators[task]
    option = int(step.schedule.option[task])
    held_s = float(step.costs.compute_s[option])
    moving_s = float(step.costs.hbm_bytes[option]) / accelerator.sustained_hbm_bytes_per_s
    cores = f"{int(step.costs.tensor_cores[option])} tensor and {int(step.costs.vector_cores[option])} vector cores"
    flops = float(operator.work.flops)
    return Node(
        name=f"{count} x {operator.name}",
        value=time_s,
        unit="s",
        share=time_s / step.schedule.makespan_s,
        how=f"{operator.kind.value}, {operator.phase.value}, on {cores}",
        children=(
            Node(
                name="cores hold it", value=held_s, unit="s", how="cycles / sustained clock (docs/models/efficiency.md)"
            ),
            Node(name="HBM alone", value=moving_s, unit="s", how="bytes / sustained bandwidth"),
            Node(name="HBM traffic", value=float(step.costs.hbm_bytes[option]), unit="B", how="docs/models/traffic.md"),
            Node(name="FLOPs", value=flops, unit="FLOP", how="products and lane operations"),
        ),
    )


def _of_parts(
    name: str,
    unit: str,
    parts: Callable[[Accelerator, Technology], Parts],
    how: Mapping[str, str],
    accelerator: Accelerator,
    technology: Technology,
    sources: Mapping[str, str],
    *,
    page: str,
) -> Node:
    found = parts(accelerator, technology)
    total = sum(found.values())
    leaves = _dependences(parts, accelerator, technology, sources)
    children = [
        Node(name=part, value=value, unit=unit, share=value / total, how=how[part], children=leaves[part])
        for part, value in found.items()
        if value
    ]
    return Node(name=name, value=total, unit=unit, how=f"sum of its parts ({page})", children=_largest_first(children))


def _dependences(
    parts: Callable[[Accelerator, Technology], Parts],
    accelerator: Accelerator,
    technology: Technology,
    sources: Mapping[str, str],
) -> dict[str, tuple[Node, ...]]:
    """For every part the constants and fields that move it."""
    before = parts(accelerator, technology)
    found: dict[str, list[Node]] = {part: [] for part in before}

    def note(after: Parts, leaf: Callable[[float], Node]) -> None:
        for part, value in before.items():
            elasticity = (after[part] / value - 1) / RISE if value else 0.0
            if abs(elasticity) >= LEAST_ELASTICITY:
                found[part].append(leaf(elasticity))

    for field in fields(Accelerator):
        value = getattr(accelerator, field.name)
        if isinstance(value, int | float) and value and field.name != "node_nm":
            change: dict[str, Any] = {field.name: value * (1 + RISE)}
            raised = replace(accelerator, **change)
            note(parts(raised, technology), lambda e, n=field.name, v=value: _field(n, v, e, sources))  # type: ignore[misc]
    for constant in technology.constants:
        if constant.value:
            raised_technology = technology.with_values({constant.name: constant.value * (1 + RISE)})
            at_node = technology.at(constant.name, accelerator.node_nm)
            note(parts(accelerator, raised_technology), lambda e, c=constant, v=at_node: _constant(c, v, e))  # type: ignore[misc]
    return {part: _strongest_first(nodes) for part, nodes in found.items()}


def _field(name: str, value: float, elasticity: float, sources: Mapping[str, str]) -> Node:
    return Node(
        name=name,
        value=float(value),
        unit=_FIELD_UNITS.get(name, "1"),
        elasticity=elasticity,
        how="of the design",
        source=sources.get(name, "not stated: the default of the template" if sources else ""),
    )


def _constant(constant: Constant, at_node: float, elasticity: float) -> Node:
    factor = at_node / constant.value
    low, high = constant.low * factor, constant.high * factor
    scaled = f", stated for {constant.node_nm} nm and scaled by {constant.scales}" if constant.node_nm else ""
    return Node(
        name=constant.name,
        value=at_node,
        unit=constant.unit,
        elasticity=elasticity,
        how=f"{constant.status}, {constant.date}{scaled}; could be {low:.4g} to {high:.4g} {constant.unit}",
        source=constant.source,
    )


def _floats(breakdown: Any) -> dict[str, float]:
    return {part.name: float(getattr(breakdown, part.name)) for part in fields(breakdown)}


def _largest_first(nodes: list[Node]) -> tuple[Node, ...]:
    return tuple(sorted(nodes, key=lambda node: -node.value))


def _strongest_first(nodes: list[Node]) -> tuple[Node, ...]:
    return tuple(sorted(nodes, key=lambda node: (-abs(node.elasticity or 0.0), node.name)))
