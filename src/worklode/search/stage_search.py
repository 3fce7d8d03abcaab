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
        out_of_time: a time limit ended one of them.
    """

    def __init__(self, grid: Grid, objective: Objective, options: LocalSearchOptions, proof: ProofOptions) -> None:
        self.grid = grid
        self.objective = objective
        self.options = options
        self.proof = proof
        self.out_of_time = False
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
        if certificate.interrupted:
            raise KeyboardInterrupt  # one search of many: what it has proven so far is no answer to what was asked
        if search.options.finalists:
            search.refine_best(search.options.top_k)
        self.out_of_time = self.out_of_time or search.result().out_of_time or certificate.out_of_time
        return Searched(search=search, certificate=certificate)

    def limit_time(self, each_s: float) -> None:
        """Let every search and its proof take no longer [s]; the search has half of it."""
        self.options = replace(self.options, max_time_s=each_s / 2)
        self.proof = replace(self.proof, max_time_s=each_s)

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
        fastest: the search for the least such time.
        searched: that for the objective; the same where the objective is throughput.
    """

    stages: tuple[int, ...]
    evaluators: tuple[Evaluator, ...]
    own: MaxPlus
    limits: Limits
    fastest: Searched
    searched: Searched

    @property
    def feasible(self) -> bool:
        """Whether any design keeps the limits."""
        return self.fastest.certificate is not None

    @property
    def least_s(self) -> float:
        """No design of the space takes less for all passes of one microbatch [s]."""
        return 0.0 if self.fastest.certificate is None else self.fastest.certificate.bound

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All that was scheduled within the limits, the best of the objective first."""
        found = dict.fromkeys((*self.searched.search.candidates(), *self.fastest.search.candidates()))
        return tuple(found)

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
    return StageDesigns(
        stages=stages, evaluators=evaluators, own=narrowed, limits=limits, fastest=searched, searched=searched
    )


def narrowed_to(evaluators: Sequence[Evaluator], time: MaxPlus) -> tuple[tuple[Evaluator, ...], MaxPlus]:
    """The evaluators that a time depends on, and the time as a function of them alone."""
    used = np.zeros(len(evaluators), np.bool_)
    for factor, _ in time.terms:
        used |= (factor != 0).any(axis=0)
    chosen = np.flatnonzero(used)
    terms = tuple((np.ascontiguousarray(factor[:, chosen]), constant_s) for factor, constant_s in time.terms)
    return tuple(evaluators[int(index)] for index in chosen), replace(time, terms=terms)
