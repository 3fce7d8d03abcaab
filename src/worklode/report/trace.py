"""The trace file of a scheduled step for ui.perfetto.dev: the schedule's events and what is known of each operator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from worklode.schedule.trace import trace_records

if TYPE_CHECKING:
    from worklode.graph.operator import Operator
    from worklode.graph.training_graph import TrainingGraph
    from worklode.schedule.problem import Schedule, ScheduleProblem


def trace_text(graph: TrainingGraph, problem: ScheduleProblem, schedule: Schedule) -> str:
    """Text of the trace file.

    Args:
        graph: the fused graph the problem was made from; its operators are the tasks.
        problem: what was scheduled.
        schedule: with segments, or the HBM counter is left out.
    """
    operators = graph.operators
    records = trace_records(
        problem,
        schedule,
        names=[operator.name for operator in operators],
        categories=[operator.phase.value for operator in operators],
    )
    for record in records:
        arguments = record.get("args")
        if isinstance(arguments, dict) and "task" in arguments:
            task = arguments["task"]
            option, share = arguments.pop("option", schedule.option[task]), arguments.get("share", 1.0)
            arguments |= _facts(operators[task]) | {"hbm_bytes": float(problem.hbm_bytes[option]) * share}
    document = {"displayTimeUnit": "ns", "otherData": {"workload": graph.info.name}, "traceEvents": records}
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def _facts(operator: Operator) -> dict[str, Any]:
    """What a person wants to know of an operator they click on."""
    facts: dict[str, Any] = {"module": operator.module, "kind": operator.kind.value, "phase": operator.phase.value}
    if operator.gradient_of:
        facts["gradient_of"] = operator.gradient_of
    if operator.members:
        facts["fused_operators"] = len(operator.members)
    return facts
