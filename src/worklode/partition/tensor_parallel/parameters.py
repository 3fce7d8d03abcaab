"""Which digit of every parameter a plan divides, and how gradients and optimizer state follow.

A graph holds no shapes of parameters: the output features of a weight follow from the first product that reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from worklode.errors import Fault
from worklode.graph.loops import LoopKind, Nest
from worklode.graph.operator import OperatorKind, Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.partition.plan import PlanRule, Style, TensorPlan
from worklode.partition.tensor_parallel.layout import WHOLE, Form, Layout, divided, layout_under, locate

_STREAMS = (OperatorKind.ELEMENTWISE, OperatorKind.MOVEMENT, OperatorKind.OPTIMIZER)


@dataclass(slots=True, kw_only=True)
class ParameterLayouts:
    """What follows from a plan before anything is divided.

    Attributes:
        layout: tensor -> how it is held, for parameters, and for tensors that are only cast or copied ones.
        padded: name of a parameter -> (rows, rows with padding) where a vocabulary is padded.
        unmatched: rules that name no parameter.
        faults: parameters that cannot be divided so.
    """

    layout: dict[int, Layout] = field(default_factory=dict)
    padded: dict[str, tuple[int, int]] = field(default_factory=dict)
    unmatched: tuple[PlanRule, ...] = ()
    faults: list[Fault] = field(default_factory=list)


def parameter_layouts(graph: TrainingGraph, plan: TensorPlan, devices: int) -> ParameterLayouts:
    """How every parameter of a graph is held under a plan."""
    found = ParameterLayouts()
    readers = _forward_readers(graph)
    used: set[PlanRule] = set()
    for index, tensor in enumerate(graph.tensors):
        if tensor.role is not TensorRole.PARAMETER or tensor.producer != -1:
            continue
        rule = plan.rule_for(tensor.name)
        if rule is not None:
            used.add(rule)
        found.layout[index] = WHOLE
        if rule is None or rule.style in {Style.SEQUENCE, Style.REPLICATE}:
            continue
        use = _first_use(graph, readers, index)
        if use is None:
            if index in readers:
                name = graph.operators[readers[index][0][0]].name
                problem = f"the plan divides a parameter of {name}, which no rule can divide"
                path = wildcards(tensor.name)
                found.faults.append(
                    Fault(where=plan.name, path=path, problem=problem, allowed="a plan that replicates it")
                )
            continue
        nest, strides = use
        loop = _loop_to_divide(nest, strides, rule.style)
        if loop is not None:
            found.layout[index] = _divided_along(found, plan, rule, tensor.name, nest, strides, loop, devices)
    found.unmatched = tuple(
        rule for rule in plan.rules if rule not in used and rule.style not in {Style.SEQUENCE, Style.REPLICATE}
    )
    _pass_on(graph, found, devices)
    return found


def _forward_readers(graph: TrainingGraph) -> dict[int, list[tuple[int, int]]]:
    """Tensor -> (operator, place among its operands) of forward."""
    readers: dict[int, list[tuple[int, int]]] = {}
    for index, (operator, loops) in enumerate(zip(graph.operators, graph.loops, strict=True)):
        if operator.phase in {Phase.FORWARD, Phase.LOSS}:
            for place, tensor in enumerate(loops.operands):
                if tensor >= 0:
                    readers.setdefault(tensor, []).append((index, place))
    return readers


def _first_use(
    graph: TrainingGraph, readers: dict[int, list[tuple[int, int]]], tensor: int
) -> tuple[Nest, tuple[int, ...]] | None:
    """Loops and strides of the first product or look-up that reads a parameter, through casts; else of any reader."""
    fallback: tuple[Nest, tuple[int, ...]] | None = None
    for index, place in readers.get(tensor, ()):
        loops = graph.loops[index]
        if loops.nest is None:
            continue
        strides = loops.nest.operand(place)
        if loops.nest.products or LoopKind.LOOKUP in loops.nest.kinds:
            return loops.nest, strides
        if len(loops.operands) == 1 and graph.operators[index].kind in _STREAMS and loops.results[0] >= 0:
            through = _first_use(graph, readers, loops.results[0])
            if through is not None:
                return through
        fallback = fallback or (loops.nest, strides)
    return fallback


def _loop_to_divide(nest: Nest, strides: tuple[int, ...], style: Style) -> int | None:
    """The loop along which a style divides the operand of these strides; None where it leaves it whole."""
    own = [loop for loop, stride in enumerate(strides) if stride > 0 and nest.sizes[loop] > 1]
    if not own:
        return None
    if len(own) == 1:  # a bias: rowwise ones are added once, to the sum
        return None if style in {Style.ROWWISE, Style.EXPERT} else own[0]
    rows = [loop for loop in own if nest.kinds[loop] is LoopKind.LOOKUP]
    if rows:
        columns = [loop for loop in own if loop not in rows]
        return rows[0] if style in {Style.VOCAB, Style.ROWWISE} else columns[0] if style is Style.COLWISE else None
    if not nest.products:
        return own[0] if style in {Style.EXPERT, Style.COLWISE, Style.VOCAB} else own[-1]
    batch, m, n, k = nest.product(0)
    outputs = [loop for loop in own if (n if any(n >> o & 1 for o in own) else m) >> loop & 1]
    inputs = [loop for loop in own if k >> loop & 1]
    experts = [loop for loop in own if batch >> loop & 1]
    chosen = {Style.ROWWISE: inputs, Style.EXPERT: experts}.get(style, outputs)
    return chosen[0] if chosen else None


def _divided_along(
    found: ParameterLayouts,
    plan: TensorPlan,
    rule: PlanRule,
    name: str,
    nest: Nest,
    strides: tuple[int, ...],
    loop: int,
    devices: int,
) -> Layout:
    """The layout of a parameter divided along a loop, padded if it is a vocabulary; a fault where t does not divide."""
    size, stride = nest.sizes[loop], strides[loop]
    if rule.style is Style.VOCAB and size % devices:
        multiple = plan.vocabulary_multiple * devices
        rows = -(-size // multiple) * multiple
        found.padded[name] = (size, rows)
        return divided(Fraction(stride * size, devices), Fraction(rows // devices, size))
    if size % (rule.parts * devices):
        part = f" in {rule.parts} parts" if rule.parts > 1 else ""
        what = {Style.ROWWISE: "input features", Style.EXPERT: "experts"}.get(rule.style, "output features")
        found.faults.append(
            Fault(
                where=plan.name,
                path=wildcards(name),
                value=f"{size} {what}{part}",
                problem=f"{devices} devices do not divide it",
                allowed=f"a number of devices that divides {size // rule.parts}",
            )
        )
        return WHOLE
    return divided(Fraction(stride * size, rule.parts * devices), Fraction(1, devices))


def wildcards(name: str) -> str:
    """A path with its numbers replaced, so that equal faults of equal layers are one."""
    return re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name)


def _pass_on(graph: TrainingGraph, found: ParameterLayouts, devices: int) -> None:
    """Casts and copies of parameters (autocast) are held as they are."""
    for operator, loops in zip(graph.operators, graph.loops, strict=True):
        if operator.kind not in _STREAMS or operator.phase is Phase.OPTIMIZER or loops.nest is None:
            continue
        if not loops.operands or any(tensor not in found.layout for tensor in loops.operands):
            continue
        for place, tensor in enumerate(loops.operands):
            cut = locate(loops.nest, loops.nest.operand(place), found.layout[tensor], devices)
            for number, result in enumerate(loops.results):
                if cut is not None:
                    found.layout[result] = layout_under(cut, loops.nest.result(number))
                else:
                    found.layout.setdefault(result, WHOLE)


# ------------------------------------------------------------------------------------------- gradients and state


def goals(graph: TrainingGraph, parameters: ParameterLayouts, devices: int) -> dict[int, Layout]:
    """How gradients and optimizer state must be held: tensor -> layout, read backwards from the optimizer.

    An optimizer operator runs over the elements of a parameter, so its division names that of every other operand; sums
    and casts on the way hand it on to what they are made of.
    """
    found: dict[int, Layout] = {}
    for operator, loops in reversed(list(zip(graph.operators, graph.loops, strict=True))):
        nest = loops.nest
        if nest is None or operator.phase in {Phase.FORWARD, Phase.LOSS}:
            continue
        if operator.phase is Phase.OPTIMIZER:
            known = [(p, parameters.layout[t]) for p, t in enumerate(loops.operands) if t in parameters.layout]
            strides = [(nest.operand(place), layout) for place, layout in known]
        elif operator.kind in _STREAMS and not nest.products and set(nest.kinds) <= {LoopKind.FREE}:
            strides = [(nest.result(n), found[t]) for n, t in enumerate(loops.results) if t in found]
        else:
            continue
        if not strides:
            continue
        cut = next((c for s, layout in strides if (c := locate(nest, s, layout, devices)) is not None), None)
        for place, tensor in enumerate(loops.operands):
            own = nest.operand(place)
            covers = all(s > 0 or nest.sizes[loop] == 1 for loop, s in enumerate(own))
            if tensor >= 0 and tensor not in parameters.layout and (covers or operator.phase is Phase.OPTIMIZER):
                found.setdefault(tensor, layout_under(cut, own) if cut is not None else WHOLE)
    for index, layout in _by_name(graph, parameters):
        found.setdefault(index, layout)
    return found


def _by_name(graph: TrainingGraph, parameters: ParameterLayouts) -> Iterator[tuple[int, Layout]]:
    """Gradients and state that no optimizer operator of the graph reads, by the name they share with a parameter."""
    by_name = {graph.tensors[i].name: (layout, graph.tensors[i].bytes) for i, layout in parameters.layout.items()}
    for index, tensor in enumerate(graph.tensors):
        if tensor.role in {TensorRole.GRADIENT, TensorRole.OPTIMIZER_STATE} and tensor.name in by_name:
            layout, size = by_name[tensor.name]
            if layout.form is Form.DIVIDED and tensor.bytes * 4 >= size:  # a step count is no state of an element
                yield index, layout
