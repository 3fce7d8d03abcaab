"""Heuristic against exact: how far search and scheduler without a proof are from exact answers, and what each costs.

Three comparisons for each workload of an evaluation (the paper holds its critical-path heuristic against an ILP):

- a coarse space, small enough that every design of it is scheduled: climbing along the critical path, the search that
  bounds lead, and every design;
- the whole space: climbing along the critical path, and `mine`, which proves how far from optimal it is;
- the schedule of the mined design: against its lower bound, and, for a part of some dozens of operators, list
  scheduling against CP-SAT (docs/models/exact.md), which needs OR-tools.

Times are CPU seconds of the process, compiled code being loaded before; every search begins with empty cost tables. The
answers for a workload are one file of the evaluation's folder and never made again.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from typing import Any, TypeVar

from worklode.graph.subgraph import block_instance, subgraph
from worklode.graph.training_graph import TrainingGraph
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.design_arrays import SEARCHED_FIELDS
from worklode.hardware.space import DesignSpace
from worklode.search.candidate import Candidate
from worklode.search.certificate import ProofOptions, prove
from worklode.search.contest.judging import contest
from worklode.search.evaluate import Evaluator
from worklode.search.exact_search import mine_exactly
from worklode.search.exhaustive import exhaustive
from worklode.search.grid import Grid
from worklode.search.local import ALONE, LocalSearch, LocalSearchOptions
from worklode.search.mining import MiningResult
from worklode.search.objective import Limits, Objective
from worklode.study.bench import BenchRequest, BenchWorkload, Progress, mined_whole
from worklode.study.bench_directory import BenchDirectory
from worklode.study.exactness_rows import CoarseRow, ExactnessRow, PartRow, ScheduleRow, Searched, SpaceRow
from worklode.study.sources import source_digest

# Designs of a coarse space, at most [count]. Choice: some 20 CPU seconds at 4 ms a design, what the slowest of the
# paper's models takes (GNMT; the others 0.6 to 2 ms).
MOST_COARSE = 5_000
# Operators of a block that goes to CP-SAT as it is, at most, and of the part that is taken where a model has no such
# block [count]. Choice: some dozens are what CP-SAT proves anything of (docs/models/exact.md).
MOST_BLOCK, PART = 60, 40
# Work of CP-SAT on one part, in its deterministic time [about a second each]. Choice: what it has not proven in seconds
# it hardly proves in minutes.
SOLVER_WORK = 10.0
NO_SOLVER = "OR-tools is not installed"
_FILE = "exactness-"
T = TypeVar("T")


def exactness_rows(
    request: BenchRequest, directory: BenchDirectory, progress: Progress | None = None
) -> tuple[ExactnessRow, ...]:
    """One row for each workload; those the directory has are read, the others made and kept.

    Args:
        request: workloads, space, objective and limits of the evaluation.
        directory: its folder, open.
        progress: told what is being done.
    """
    found = []
    for index, workload in enumerate(request.workloads):
        row = _known(directory, workload.name)
        if row is None:
            if progress is not None:
                progress(f"{workload.name}: heuristic against exact", index, len(request.workloads))
            row = _row(request, workload)
            directory.write_reference(_FILE + workload.name, asdict(row), source=source_digest(__name__))
        found.append(row)
    return tuple(found)


def coarse_space(space: DesignSpace, most: int = MOST_COARSE) -> DesignSpace:
    """A part of a space with at most so many designs: a rule, so that nobody picks values.

    Again and again the set with the most values (the first of equal ones, in the order of `SEARCHED_FIELDS`) loses
    every second value, and keeps its first.
    """
    sets: dict[str, Any] = {name: getattr(space, name) for name in SEARCHED_FIELDS}
    while math.prod(len(values) for values in sets.values()) > most:
        longest = max(sets, key=lambda name: len(sets[name]))
        sets[longest] = sets[longest][::2]
    return replace(space, **sets)


def part_of(graph: TrainingGraph) -> tuple[str, TrainingGraph]:
    """What of a fused graph goes to exact scheduling, by name: its largest repeated block that is not too large.

    That is at most `MOST_BLOCK` operators. Of a block the second instance, whose neighbours are blocks too; of equal
    blocks the first. Where there is none, the first `PART` operators of the graph.
    """
    sizes = [
        sum(1 for operator in graph.operators if operator.block == block and operator.instance == 1)
        for block in range(len(graph.blocks))
    ]
    fitting = [block for block, size in enumerate(sizes) if 0 < size <= MOST_BLOCK]
    if not fitting:
        kept = range(min(PART, len(graph.operators)))
        return f"first {len(kept)} operators", subgraph(graph, kept)
    largest = max(fitting, key=lambda block: sizes[block])
    run = graph.blocks[largest]
    return f"{run.path}.{run.first + 1}", block_instance(graph, largest, 1)


def _row(request: BenchRequest, workload: BenchWorkload) -> ExactnessRow:
    grid, objective, limits, baseline = request.grid, request.objective, workload.limits, request.baseline
    task = _Task(evaluator=workload.evaluator, grid=grid, limits=limits, objective=objective)
    _warm(task, baseline)
    coarse = _coarse_row(replace(task, grid=Grid(coarse_space(grid.space), grid.technology)))
    space, result = _space_row(task, baseline)
    schedule = None if result.best is None else _schedule_row(workload.evaluator, result)
    return ExactnessRow(model=workload.name, coarse=coarse, space=space, schedule=schedule)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Task:
    """One workload on one space."""

    evaluator: Evaluator
    grid: Grid
    limits: Limits
    objective: Objective

    def evaluators(self) -> tuple[Evaluator, ...]:
        """The evaluator with empty cost tables, so that every search pays for those it needs."""
        parts = ("", [self.evaluator], [1.0], self.grid, self.limits, self.objective)
        return contest(*parts).problem().evaluators

    def search(self, options: LocalSearchOptions) -> LocalSearch:
        """A local search that has not run."""
        return LocalSearch(self.evaluators(), (1.0,), self.grid, self.limits, self.objective, options)

    def mine(self, baseline: Accelerator | None, **options: Any) -> MiningResult:
        """`mine`."""
        space, technology = self.grid.space, self.grid.technology
        parts = (self.evaluators(), space, technology)
        return mined_whole(*parts, limits=self.limits, objective=self.objective, baseline=baseline, **options)


def _coarse_row(task: _Task) -> CoarseRow:
    options = replace(ALONE, finalists=0)  # quick schedules, as the exhaustive search makes
    every, exhaustive_cpu_s = _timed(
        lambda: exhaustive(task.evaluators(), (1.0,), task.grid, task.limits, task.objective)
    )
    alone, alone_cpu_s = _timed(lambda: task.search(options).run())

    def prune() -> tuple[LocalSearch, bool]:
        search = task.search(LocalSearchOptions(finalists=0))
        search.run()
        if not search.candidates():
            return search, False
        certificate, _ = prove(search, ProofOptions(max_evaluations=task.grid.space.size))
        if certificate.interrupted:
            raise KeyboardInterrupt  # what it has proven so far is no answer here
        return search, certificate.complete

    (pruned, complete), pruned_cpu_s = _timed(prune)
    exact = _searched(every.candidates, every.space_size, exhaustive_cpu_s)
    heuristic = _searched(alone.candidates, alone.evaluated, alone_cpu_s)
    proven = _searched(pruned.candidates(), len(pruned.seen), pruned_cpu_s)
    return CoarseRow(
        space_size=every.space_size,
        within_limits=len(every.candidates),
        exhaustive=exact,
        heuristic=heuristic,
        pruned=proven,
        heuristic_over_exhaustive=_over(heuristic.figure, exact.figure),
        pruned_over_exhaustive=_over(proven.figure, exact.figure),
        complete=complete,
    )


def _space_row(task: _Task, baseline: Accelerator | None) -> tuple[SpaceRow, MiningResult]:
    seeds = () if baseline is None else (baseline,)
    options = ALONE

    def alone() -> LocalSearch:
        search = task.search(options)
        search.run(seeds)
        # What `mine` does to what it reports, with nothing proven before.
        search.refine_best(options.top_k)
        search.polish_near()
        return search

    search, heuristic_cpu_s = _timed(alone)
    result, mined_cpu_s = _timed(lambda: task.mine(baseline))
    heuristic = _searched(search.candidates(), len(search.seen), heuristic_cpu_s)
    mined = _searched(result.search.candidates, result.search.evaluated, mined_cpu_s)
    certificate = result.certificate
    return SpaceRow(
        space_size=task.grid.space.size,
        within_limits=0 if certificate is None else certificate.within_limits,
        heuristic=heuristic,
        mined=mined,
        heuristic_over_mined=_over(heuristic.figure, mined.figure),
        bound=result.bound,
        heuristic_gap=_gap(heuristic.figure, result.bound),
        mined_gap=result.optimality_gap,
        undecided=0 if certificate is None else certificate.undecided,
    ), result


def _schedule_row(evaluator: Evaluator, result: MiningResult) -> ScheduleRow:
    assert result.best is not None
    chip, evaluation = result.best.accelerator, result.best.evaluations[0]
    name, part = part_of(evaluator.fused)
    small = Evaluator(part, evaluator.technology, mode=evaluator.mode)
    missing = find_spec("ortools") is None
    return ScheduleRow(
        design=design_text(chip),
        iteration_time_s=evaluation.iteration_time_s,
        lower_bound_s=evaluation.lower_bound_s,
        gap=evaluation.iteration_time_s / evaluation.lower_bound_s - 1.0,
        part=name,
        operators=len(small.fused.operators),
        skipped=NO_SOLVER if missing else None,
        exact=None if missing else _part_row(small, chip),
    )


def _part_row(evaluator: Evaluator, chip: Accelerator) -> PartRow:
    """Both schedules of a part on a design; the cost tables are made before."""
    importlib.import_module("ortools.sat.python.cp_model")  # loading it is charged to nobody
    whole = evaluator.uninterrupted()
    interrupted_s = evaluator.step(chip, segments=True, effort="thorough").schedule.makespan_s
    whole.step(chip, segments=True, effort="thorough")
    listed, listed_cpu_s = _timed(lambda: whole.step(chip, segments=True, effort="thorough").schedule.makespan_s)
    # On one design the objective is a constant times the time, or nearly so: time it is.
    exact, exact_cpu_s = _timed(
        lambda: mine_exactly(evaluator, _space_of(chip), limits=Limits(), time_limit_s=SOLVER_WORK, by_work=True)
    )
    assert exact.best is not None
    return PartRow(
        listed_s=listed,
        listed_cpu_s=listed_cpu_s,
        interrupted_s=interrupted_s,
        exact_s=exact.best.figure,
        bound_s=exact.lower_bound,
        listed_over_exact=listed / exact.best.figure,
        exact_gap=exact.best.figure / exact.lower_bound - 1.0,
        proven=exact.proven,
        finished=exact.finished,
        source=exact.source,
        exact_cpu_s=exact_cpu_s,
    )


def _space_of(chip: Accelerator) -> DesignSpace:
    """The space of one design."""
    shared = {field.name: getattr(chip, field.name) for field in fields(Accelerator) if field.name != "name"}
    sets: dict[str, Any] = {name: (shared.pop(name),) for name in SEARCHED_FIELDS}
    return DesignSpace(**sets, **shared)


def design_text(chip: Accelerator) -> str:
    """A design in short: `12x16x96, 4x1024, 4 MiB, 8 HBM`."""
    return (
        f"{chip.num_tensor_cores}x{chip.tensor_core_rows}x{chip.tensor_core_cols}, "
        f"{chip.num_vector_cores}x{chip.vector_lanes}, {chip.sram_bytes / 2**20:g} MiB, {chip.hbm_stacks} HBM"
    )


def _searched(candidates: Sequence[Candidate], scheduled: int, cpu_s: float) -> Searched:
    best = next(iter(candidates), None)
    return Searched(
        figure=None if best is None else best.figure,
        design=None if best is None else design_text(best.accelerator),
        scheduled=scheduled,
        cpu_s=cpu_s,
    )


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and the CPU time it takes [s]."""
    started_s = time.process_time()
    found = work()
    return found, time.process_time() - started_s


def _warm(task: _Task, baseline: Accelerator | None) -> None:
    """Load every compiled kernel, so that no search is charged for it."""
    task.mine(
        baseline,
        options=LocalSearchOptions(shapes=2, climbs=1, max_evaluations=4, finalists=1, top_k=1),
        proof=ProofOptions(guides=2, sharpened=2, polished=1, max_evaluations=1, refined=1),
    )


def _known(directory: BenchDirectory, model: str) -> ExactnessRow | None:
    """A finished row; None where it is made again: none there, a damaged one, or OR-tools was missing and is there."""
    document = directory.reference(_FILE + model, source=source_digest(__name__))
    try:
        row = None if document is None else ExactnessRow.from_dict(document)
    except (KeyError, TypeError):
        return None
    skipped = row is not None and row.schedule is not None and row.schedule.skipped is not None
    return None if skipped and find_spec("ortools") is not None else row


def _over(figure: float | None, exact: float | None) -> float | None:
    return None if figure is None or exact is None else figure / exact


def _gap(figure: float | None, bound: float | None) -> float | None:
    return None if figure is None or bound is None else figure / bound - 1.0
