"""Mining for many devices: local search for every distinct stage, then global search for the whole iteration.

Homogeneous: one design for all stages, of one model or of several. Heterogeneous: one for each distinct stage.
Method: docs/models/global_search.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from worklode.errors import Fault, InternalError, SpecError
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.space import DesignSpace
from worklode.hardware.technology import Technology
from worklode.search.aggregate import Iterations, MaxPlus
from worklode.search.candidate import Candidate
from worklode.search.certificate import Certificate, ProofOptions
from worklode.search.distributed_result import DistributedDesign, DistributedResult, Heterogeneous, ParallelTask
from worklode.search.division import Chunks, Division
from worklode.search.evaluate import Evaluator, silicon
from worklode.search.grid import Grid
from worklode.search.heterogeneous import Mixer, cheapest_at_pace, least_time_power, own_rows, trade_offs
from worklode.search.infeasible import Infeasible, explain_infeasible
from worklode.search.iteration_model import IterationModel
from worklode.search.local import LocalSearchOptions
from worklode.search.objective import Limits, Objective
from worklode.search.parallel_evaluation import ParallelEvaluation
from worklode.search.stage_search import Searched, Searches, StageDesigns, stage_designs
from worklode.search.training_step import evaluate_divided

MemoryRule = Literal["auto", "fit", "ignore"]
# Called with what is being done, how much is done and how much there is.
Tell = Callable[[str, int, int], None]

# Designs of the global search that are simulated, best first, at least [count]; more where more are asked for.
FEWEST_SIMULATED = 16
# What rounding may add to a bound [1]; more is a defect.
TOLERANCE = 1e-6
# Effort of the search for one stage: its steps are short, and there are several.
STAGE_SEARCH = LocalSearchOptions(shapes=24, climbs=6, max_evaluations=400)
# Mixes are made of what climbs schedule on their way: exploring in their place is a fifth faster, and loses up to 1.1 %
# in throughput per watt; besides them it gains nothing (docs/models/search.md).
STAGE_PROOF = ProofOptions(explored=0)


def mine_parallel(
    tasks: Sequence[ParallelTask],
    space: DesignSpace,
    technology: Technology,
    *,
    limits: Limits,
    objective: Objective,
    memory: MemoryRule = "auto",
    baseline: Accelerator | None = None,
    top_k: int = 10,
    options: LocalSearchOptions = STAGE_SEARCH,
    proof: ProofOptions | None = None,
    workers: int = 2,
    max_time_s: float | None = None,
    tell: Tell | None = None,
) -> DistributedResult:
    """The best designs for models that are trained on many devices.

    Args:
        tasks: models and settings.
        space: of one device.
        technology: constants of area, power and energy.
        limits: area and TDP of one device.
        objective: throughput or throughput/tdp.
        memory: `fit` takes only designs whose HBM holds every stage, `ignore` any, `auto` is `fit` where the budget's
            own HBM (without a budget: the largest of the space) holds them, else `ignore`.
        baseline: design to compare with; a candidate itself where it keeps the limits.
        top_k: designs to keep, of every stage and of the whole.
        options, proof: effort of each search.
        workers: threads that bound designs; the answer does not depend on it.
        max_time_s: stop each search so that all take about this long [s].
        tell: told what is being done.

    Raises:
        SpecError: an objective of energy, or more chunks than a model can be cut into.
    """
    effort = replace(proof or STAGE_PROOF, workers=workers)
    options = replace(options, workers=workers)
    return _Mining(
        tuple(tasks), Grid(space, technology), limits, objective, memory, baseline, top_k, options, effort, tell
    ).run(max_time_s)


class _Mining:
    """One run. Where blocks do not come out even the cut is that of a reference, then that of the design found."""

    def __init__(
        self,
        tasks: tuple[ParallelTask, ...],
        grid: Grid,
        limits: Limits,
        objective: Objective,
        memory: MemoryRule,
        baseline: Accelerator | None,
        top_k: int,
        options: LocalSearchOptions,
        proof: ProofOptions,
        tell: Tell | None,
    ) -> None:
        if top_k < 1:
            raise SpecError(Fault(where="top_k", value=str(top_k), problem="too small a number", allowed=">= 1"))
        if objective.needs_energy:
            allowed = f"{Objective.THROUGHPUT}, {Objective.THROUGHPUT_PER_TDP}"
            problem = "is not minimised over many devices"
            raise SpecError(Fault(where="--objective", value=objective.value, problem=problem, allowed=allowed))
        if any(task.setting.execution != "dataflow" for task in tasks):
            problem = "kernels in streams are evaluated, not searched for"
            raise SpecError(Fault(where="--execution", problem=problem, allowed="dataflow"))
        self.started_s = time.perf_counter()
        self.tasks, self.grid, self.objective, self.baseline = tasks, grid, objective, baseline
        self.limits, self.memory, self.top_k = limits, memory, top_k
        chosen = replace(options, top_k=top_k, finalists=max(top_k, options.finalists))
        self.searches = Searches(grid, objective, chosen, proof)
        self.tell = tell or _silent
        total = sum(task.weight for task in tasks)
        self.weights = tuple(task.weight / total for task in tasks)
        middle = tuple(int(length) // 2 for length in grid.lengths)
        self.reference = baseline or grid.accelerator(middle)
        self.evaluated = 0
        self.enforced = False
        self.deadline_s = float("inf")

    def run(self, max_time_s: float | None) -> DistributedResult:
        """Search with the cut of the reference, and once more where the design found cuts otherwise."""
        self.tell("dividing over stages", 0, 0)
        first = [self._evaluate(task, self.reference) for task in self.tasks]
        self.deadline_s = float("inf") if max_time_s is None else self.started_s + max_time_s
        self.enforced = self._memory_enforced(max(max(_stage_bytes(reference)) for reference in first))
        found = self._search(first)
        if found.best is None or time.perf_counter() > self.deadline_s:
            return found
        again = [self._evaluate(task, found.best.accelerator) for task in self.tasks]
        if all(_chunks(a) == _chunks(b) for a, b in zip(first, again, strict=True)):
            return found
        other = self._search(again)
        if other.best is not None and other.best.figure < found.best.figure:
            found = other
        return replace(found, evaluated=self.evaluated, wall_time_s=time.perf_counter() - self.started_s)

    def _evaluate(
        self, task: ParallelTask, accelerator: Accelerator | Sequence[Accelerator], chunks: Chunks = ()
    ) -> ParallelEvaluation:
        return evaluate_divided(task.model, accelerator, task.setting, task.network, chunks=chunks, explain=False)

    # -- local, then global ---------------------------------------------------------------------------------------

    def _search(self, references: Sequence[ParallelEvaluation]) -> DistributedResult:
        chunks = tuple(_chunks(reference) for reference in references)
        models = [
            IterationModel(Division(task.model, task.setting, task.network, cut))
            for task, cut in zip(self.tasks, chunks, strict=True)
        ]
        needs = [_stage_bytes(reference) for reference in references]
        limits = replace(self.limits, hbm_bytes=float(max(max(need) for need in needs)) if self.enforced else 0.0)
        if self.deadline_s < float("inf"):
            # Every class is searched, for throughput/TDP twice, then the whole.
            twice = 2 if self.objective is Objective.THROUGHPUT_PER_TDP else 1
            searches = twice * sum(len(model.classes) for model in models) + 1
            self.searches.limit_time(max(self.deadline_s - time.perf_counter(), 0.0) / searches)
        seeds = () if self.baseline is None else (self.baseline,)
        classes, bound = self._local(models, needs if self.enforced else [(0,) * len(need) for need in needs], seeds)
        designs = [each for found in classes for each in found]
        for each in designs:
            ran = {id(searched): searched for searched in (each.fastest, each.searched)}
            self.evaluated += sum(len(searched.search.seen) for searched in ran.values())
        kept = dict.fromkeys(
            candidate.accelerator for each in designs for candidate in each.searched.search.candidates()[: self.top_k]
        )
        self.tell("searching the whole", len(designs), len(designs) + 1)
        evaluators, aggregate = self._whole(models)
        whole = self.searches.run(evaluators, aggregate, limits, seeds=[*dict.fromkeys([*seeds, *kept])], outside=seeds)
        self.evaluated += len(whole.search.seen)
        if whole.certificate is None:
            reasons = explain_infeasible(self.grid.space, self.grid.technology, limits)
            return self._result(chunks, classes, limits, infeasible=reasons)
        top, from_stages = self._simulated(whole, chunks, kept)
        heterogeneous = None
        # With one class of stages a mix is one design.
        if len(designs) > 1 and len(self.tasks) == 1 and all(each.feasible for each in designs):
            self.tell("mixing designs", len(designs) + 1, len(designs) + 1)
            heterogeneous = self._heterogeneous(models[0], classes[0], chunks[0], top[0], bound)
        return self._result(
            chunks,
            classes,
            limits,
            top_k=top[: self.top_k],
            from_stages=from_stages,
            certificate=whole.certificate,
            heterogeneous=heterogeneous,
            candidates=whole.search.candidates(),
        )

    def _local(
        self, models: Sequence[IterationModel], needs: Sequence[Sequence[int]], seeds: Sequence[Accelerator]
    ) -> tuple[list[tuple[StageDesigns, ...]], float]:
        """The best designs of every distinct stage of every model; for time x TDP also what bounds any mix of them.

        Args:
            models: divided models.
            needs: HBM of every stage [bytes]; 0 where it is no limit.
            seeds: designs to start from.
        """
        classes: list[tuple[StageDesigns, ...]] = []
        steps, done, bound = sum(len(model.classes) for model in models) + 1, 0, 0.0
        for model, need in zip(models, needs, strict=True):
            found: list[StageDesigns] = []
            for stages in model.classes:
                self.tell("searching stages", done, steps)
                done += 1
                limits = replace(self.limits, hbm_bytes=float(max(need[stage] for stage in stages)))
                found.append(stage_designs(self.searches, model, stages, limits, seeds))
            if self.objective is Objective.THROUGHPUT_PER_TDP and all(each.feasible for each in found):
                rows = own_rows(model.division, model.classes)
                bound, ran = least_time_power(self.searches, model, found, rows, seeds)
                found = [replace(each, searched=searched) for each, searched in zip(found, ran, strict=True)]
            classes.append(tuple(found))
        return classes, bound

    def _result(
        self,
        chunks: tuple[Chunks, ...],
        classes: Sequence[tuple[StageDesigns, ...]],
        limits: Limits,
        *,
        top_k: tuple[DistributedDesign, ...] = (),
        from_stages: DistributedDesign | None = None,
        certificate: Certificate | None = None,
        heterogeneous: Heterogeneous | None = None,
        infeasible: tuple[Infeasible, ...] = (),
        candidates: tuple[Candidate, ...] = (),
    ) -> DistributedResult:
        baseline = None
        if self.baseline is not None:
            own = self.baseline  # cut as suits it
            baseline = self._design([self._evaluate(task, own) for task in self.tasks])
        return DistributedResult(
            objective=self.objective,
            limits=limits,
            tasks=self.tasks,
            chunks=chunks,
            classes=tuple(classes),
            top_k=top_k,
            from_stages=from_stages,
            certificate=certificate,
            heterogeneous=heterogeneous,
            budget_baseline=baseline,
            infeasible=infeasible,
            candidates=candidates,
            kept_per_stage=self.top_k,
            technology=self.grid.technology,
            space_size=self.grid.space.size,
            evaluated=self.evaluated,
            wall_time_s=time.perf_counter() - self.started_s,
            out_of_time=self.searches.out_of_time,
        )

    def _memory_enforced(self, needed: int) -> bool:
        if self.memory != "auto":
            return self.memory == "fit"
        space = self.grid.space
        most = space.hbm_stacks[-1] * space.hbm_stack_bytes if self.baseline is None else self.baseline.hbm_bytes
        return needed <= most

    def _whole(self, models: Sequence[IterationModel]) -> tuple[tuple[Evaluator, ...], Iterations]:
        """All evaluators, and the iterations of all workloads as functions of their times."""
        evaluators = tuple(evaluator for model in models for evaluator in model.evaluators)
        parts, at = [], 0
        for model in models:
            width = len(model.evaluators)
            terms = []
            for factor, constant_s in model.time.terms:
                padded = np.zeros((len(factor), len(evaluators)))
                padded[:, at : at + width] = factor
                terms.append((padded, constant_s))
            parts.append(MaxPlus(terms=tuple(terms)))
            at += width
        return evaluators, Iterations(parts=tuple(parts), weights=self.weights)

    # -- simulated ------------------------------------------------------------------------------------------------

    def _design(self, evaluations: Sequence[ParallelEvaluation]) -> DistributedDesign:
        """Figures of simulated iterations."""
        powers = [_mean_tdp_w(each, self.grid.technology) for each in evaluations]
        values = [
            self.objective.figure(time_s=each.iteration_time_s, tdp_w=power, energy_j=0.0)
            for each, power in zip(evaluations, powers, strict=True)
        ]
        figure = values[0] if len(values) == 1 else float(np.exp(np.dot(self.weights, np.log(values))))
        return DistributedDesign(figure=figure, evaluations=tuple(evaluations), tdp_w=powers[0])

    def _simulated(
        self, whole: Searched, chunks: tuple[Chunks, ...], kept: dict[Accelerator, None]
    ) -> tuple[tuple[DistributedDesign, ...], DistributedDesign | None]:
        """The best designs of the global search, and the best of those that the stages kept, by simulation."""

        def simulated(candidate: Candidate) -> DistributedDesign:
            design = candidate.accelerator
            return self._design(
                [self._evaluate(task, design, cut) for task, cut in zip(self.tasks, chunks, strict=True)]
            )

        ranked = whole.search.candidates()
        some = [simulated(candidate) for candidate in ranked[: max(FEWEST_SIMULATED, self.top_k)]]
        if self.enforced:
            # What weight gradients that are put off keep depends on times, so on the design: look again.
            some = [design for design in some if all(each.fits for each in design.evaluations)] or some
        some.sort(key=lambda design: design.figure)  # stable: equal ones stay in the order of the search
        least = some[0].figure
        if whole.certificate is not None and whole.certificate.bound > least * (1 + TOLERANCE):
            raise InternalError(f"a design reaches {least}, less than the bound {whole.certificate.bound}")
        of_stages = [simulated(candidate) for candidate in ranked if candidate.accelerator in kept][: self.top_k]
        from_stages = min(of_stages, key=lambda design: design.figure, default=None)
        return tuple(some), from_stages

    def _heterogeneous(
        self,
        model: IterationModel,
        classes: tuple[StageDesigns, ...],
        chunks: Chunks,
        alike: DistributedDesign,
        bound: float,
    ) -> Heterogeneous:
        mixer = Mixer(model, classes)
        choices = [each.candidates for each in classes]
        if self.objective is Objective.THROUGHPUT:
            bound = own_rows(model.division, model.classes).time_s([each.least_s for each in classes])
            fastest = [each.fastest.best for each in classes]
            best = mixer.best([choice[: self.top_k] for choice in choices], self.objective, [fastest])
        else:
            fronts = [trade_offs(choice, each) for choice, each in zip(choices, classes, strict=True)]
            paces = sorted({each.own_s(found) for front, each in zip(fronts, classes, strict=True) for found in front})
            starts = [_at_pace(fronts, classes, pace_s) for pace_s in paces]
            best = mixer.best(fronts, self.objective, [start for start in starts if start is not None])
        undecided = 0
        least_power = None
        if self.objective is Objective.THROUGHPUT:
            pace_s = max(each.own_s(design) for each, design in zip(classes, best.designs, strict=True))
            cheap = []
            for each, choice, design in zip(classes, choices, best.designs, strict=True):
                keeps = [found for found in (*choice, design) if each.own_s(found) <= pace_s]
                known = min(keeps, key=lambda found: (found.figures[0].tdp_w, found.order()))
                found = cheapest_at_pace(self.searches, each, pace_s, known)
                undecided += found.undecided
                cheap.append(found.candidate)
            least_power = self._mixed(mixer.mix(cheap).designs, classes, chunks)
        simulated = self._mixed(best.designs, classes, chunks)
        # One design for all is a mix too.
        return Heterogeneous(
            best=min(alike, simulated, key=lambda design: design.figure),
            least_power=least_power,
            undecided=undecided,
            bound=min(bound, simulated.figure, alike.figure),
        )

    def _mixed(
        self, designs: Sequence[Candidate], classes: Sequence[StageDesigns], chunks: Chunks
    ) -> DistributedDesign:
        of_stage = {
            stage: design.accelerator for design, each in zip(designs, classes, strict=True) for stage in each.stages
        }
        accelerators = [of_stage[stage] for stage in range(self.tasks[0].setting.pipeline)]
        return self._design([self._evaluate(self.tasks[0], accelerators, chunks)])


def _at_pace(
    fronts: Sequence[Sequence[Candidate]], classes: Sequence[StageDesigns], pace_s: float
) -> list[Candidate] | None:
    """The design of least power of every class that keeps a pace; None where one has none."""
    found = []
    for front, each in zip(fronts, classes, strict=True):
        keeps = [candidate for candidate in front if each.own_s(candidate) <= pace_s]
        if not keeps:
            return None
        found.append(keeps[-1])  # fastest first, so the last has the least power
    return found


def _chunks(found: ParallelEvaluation) -> Chunks:
    """Chunks in model order."""
    return tuple(sorted(chunk for stage in found.stages for chunk in stage.segments))


def _stage_bytes(found: ParallelEvaluation) -> tuple[int, ...]:
    """HBM that each stage needs [bytes]; no accelerator changes it."""
    return tuple(0 if stage.memory is None else stage.memory.total for stage in found.stages)


def _mean_tdp_w(found: ParallelEvaluation, technology: Technology) -> float:
    """Mean TDP of a device [W]."""
    powers = {design: silicon(design, technology).tdp_w for design in set(found.accelerators)}
    return sum(powers[design] for design in found.accelerators) / len(found.accelerators)


def _silent(what: str, done: int, most: int) -> None:
    """Progress that nobody watches."""
