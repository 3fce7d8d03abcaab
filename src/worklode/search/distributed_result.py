"""What mining for many devices is asked, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.network import Network
from worklode.hardware.technology import Technology
from worklode.search.candidate import Candidate
from worklode.search.certificate import Certificate
from worklode.search.division import Chunks
from worklode.search.infeasible import Infeasible
from worklode.search.objective import Limits, Objective
from worklode.search.parallel import ParallelSetting
from worklode.search.parallel_evaluation import ParallelEvaluation
from worklode.search.segment_costs import DividedModel
from worklode.search.stage_search import StageDesigns


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParallelTask:
    """A model to train in a parallel setting.

    Attributes:
        name: of the workload.
        model: divided as the setting says.
        setting, network: where it is trained.
        weight: of the workload in the geometric mean.
    """

    name: str
    model: DividedModel
    setting: ParallelSetting
    network: Network | None
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DistributedDesign:
    """One design for all stages, or one for each class of stages, simulated on every workload.

    Attributes:
        figure: what is minimised: time, or time x mean TDP of a device; over workloads their geometric mean.
        evaluations: one for each workload.
        tdp_w: mean TDP of a device [W].
    """

    figure: float
    evaluations: tuple[ParallelEvaluation, ...]
    tdp_w: float

    @property
    def accelerator(self) -> Accelerator:
        """That of the first stage."""
        return self.evaluations[0].accelerator


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heterogeneous:
    """One design for each distinct stage.

    Attributes:
        best: of the objective.
        least_power: stages with slack have the design of least TDP that keeps the pace of the slowest; None where the
            objective weighs power already.
        undecided: designs of less power for some stage that no bound rules out: not scheduled, or too slow.
        bound: no mix of designs of the space has a smaller figure.
    """

    best: DistributedDesign
    least_power: DistributedDesign | None
    undecided: int
    bound: float

    @property
    def gap(self) -> float:
        """How far the best mix may be from the optimum [1]."""
        return max(self.best.figure / self.bound - 1.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DistributedResult:
    """What mining for many devices found.

    Attributes:
        objective, limits: what was asked; limits of one device.
        tasks: the workloads and their settings.
        chunks: (first, stop) segments of every chunk, of each workload.
        classes: local search, of each workload: its distinct stages and their best designs.
        top_k: global search: the best single designs, best first; empty where none keeps the limits.
        from_stages: the best of the designs that the local searches kept, under the whole iteration.
        certificate: of the single design, in the search's own figure, which never exceeds the simulated one.
        heterogeneous: for one workload; None for several, or where nothing keeps the limits.
        budget_baseline: the design whose area and TDP are the limits, where one was given.
        infeasible: why there is no design.
        candidates: single designs that were scheduled for the whole, best first by the search's own figure.
        kept_per_stage: designs that the local search of each stage keeps.
        technology: constants of area, power and energy.
        space_size, evaluated: designs of the space, and those that were scheduled by all searches together.
        wall_time_s: of everything [s].
        out_of_time: a time limit ended a search or its proof.
    """

    objective: Objective
    limits: Limits
    tasks: tuple[ParallelTask, ...]
    chunks: tuple[Chunks, ...]
    classes: tuple[tuple[StageDesigns, ...], ...]
    top_k: tuple[DistributedDesign, ...]
    from_stages: DistributedDesign | None
    certificate: Certificate | None
    heterogeneous: Heterogeneous | None
    budget_baseline: DistributedDesign | None
    infeasible: tuple[Infeasible, ...]
    candidates: tuple[Candidate, ...]
    kept_per_stage: int
    technology: Technology
    space_size: int
    evaluated: int
    wall_time_s: float
    out_of_time: bool

    @property
    def best(self) -> DistributedDesign | None:
        """The best single design."""
        return self.top_k[0] if self.top_k else None

    @property
    def designs(self) -> tuple[dict[str, Any], ...]:
        """Every single design that was scheduled for the whole within the limits, best first, as plain rows."""
        return tuple(candidate.row(rank) for rank, candidate in enumerate(self.candidates, start=1))

    @property
    def improvement(self) -> float | None:
        """How many times better the best single design is than the budget's own."""
        if self.best is None or self.budget_baseline is None:
            return None
        return self.budget_baseline.figure / self.best.figure

    @property
    def optimality_gap(self) -> float | None:
        """How far the best single design may be from the optimum of the space, schedules included [1]."""
        if self.best is None or self.certificate is None:
            return None
        return max(self.best.figure / self.certificate.bound - 1.0, 0.0)

    @property
    def regret(self) -> float | None:
        """How much worse the best of the stages' kept designs is than the best found in the whole space [1]."""
        if self.best is None or self.from_stages is None:
            return None
        return max(self.from_stages.figure / self.best.figure - 1.0, 0.0)
