"""Mining: from workloads and limits to the best designs and everything that is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from worklode.errors import Fault, SpecError
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.space import DesignSpace
from worklode.hardware.technology import Technology
from worklode.schedule.bounds import Guide
from worklode.search.candidate import Candidate
from worklode.search.certificate import NOTHING_PROVEN, Certificate, ProofOptions, prove
from worklode.search.evaluate import Evaluator
from worklode.search.evaluation import Evaluation, accelerator_dict
from worklode.search.grid import Grid
from worklode.search.infeasible import Infeasible, explain_infeasible
from worklode.search.local import LocalSearch, LocalSearchOptions, LocalSearchResult, Progress
from worklode.search.objective import Limits, Objective

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A mined design: one evaluation for each workload, and the objective over all."""

    figure: float
    evaluations: tuple[Evaluation, ...]

    @property
    def accelerator(self) -> Accelerator:
        """The design itself."""
        return self.evaluations[0].accelerator

    def to_dict(self) -> dict[str, Any]:
        """JSON form: the evaluation; for several workloads the first one's figures and all under `evaluations`."""
        document = {"objective_value": self.figure, **self.evaluations[0].to_dict()}
        if len(self.evaluations) > 1:
            document["evaluations"] = [evaluation.to_dict() for evaluation in self.evaluations]
        return document


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MiningResult:
    """What mining found.

    Attributes:
        objective, limits: what was asked.
        top_k: the best designs, best first; empty where the limits are infeasible.
        budget_baseline: the design whose area and TDP are the limits, where one was given.
        infeasible: why there is no design; empty where there is one.
        search: what the search did.
        certificate: what is proven; None where there is no design.
        interrupted: the user stopped the search; what was found until then is here.
    """

    objective: Objective
    limits: Limits
    workloads: tuple[str, ...]
    top_k: tuple[Design, ...]
    budget_baseline: Design | None
    infeasible: tuple[Infeasible, ...]
    search: LocalSearchResult
    certificate: Certificate | None
    interrupted: bool = False

    @property
    def best(self) -> Design | None:
        """The best design, or None where the limits are infeasible."""
        return self.top_k[0] if self.top_k else None

    @property
    def improvement(self) -> float | None:
        """How many times better the best design is than the budget's own, in the objective."""
        if self.best is None or self.budget_baseline is None:
            return None
        return self.budget_baseline.figure / self.best.figure

    @property
    def bound(self) -> float | None:
        """No design of the space has a smaller objective figure, on any schedule; None where nothing is proven."""
        return None if self.certificate is None else self.certificate.bound

    @property
    def optimality_gap(self) -> float | None:
        """How far the best design may be from the optimum, over configuration and schedule together [1]."""
        if self.certificate is None or self.best is None:
            return None
        return max(self.best.figure / self.certificate.bound - 1.0, 0.0)

    @property
    def designs(self) -> tuple[Mapping[str, Any], ...]:
        """Every scheduled design within the limits, best first, as plain rows."""
        return tuple(_row(rank, candidate) for rank, candidate in enumerate(self.search.candidates, start=1))

    def to_dict(self) -> dict[str, Any]:
        """JSON form (design.md, the contract of `mine`); `bound` and `optimality_gap` are null without a design."""
        return {
            "workload": [evaluation.workload.to_dict() for evaluation in self._described()],
            "objective": self.objective.value,
            "constraints": {
                "area_mm2": _finite(self.limits.area_mm2),
                "tdp_w": _finite(self.limits.tdp_w),
                "hbm_bytes": self.limits.hbm_bytes or None,
            },
            "best": None if self.best is None else self.best.to_dict(),
            "top_k": [design.to_dict() for design in self.top_k],
            "budget_baseline": None if self.budget_baseline is None else self.budget_baseline.to_dict(),
            "improvement": self.improvement,
            "bound": self.bound,
            "optimality_gap": self.optimality_gap,
            "infeasible": [reason.to_dict() for reason in self.infeasible],
            "search": {
                "space_size": self.search.space_size,
                "estimated": self.search.estimated,
                "evaluated": self.search.evaluated,
                **(NOTHING_PROVEN if self.certificate is None else self.certificate.to_dict()),
                "wall_time_s": self.search.wall_time_s,
                "out_of_time": self.search.out_of_time,
                "interrupted": self.interrupted,
            },
            "warnings": list(dict.fromkeys(text for evaluation in self._best() for text in evaluation.warnings)),
        }

    def to_frame(self) -> pd.DataFrame:
        """Every scheduled design within the limits as a table, best first; units are in the column names."""
        import pandas as pd

        return pd.DataFrame(list(self.designs))

    def _best(self) -> tuple[Evaluation, ...]:
        return () if self.best is None else self.best.evaluations

    def _described(self) -> tuple[Evaluation, ...]:
        return self._best() or (() if self.budget_baseline is None else self.budget_baseline.evaluations)


