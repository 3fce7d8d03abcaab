"""Local search for the stages of a divided model: the best designs of every distinct stage, and what bounds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from worklode.hardware.accelerator import Accelerator
from worklode.search.aggregate import Aggregate, Iterations, MaxPlus
from worklode.search.candidate import Candidate
from worklode.search.certificate import Certificate, ProofOptions, prove
from worklode.search.evaluate import Evaluator
from worklode.search.grid import Grid
from worklode.search.iteration_model import IterationModel
from worklode.search.local import LocalSearch, LocalSearchOptions
from worklode.search.objective import Limits, Objective
from worklode.search.tables import WorkloadTables


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Searched:
    """A local search that has run, and its certificate; None where no design keeps the limits."""

    search: LocalSearch
    certificate: Certificate | None

    @property
    def best(self) -> Candidate:
        """The best design found."""
        return self.search.candidates()[0]


class Searches:
    """Searches over one grid that share tables, one for each evaluator.

    Attributes:
        grid: where all look.
        objective: what the whole is searched for.
        options, proof: effort of each search.
    """

    def __init__(self, grid: Grid, objective: Objective, options: LocalSearchOptions, proof: ProofOptions) -> None:
        self.grid = grid
        self.objective = objective
        self.options = options
        self.proof = proof
        self._tables: dict[int, WorkloadTables] = {}
        self._kept: list[Evaluator] = []  # an id stands for its evaluator as long as that lives

    def run(
        self,
        evaluators: Sequence[Evaluator],
        aggregate: Aggregate,
        limits: Limits,
        *,
        objective: Objective | None = None,
        seeds: Sequence[Accelerator] = (),
        outside: Sequence[Accelerator] = (),
        options: LocalSearchOptions | None = None,
        proof: ProofOptions | None = None,
    ) -> Searched:
        """Search and prove.

        Args:
            evaluators, aggregate: what a design's figure is made of.
            limits: of a design.
            objective: where not that of all searches.
            seeds: designs to start from.
            outside: those of them that the claim must cover although they may not be in the space.
            options, proof: effort where not that of all searches.
        """
        search = LocalSearch(
            evaluators,
            aggregate,
            self.grid,
            limits,
            objective or self.objective,
            options or self.options,
            tables=[self._table(evaluator) for evaluator in evaluators],
        )
        search.run(seeds)
        if not search.candidates():
            return Searched(search=search, certificate=None)
        certificate, _ = prove(search, proof or self.proof, seeds=tuple(outside))
        if search.options.finalists:
            search.refine_best(search.options.top_k)
        return Searched(search=search, certificate=certificate)

    def _table(self, evaluator: Evaluator) -> WorkloadTables:
        if id(evaluator) not in self._tables:
            self._kept.append(evaluator)
            self._tables[id(evaluator)] = WorkloadTables(evaluator, self.grid)
        return self._tables[id(evaluator)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageDesigns:
    """What was found for stages with the same passes.

    Attributes:
        stages: which they are.
        evaluators: of its passes.
        own: time of all passes of one microbatch.
        limits: of a design of such a stage.
        searched: for the least time of these passes (or least time x TDP).
        least_s: no design of the space takes less for them [s].
    """

    stages: tuple[int, ...]
    evaluators: tuple[Evaluator, ...]
    own: MaxPlus
    limits: Limits
    searched: Searched
    least_s: float

    def own_s(self, candidate: Candidate) -> float:
        """Time of all passes of one microbatch on a design [s]."""
        return float(self.own.time_s([found.time_s for found in candidate.figures]))


def stage_designs(
    searches: Searches, model: IterationModel, stages: tuple[int, ...], limits: Limits, seeds: Sequence[Accelerator]
) -> StageDesigns:
    """The best designs for stages with the same passes: those of least time for one microbatch.

    Args:
        searches: effort, and tables known already.
        model: the divided model.
        stages: with the same passes.
        limits: of their designs, memory included.
        seeds: designs to start from; the claim covers them.
    """
    own = model.stages[stages[0]].own
    evaluators, narrowed = narrowed_to(model.evaluators, MaxPlus.of([own]))
    searched = searches.run(
        evaluators,
        Iterations(parts=(narrowed,)),
        limits,
        objective=Objective.THROUGHPUT,
        seeds=seeds,
        outside=seeds,
    )
    least_s = 0.0 if searched.certificate is None else searched.certificate.bound
    return StageDesigns(
        stages=stages, evaluators=evaluators, own=narrowed, limits=limits, searched=searched, least_s=least_s
    )


def narrowed_to(evaluators: Sequence[Evaluator], time: MaxPlus) -> tuple[tuple[Evaluator, ...], MaxPlus]:
    """The evaluators that a time depends on, and the time as a function of them alone."""
    used = np.zeros(len(evaluators), np.bool_)
    for factor, _ in time.terms:
        used |= (factor != 0).any(axis=0)
    chosen = np.flatnonzero(used)
    terms = tuple((np.ascontiguousarray(factor[:, chosen]), constant_s) for factor, constant_s in time.terms)
    return tuple(evaluators[int(index)] for index in chosen), replace(time, terms=terms)
