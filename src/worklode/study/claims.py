"""What worklode claims of its own search, model by model: how much sooner it is there, and that none is better.

Speed is against Spotlight-like at its default budget, from the cells of an evaluation. That none is better is asked of
rivals that may take a multiple of the CPU time of `mine`, in a bench of their own inside the folder of the evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from worklode.search.contest.cell import Budget, Cell
from worklode.search.contest.interface import Told
from worklode.search.contest.registry import own_module
from worklode.study.bench import BenchRequest, BenchResult, BenchWorkload, Progress, contest_of, run_bench
from worklode.study.bench_directory import BenchDirectory
from worklode.study.finals import known_finals
from worklode.study.sources import source_digest

# What is claimed, the targets of this project: so many times less CPU time than Spotlight-like at its default budget,
# and no rival better that is given so many times the CPU time of `mine`.
TIMES_LESS, TIMES_MORE = 1000.0, 100.0
# Who is given that much more: the searchers that do not end by themselves, so that more time is of use to them.
RIVALS = ("random", "hill-climbing", "genetic", "tpe", "nsga2")
# Their bench inside the folder of the evaluation, and designs they may ask for: so many that time ends them.
RIVALS_FOLDER, ENOUGH_EVALUATIONS = "rivals", 10**9
OPPONENTS = ("spotlight-like", "spotlight-like-inference")
# The one whose time is also measured where it fits after every sample, and the designs of its default budget [count].
_SEQUENTIAL, DESIGNS = "spotlight-like", 100
_OWN = "worklode"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRow:
    """worklode's search and an opponent's on one model; of several seeds the median by CPU time, of two the lesser.

    Attributes:
        model, opponent: which.
        opponent_cpu_s: CPU time of the opponent's run [s].
        opponent_finished: it came to its own end; otherwise it would have taken longer.
        opponent_over_best: figure of its final design over the best anybody found, rivals with more time among them.
        worklode_finished: so did worklode's; one that was stopped has no proof, and says nothing of its speed.
        worklode_cpu_s: CPU time of worklode's run, proof and thorough schedules included [s].
        worklode_to_final_cpu_s: of that, until it had asked for the design it ended with [s].
        worklode_over_best: figure of that design over the best anybody found.
        times_whole, times_to_final: the opponent's CPU time over these two.
        sequential_design_cpu_s: CPU time [s] of one design of the opponent if it fits after every sample instead of
            once a batch; None where that was not measured.
        sequential_designs: designs of a run [count], by which that is multiplied for the next two.
        times_sequential_whole, times_sequential_to_final: as above; extrapolated from one design.
    """

    model: str
    opponent: str
    opponent_cpu_s: float
    opponent_finished: bool
    opponent_over_best: float | None
    worklode_finished: bool
    worklode_cpu_s: float
    worklode_to_final_cpu_s: float
    worklode_over_best: float
    times_whole: float
    times_to_final: float
    sequential_design_cpu_s: float | None
    sequential_designs: int
    times_sequential_whole: float | None
    times_sequential_to_final: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalRow:
    """A rival that was given a multiple of the time of `mine` on one model; of several seeds the best.

    Attributes:
        model, rival, seed: which.
        evaluations: designs it asked for [count].
        cpu_s: CPU time it took [s].
        mine_cpu_s: CPU time of `mine`, proof and report included [s].
        times: `cpu_s` over `mine_cpu_s`.
        figure, mine_figure: of the best design, finalists of both treated as `mine` treats its own (`study.finals`).
        judged_figure: of the rival's run as the bench judges it, which schedules fewer with the utmost effort.
        ahead: how far the rival's figure is below that of `mine` [1]; at most 0 where it found nothing better.
        gap: of the rival's figure over the bound that `mine` proves, less 1 [1].
    """

    model: str
    rival: str
    seed: int
    evaluations: int
    cpu_s: float
    mine_cpu_s: float
    times: float
    figure: float
    judged_figure: float
    mine_figure: float
    ahead: float
    gap: float | None


def speed_rows(
    result: BenchResult, sequential: Mapping[str, float] | None = None, rivals: Sequence[RivalRow] = ()
) -> tuple[SpeedRow, ...]:
    """Speed on every model that both have a design of, in the order of the models.

    Args:
        result: of the evaluation's bench.
        sequential: see `sequential_designs`.
        rivals: what others found.
    """
    return tuple(_speed_rows(result, sequential or {}, rivals))


def _speed_rows(result: BenchResult, sequential: Mapping[str, float], rivals: Sequence[RivalRow]) -> Iterator[SpeedRow]:
    for reference in result.references:
        of_model = [cell for cell in result.cells if cell.workload == reference.workload]
        own = next((cell for cell in of_model if cell.searcher == _OWN and cell.final_figure is not None), None)
        finals = [cell.final_figure for cell in of_model if cell.final_figure is not None]
        finals += [row.figure for row in rivals if row.model == reference.workload]
        if own is None or own.final_figure is None or own.final_cpu_s is None:
            continue
        best = min([*finals, *([] if reference.figure is None else [reference.figure])])
        for opponent in OPPONENTS:
            cells = sorted((cell.cpu_s, cell.seed, cell) for cell in of_model if cell.searcher == opponent)
            if not cells:
                continue
            cell = cells[(len(cells) - 1) // 2][2]
            design_s = sequential.get(reference.workload) if opponent == _SEQUENTIAL else None
            all_s = None if design_s is None else design_s * DESIGNS
            yield SpeedRow(
                model=reference.workload,
                opponent=opponent,
                opponent_cpu_s=cell.cpu_s,
                opponent_finished=cell.finished,
                opponent_over_best=None if cell.final_figure is None else cell.final_figure / best,
                worklode_finished=own.finished,
                worklode_cpu_s=own.cpu_s,
                worklode_to_final_cpu_s=own.final_cpu_s,
                worklode_over_best=own.final_figure / best,
                times_whole=cell.cpu_s / own.cpu_s,
                times_to_final=cell.cpu_s / own.final_cpu_s,
                sequential_design_cpu_s=design_s,
                sequential_designs=DESIGNS,
                times_sequential_whole=None if all_s is None else all_s / own.cpu_s,
                times_sequential_to_final=None if all_s is None else all_s / own.final_cpu_s,
            )


def sequential_designs(
    request: BenchRequest, directory: BenchDirectory, progress: Progress | None = None
) -> dict[str, float]:
    """CPU time [s] of one design of Spotlight-like that fits after every sample, for each model; measured once.

    How large the batches of its paper are is not known here; they decide most of its time. The design is the budget's.
    """
    if _SEQUENTIAL not in request.searchers:
        return {}
    source = source_digest(f"worklode.search.contest.{own_module(_SEQUENTIAL)}")
    found = {}
    for index, workload in enumerate(request.workloads):
        name = f"sequential-{workload.name}"
        known = directory.reference(name, source=source)
        if known is None:
            if progress is not None:
                progress(f"{workload.name}: one design, fitted after every sample", index, len(request.workloads))
            cpu_s = _sequential_design(request, workload)
            if cpu_s is None:
                continue
            known = {"workload": workload.name, "cpu_s": cpu_s}
            directory.write_reference(name, known, source=source)
        found[workload.name] = float(known["cpu_s"])
    return found


def _sequential_design(request: BenchRequest, workload: BenchWorkload) -> float | None:
    """CPU time [s] of one design; None where none keeps the limits."""
    from worklode.search.contest.mapping_search import MappingSearchOptions
    from worklode.search.contest.spotlight import SpotlightOptions, SpotlightTraining

    assert SpotlightOptions().samples == DESIGNS
    made = contest_of(request, workload)
    times = []
    # The first search loads compiled kernels, and is not counted.
    for mappings in (MappingSearchOptions(samples=12), MappingSearchOptions(batch=1)):
        problem = made.problem()
        searcher = SpotlightTraining(problem, 0, SpotlightOptions(mappings=mappings))
        point = problem.start or next(iter(searcher.ask(1)), None)
        if point is None:
            return None
        started_s = time.process_time()
        searcher.tell([Told(point=point, figure=None, excess=0.0)])
        times.append(time.process_time() - started_s)
    return times[-1]


def open_rivals(settings: Mapping[str, Any], directory: BenchDirectory, times: float) -> BenchDirectory:
    """The folder of the rivals; arguments as for `rival_rows`.

    Raises:
        SpecError: they were run with other settings.
    """
    own = BenchDirectory(directory.path / RIVALS_FOLDER)
    own.open({**settings, "times_mine": times})
    return own


def rival_rows(
    request: BenchRequest,
    settings: Mapping[str, Any],
    directory: BenchDirectory,
    rivals: Sequence[str],
    times: float,
    progress: Progress | None = None,
    *,
    workers: int = 1,
) -> tuple[RivalRow, ...]:
    """Run, or go on with, the rivals.

    Args:
        request: the evaluation's.
        settings: of its folder; see `BenchDirectory.open`.
        directory: its folder, in which the rivals have one of their own.
        rivals: searchers; none runs nothing.
        times: CPU time each may use, over that of `mine` for the same model.
        progress: told which is under way.
        workers: see `run_bench`.
    """
    if not rivals:
        return ()
    own = open_rivals(settings, directory, times)
    budget = Budget(evaluations=ENOUGH_EVALUATIONS, times_mine=times)
    asked = replace(request, searchers=tuple(rivals), budget=budget)
    result = run_bench(asked, own, progress, workers=workers)
    finals: dict[tuple[str, str, int], float] = {}
    for workload in asked.workloads:
        if progress is not None:
            progress(f"{workload.name}: finalists of rivals", len(finals), len(result.cells))
        cells = [cell for cell in result.cells if cell.workload == workload.name and not cell.judges_itself]
        for key, figure in known_finals(contest_of(asked, workload), cells, own).items():
            finals[workload.name, *key] = figure
    return tuple(_rival_rows(result, finals))


def _rival_rows(result: BenchResult, finals: Mapping[tuple[str, str, int], float]) -> Iterator[RivalRow]:
    """Rows; `finals` by model, rival and seed, where they are better than what the bench judges."""
    for reference in result.references:
        for rival in result.request.searchers:
            found = [
                (finals.get((cell.workload, rival, cell.seed), cell.final_figure), cell.seed, cell)
                for cell in result.cells
                if (cell.workload, cell.searcher) == (reference.workload, rival) and cell.final_figure is not None
            ]
            if found and reference.figure is not None:
                figure, _, cell = min(found)
                yield _rival_row(cell, figure, reference.figure, reference.bound, reference.cpu_s)


def _rival_row(cell: Cell, figure: float, mine_figure: float, bound: float | None, mine_cpu_s: float) -> RivalRow:
    assert cell.final_figure is not None
    return RivalRow(
        model=cell.workload,
        rival=cell.searcher,
        seed=cell.seed,
        evaluations=cell.evaluations,
        cpu_s=cell.cpu_s,
        mine_cpu_s=mine_cpu_s,
        times=cell.cpu_s / mine_cpu_s,
        figure=figure,
        judged_figure=cell.final_figure,
        mine_figure=mine_figure,
        ahead=1.0 - figure / mine_figure,
        gap=None if bound is None else figure / bound - 1.0,
    )