def mine(
    evaluators: Sequence[Evaluator],
    space: DesignSpace,
    technology: Technology,
    *,
    limits: Limits,
    objective: Objective,
    baseline: Accelerator | None = None,
    weights: Sequence[float] | None = None,
    options: LocalSearchOptions | None = None,
    proof: ProofOptions | None = None,
    progress: Progress | None = None,
) -> MiningResult:
    """The best designs of a space within the limits for a weighted set of workloads.

    Args:
        evaluators: one for each workload.
        space: where to look.
        technology: constants of area, power and energy.
        limits: what a design may cost.
        objective: what is minimised: the weighted geometric mean of it over the workloads.
        baseline: design to compare with; a candidate itself where it keeps the limits.
        weights: one for each workload; equal where None.
        options: how much to search.
        proof: how much to prove.
        progress: told how many designs are scheduled, and how many will be at most.

    Raises:
        SpecError: weights that do not match the workloads, or are not positive.
    """
    chosen = options or LocalSearchOptions()
    parts = tuple(weights) if weights is not None else (1.0,) * len(evaluators)
    check_weights(parts, len(evaluators))
    search = LocalSearch(evaluators, parts, Grid(space, technology), limits, objective, chosen, progress)
    seeds = () if baseline is None else (baseline,)
    how = proof or ProofOptions()
    if not chosen.climbs:
        search.announced = chosen.shapes + 2 * len(seeds) + how.explored + how.max_evaluations
    interrupted = False
    try:
        search.run(seeds)
    except KeyboardInterrupt:
        # What was found is kept, with the gap that one sweep of the space proves; a second interrupt ends it all.
        interrupted = True
        if not search.candidates():
            raise
    if interrupted:
        how = replace(how, guides=1, sharpened=0, explored=0, max_evaluations=0)
        search.options = replace(search.options, finalists=min(chosen.finalists, 1))
    # Whatever is reported is scheduled thoroughly; the proof may have found designs that belong to the best.
    certificate, guides = prove(search, how, seeds=seeds) if search.candidates() else (None, None)
    if certificate is not None:
        interrupted = interrupted or certificate.interrupted
    if chosen.finalists and not interrupted:
        search.refine_best(chosen.top_k)
        search.polish_near()
    result = search.result()
    if certificate is not None:
        result = replace(result, out_of_time=result.out_of_time or interrupted or certificate.out_of_time)
    best = result.candidates[: chosen.top_k]
    reasons = () if best else explain_infeasible(space, technology, limits)
    return MiningResult(
        objective=objective,
        limits=limits,
        workloads=tuple(evaluator.summary.name for evaluator in evaluators),
        top_k=tuple(_design(candidate, evaluators, guides) for candidate in best),
        budget_baseline=None if baseline is None else _design(search.refine(search.seen[baseline]), evaluators, guides),
        infeasible=reasons,
        search=result,
        certificate=certificate,
        interrupted=interrupted,
    )


def _design(candidate: Candidate, evaluators: Sequence[Evaluator], guides: Sequence[Guide] | None) -> Design:
    """Full evaluations of a candidate; its schedules are verified here."""
    given = guides or (None,) * len(evaluators)
    for evaluator in evaluators:  # of many designs the first are forgotten: what is reported is of the same effort
        evaluator.reported_step(candidate.accelerator, "thorough" if candidate.effort == "quick" else candidate.effort)
    evaluations = tuple(
        evaluator.evaluate(candidate.accelerator, guided_by=guide)
        for evaluator, guide in zip(evaluators, given, strict=True)
    )
    return Design(figure=candidate.figure, evaluations=evaluations)


def check_weights(weights: Sequence[float], workloads: int) -> None:
    """Refuse weights that do not match the workloads or are not positive.

    Raises:
        SpecError: every fault.
    """
    if len(weights) != workloads:
        raise SpecError(
            Fault(where="weights", value=str(len(weights)), problem="one for each workload", allowed=str(workloads))
        )
    faults = [
        Fault(where="weights", path=str(index), value=f"{weight:g}", problem="a weight is positive", allowed="> 0")
        for index, weight in enumerate(weights)
        if not 0 < weight < float("inf")
    ]
    if faults:
        raise SpecError(*faults)


def _row(rank: int, candidate: Candidate) -> dict[str, Any]:
    row, figures = candidate.row(rank), candidate.figures
    for index, found in enumerate(figures):
        suffix = "" if len(figures) == 1 else f"_{index}"
        row[f"iteration_time_s{suffix}"] = found.time_s
        row[f"energy_j{suffix}"] = found.energy_j
    return row


def _finite(limit: float) -> float | None:
    return limit if limit < float("inf") else None


__all__ = ["Design", "MiningResult", "accelerator_dict", "mine"]
