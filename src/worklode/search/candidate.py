"""Scheduled designs, and which of two is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worklode.hardware.accelerator import Accelerator
from worklode.schedule.list_scheduler import Effort
from worklode.search.aggregate import Aggregate
from worklode.search.evaluate import Evaluator, Figures
from worklode.search.objective import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A scheduled design.

    Attributes:
        accelerator: the design.
        figure: what is minimised, the objective over all evaluators (`aggregate`); smaller is better.
        figures: one for each evaluator.
        origin: how the search came to it: `budget`, `shape`, `climb`, `bound`, `exhaustive`.
        effort: of its schedules (`schedule.list_scheduler.schedule`).
    """

    accelerator: Accelerator
    figure: float
    figures: tuple[Figures, ...]
    origin: str
    effort: Effort = "quick"

    def order(self) -> tuple[float, ...]:
        """Best figure first; among equals less area, less power, then the smaller numbers."""
        a, f = self.accelerator, self.figures[0]
        sizes = (a.num_tensor_cores, a.tensor_core_rows, a.tensor_core_cols, a.num_vector_cores, a.vector_lanes)
        return (self.figure, f.area_mm2, f.tdp_w, *sizes, a.sram_bytes, a.hbm_stacks)

    def row(self, rank: int) -> dict[str, Any]:
        """As a plain row of a table."""
        a, f = self.accelerator, self.figures[0]
        return {
            "rank": rank,
            "name": a.name,
            "num_tensor_cores": a.num_tensor_cores,
            "tensor_core_rows": a.tensor_core_rows,
            "tensor_core_cols": a.tensor_core_cols,
            "num_vector_cores": a.num_vector_cores,
            "vector_lanes": a.vector_lanes,
            "sram_bytes": a.sram_bytes,
            "hbm_stacks": a.hbm_stacks,
            "hbm_bytes_per_s": a.hbm_bytes_per_s,
            "area_mm2": f.area_mm2,
            "tdp_w": f.tdp_w,
            "objective_value": self.figure,
            "origin": self.origin,
            "schedule": self.effort,
        }


def scheduled_candidate(
    evaluators: Sequence[Evaluator],
    aggregate: Aggregate,
    objective: Objective,
    accelerator: Accelerator,
    origin: str,
    *,
    effort: Effort = "quick",
) -> Candidate:
    """A design scheduled by every evaluator."""
    figures = tuple(evaluator.figures(accelerator, effort=effort) for evaluator in evaluators)
    times = [found.time_s for found in figures]
    figure = aggregate.figure(objective, times, figures[0].tdp_w, lambda k: figures[k].energy_j)
    return Candidate(accelerator=accelerator, figure=float(figure), figures=figures, origin=origin, effort=effort)
