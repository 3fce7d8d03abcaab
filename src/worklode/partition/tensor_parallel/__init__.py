"""Tensor and expert parallelism: from the training graph of one device to that of one shard of several.

A plan says how parameters are divided; loops of the captured operators say what that does to everything else.
Collectives appear as operators where a result needs what other devices hold. See docs/models/tensor_parallel.md.
"""

from __future__ import annotations

from dataclasses import replace

from worklode.errors import Fault, SpecError
from worklode.graph.operator import TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.validate import require_valid
from worklode.partition.plan import TensorPlan
from worklode.partition.tensor_parallel.builder import ShardBuilder
from worklode.partition.tensor_parallel.division import Divider
from worklode.partition.tensor_parallel.holdings import Holdings
from worklode.partition.tensor_parallel.layout import Layout
from worklode.partition.tensor_parallel.parameters import ParameterLayouts, goals, parameter_layouts
from worklode.partition.tensor_parallel.report import ShardedGraph, ShardReport, parameter_elements, shard_report
from worklode.partition.tensor_parallel.sequence import sequence_layouts
from worklode.partition.tensor_parallel.sharder import Sharder

__all__ = ["ShardReport", "ShardedGraph", "shard"]


def shard(graph: TrainingGraph, plan: TensorPlan, *, devices: int, sequence_parallel: bool = False) -> ShardedGraph:
    """The training graph of one of `devices` devices that share a model.

    Args:
        graph: the captured, unfused training graph of one device.
        plan: how parameters are divided. One that divides experts makes the axis that of experts: every device then
            brings a batch of its own, and tokens travel to their experts and back.
        devices: devices along the axis; with 1 the graph stays as it is.
        sequence_parallel: what tensor parallelism leaves whole (norms, dropout, residuals) is divided by sequence.

    Raises:
        SpecError: the devices do not divide what the plan divides, or the graph cannot be divided; with every fault.
    """
    _check(graph, plan, devices, sequence_parallel)
    axis = "expert" if plan.is_expert_parallel else "tensor"
    if devices == 1:
        return ShardedGraph(
            graph=graph, report=shard_report(graph, graph, plan, devices, axis, ParameterLayouts(), None)
        )
    parameters = parameter_layouts(graph, plan, devices)
    faults = list(_without_repeats(parameters.faults)) + _unmatched(plan, parameters)
    before = len(faults)
    sequence = sequence_layouts(graph, devices, faults) if sequence_parallel else {}
    if len(faults) > before:
        raise SpecError(*faults)
    wanted = goals(graph, parameters, devices)
    builder = ShardBuilder(axis, devices)
    divider = Divider(
        where=graph.info.name,
        devices=devices,
        parameters=parameters.layout,
        goals=wanted,
        sequence=sequence,
        sizes=[tensor.bytes for tensor in graph.tensors],
    )
    holdings = Holdings(graph=graph, builder=builder, sources=_sources(graph, parameters, wanted, sequence))
    sharder = Sharder(graph=graph, divider=divider, builder=builder, holdings=holdings, sequence=sequence)
    sharder.run()
    faults.extend(divider.faults.values())
    if faults:
        raise SpecError(*faults)
    whole, trained = parameter_elements(builder.tensors, graph)
    info = replace(
        graph.info,
        parameters=whole,
        trainable_parameters=trained,
        options=_options(graph, axis, devices, sequence_parallel),
        notes=graph.info.notes
        + tuple(
            f"{name}: {rows} rows padded to {padded}, so that {devices} devices divide them"
            for name, (rows, padded) in parameters.padded.items()
        ),
    )
    made = TrainingGraph(
        info=info,
        tensors=builder.finished(),
        operators=tuple(builder.operators),
        blocks=graph.blocks,
        loops=tuple(builder.loops),
    )
    require_valid(made, "tensor parallelism")
    return ShardedGraph(graph=made, report=shard_report(graph, made, plan, devices, axis, parameters, sharder))


def _check(graph: TrainingGraph, plan: TensorPlan, devices: int, sequence_parallel: bool) -> None:
    """Refuse what cannot be meant."""
    faults = []
    if devices < 1:
        faults.append(
            Fault(where=plan.name, path="devices", value=str(devices), problem="is not positive", allowed=">= 1")
        )
    if len(graph.loops) != len(graph.operators):
        faults.append(
            Fault(
                where=graph.info.name,
                problem="the graph does not say how its operators index their operands",
                allowed="a captured graph that was not fused, cut or changed",
            )
        )
    if plan.is_expert_parallel and sequence_parallel:
        faults.append(
            Fault(
                where=plan.name,
                path="sequence_parallel",
                problem="means nothing along the axis of experts, whose devices have tokens of their own",
                allowed="sequence parallelism along the tensor axis",
            )
        )
    if faults:
        raise SpecError(*faults)


def _without_repeats(faults: list[Fault]) -> tuple[Fault, ...]:
    return tuple({(fault.path, fault.value): fault for fault in faults}.values())


def _unmatched(plan: TensorPlan, parameters: ParameterLayouts) -> list[Fault]:
    """Rules without a parameter: a mistyped path, unless the plan covers variants of a model and others fit."""
    if plan.covers_variants and len(parameters.unmatched) < len(plan.rules):
        return []
    return [
        Fault(where=plan.name, path=rule.pattern, problem="names no parameter", allowed="a path of the model")
        for rule in parameters.unmatched
    ]


def _sources(
    graph: TrainingGraph, parameters: ParameterLayouts, wanted: dict[int, Layout], sequence: dict[int, Layout]
) -> dict[int, Layout]:
    """How the tensors are held that exist before the iteration."""
    found: dict[int, Layout] = {}
    for index, tensor in enumerate(graph.tensors):
        if tensor.producer != -1:
            continue
        if tensor.role is TensorRole.INPUT:
            if index in sequence and not tensor.dtype.startswith("int"):
                found[index] = sequence[index]
        elif index in parameters.layout:
            found[index] = parameters.layout[index]
        elif index in wanted and tensor.role in {TensorRole.GRADIENT, TensorRole.OPTIMIZER_STATE}:
            found[index] = wanted[index]
    return found


def _options(graph: TrainingGraph, axis: str, devices: int, sequence_parallel: bool) -> tuple[tuple[str, str], ...]:
    options = dict(graph.info.options) | {f"{axis}_parallel": str(devices)}
    if sequence_parallel:
        options["sequence_parallel"] = "true"
    return tuple(sorted(options.items()))
