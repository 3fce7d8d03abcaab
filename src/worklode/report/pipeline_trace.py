"""The trace file of a simulated pipeline for ui.perfetto.dev."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from worklode.schedule.pipeline_trace import pipeline_trace_records

if TYPE_CHECKING:
    from worklode.schedule.pipeline import PipelineTimeline


def pipeline_trace_text(timeline: PipelineTimeline, workload: str) -> str:
    """Text of the trace file: one lane per stage and link, activations as counters.

    Args:
        timeline: as `simulate` gives it.
        workload: name of what is trained.
    """
    problem = timeline.problem
    facts = {
        "workload": workload,
        "schedule": str(problem.schedule),
        "stages": problem.num_stages,
        "microbatches": problem.num_microbatches,
        "makespan_s": timeline.makespan_s,
        "bubble_fraction": timeline.bubble_fraction,
    }
    document = {"displayTimeUnit": "ns", "otherData": facts, "traceEvents": pipeline_trace_records(timeline)}
    return json.dumps(document, separators=(",", ":"), allow_nan=False)
