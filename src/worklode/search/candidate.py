"""Scheduled designs, and which of two is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worklode.hardware.accelerator import Accelerator
from worklode.schedule.list_scheduler import Effort
from worklode.search.evaluate import Evaluator, Figures
from worklode.search.objective import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A scheduled design.

    Attributes:
        accelerator: the design.
        figure: weighted geometric mean of the objective over the workloads; smaller is better.
        figures: one for each workload.
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


def scheduled_candidate(
    evaluators: Sequence[Evaluator],
    weights: Sequence[float],
    objective: Objective,
    accelerator: Accelerator,
    origin: str,
    *,
    effort: Effort = "quick",
) -> Candidate:
    """A design scheduled on every workload; `weights` add up to 1."""
    figures = tuple(evaluator.figures(accelerator, effort=effort) for evaluator in evaluators)
    values = [objective.figure(time_s=f.time_s, tdp_w=f.tdp_w, energy_j=f.energy_j) for f in figures]
    # A mean of one is that one, without the rounding of logarithms.
    mean = values[0] if len(values) == 1 else float(np.exp(np.dot(weights, np.log(values))))
    return Candidate(accelerator=accelerator, figure=mean, figures=figures, origin=origin, effort=effort)
