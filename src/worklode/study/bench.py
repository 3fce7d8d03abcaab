"""A bench: every searcher on every workload with every seed, each once, in a directory that survives interrupts."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from worklode.errors import Fault, SpecError, WorklodeError
from worklode.hardware.accelerator import Accelerator
from worklode.search.certificate import ProofOptions
from worklode.search.contest.cell import Budget, Cell, Maker, run_cell
from worklode.search.contest.judging import Contest, contest, remember
from worklode.search.contest.registry import SEEDLESS, is_own, own_module, searcher_file, searcher_maker
from worklode.search.contest.summary import ARRIVED, CONFIDENCE, Curve, Reference, Row, best_known, curves, rows
from worklode.search.evaluate import Evaluator
from worklode.search.exhaustive import worker_context
from worklode.search.grid import Grid
from worklode.search.local import LocalSearchOptions
from worklode.search.mining import MiningResult, mine
from worklode.search.objective import Limits, Objective
from worklode.study.bench_directory import BenchDirectory
from worklode.study.cache import file_digest
from worklode.study.run_directory import MANIFEST, RESULT, RunContent, manifest
from worklode.study.sources import source_digest

# Told what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenchWorkload:
    """One workload of a bench: what it is called, its evaluator, and the limits of its designs."""

    name: str
    evaluator: Evaluator
    limits: Limits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenchRequest:
    """What a bench compares.

    Attributes:
        workloads: each a contest of its own.
        searchers: names, in the order of the tables.
        seeds: cells of every searcher that is random, seeds from 0 up.
        budget: of every cell.
        grid, objective: the space, and what is minimised.
        baseline: the budget's own design, a candidate of `mine` and a start for searchers that want one.
    """

    workloads: tuple[BenchWorkload, ...]
    searchers: tuple[str, ...]
    seeds: int
    budget: Budget
    grid: Grid
    objective: Objective
    baseline: Accelerator | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BenchResult:
    """Everything a bench found; `rows` and `curves` follow from `cells` and `references` alone."""

    request: BenchRequest
    cells: tuple[Cell, ...]
    references: tuple[Reference, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The table."""
        return rows(self.cells, self.references, self.request.searchers)

    @property
    def curves(self) -> tuple[Curve, ...]:
        """The curves."""
        return curves(self.cells, self.references, self.request.searchers)

    def to_dict(self) -> dict[str, Any]:
        """JSON form (docs/json.md)."""
        request = self.request
        cpu_limit, times_limit = request.budget.cpu_s, request.budget.times_mine
        return {
            "objective": request.objective.value,
            "space_size": request.grid.space.size,
            "searchers": list(request.searchers),
            "seeds": request.seeds,
            "evaluations": request.budget.evaluations,
            "cpu_limit_s": cpu_limit if cpu_limit < float("inf") else None,
            "cpu_limit_times_mine": times_limit if times_limit < float("inf") else None,
            "arrived_within": ARRIVED,
            "confidence": CONFIDENCE,
            "references": [self._reference(workload.name) for workload in request.workloads],
            "rows": [row.to_dict() for row in self.rows],
        }

    def _reference(self, name: str) -> dict[str, Any]:
        reference = next(found for found in self.references if found.workload == name)
        thorough, quick = best_known([cell for cell in self.cells if cell.workload == name], reference)
        facts = asdict(reference)
        del facts["design"]  # `mine` prints it in full
        return {**facts, "best_known": thorough, "best_known_quick": quick}

    def cell_rows(self) -> list[dict[str, Any]]:
        """One row for every cell: cells.csv."""
        space = self.request.grid.space
        found = []
        for cell in self.cells:
            facts = {name: getattr(cell, name) for name in Cell.__slots__ if name not in ("steps", "final_point")}
            design = None if cell.final_point is None else space.accelerator(cell.final_point)
            shown = {f"final_{name}": getattr(design, name, None) for name in _SHOWN_FIELDS}
            found.append({**facts, "cpu_s": cell.cpu_s, **shown})
        return found

    def curve_rows(self) -> list[dict[str, Any]]:
        """One row for every place of every curve: curves.csv."""
        return [
            {
                "workload": curve.workload,
                "searcher": curve.searcher,
                "along": curve.along,
                "place": place,
                "median": median,
                "low": low,
                "high": high,
            }
            for curve in self.curves
            for place, median, low, high in zip(curve.places, curve.median, curve.low, curve.high, strict=True)
        ]


_SHOWN_FIELDS = (
    "num_tensor_cores",
    "tensor_core_rows",
    "tensor_core_cols",
    "num_vector_cores",
    "vector_lanes",
    "sram_bytes",
    "hbm_bytes",
    "hbm_bytes_per_s",
)


def run_bench(
    request: BenchRequest, directory: BenchDirectory, progress: Progress | None = None, *, workers: int = 1
) -> BenchResult:
    """Run the cells the directory does not have yet, and read the others.

    An interrupt loses the cell that is under way and nothing else; one whose searcher can go on loses what it did since
    it was last saved.

    Args:
        request: what is compared.
        directory: open, made for this request.
        progress: told which cell is under way.
        workers: processes, each of which runs the cells of one workload at a time; 1 stays in this one.

    Raises:
        SpecError: no such searcher, or one that breaks the rules.
    """
    found: list[tuple[Reference, list[Cell]]] = []
    if workers == 1:
        for index in range(len(request.workloads)):
            found.append(_run_workload(request, directory, index, progress))
    else:
        # Where forked, workers have the request already; where not, it is sent.
        _task[:] = [(request, directory)]
        with ProcessPoolExecutor(
            min(workers, len(request.workloads)),
            worker_context(),
            initializer=_take_task,
            initargs=(request, directory),
        ) as pool:
            running = [pool.submit(_run_remembered, index) for index in range(len(request.workloads))]
            try:
                for done in as_completed(running):
                    done.result()
                    finished = sum(1 for one in running if one.done())
                    _tell(progress, f"{finished} of {len(running)} workloads", finished, len(running))
            except BrokenProcessPool:
                text = "a worker process was ended from outside, perhaps for its memory; the same command goes on"
                raise WorklodeError(text) from None
            except BaseException:
                for process in list(pool._processes.values()):
                    process.terminate()  # what it had under way can be gone on with
                raise
            found = [one.result() for one in running]
    cells = tuple(cell for _, of_workload in found for cell in of_workload)
    return BenchResult(request=request, cells=cells, references=tuple(reference for reference, _ in found))


_task: list[tuple[BenchRequest, BenchDirectory]] = []


def _take_task(request: BenchRequest, directory: BenchDirectory) -> None:
    _task[:] = [(request, directory)]
    threading.Thread(target=_end_with_parent, daemon=True, name="worklode-parent").start()


def _end_with_parent() -> None:
    """End this worker with the process that started it: what it does would be done twice when the command goes on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_remembered(index: int) -> tuple[Reference, list[Cell]]:
    return _run_workload(*_task[0], index, None)


def _run_workload(
    request: BenchRequest, directory: BenchDirectory, index: int, progress: Progress | None
) -> tuple[Reference, list[Cell]]:
    """The reference and the cells of one workload."""
    makers = {name: searcher_maker(name) for name in request.searchers}
    # Before anything runs: what lies there hours later may be another version than what is running.
    sources = {name: _source(name) for name in (*request.searchers, None)}
    workload = request.workloads[index]
    made = contest_of(request, workload)
    places = list(_cells_of(request))
    known = [_known_cell(directory, workload.name, name, seed, sources[name]) for name, seed in places]
    reference = _known_reference(directory, workload.name, sources[None])
    if reference is None or None in known:
        _tell(progress, f"{workload.name}: reference", 0, len(places))
        _warm(made, request.baseline)
    if reference is None:
        reference = _reference(made, request.baseline)
        directory.write_reference(workload.name, asdict(reference), source=sources[None])
    for cell in known:
        _remember(made, cell)
    budget = request.budget.where_mine_takes(reference.cpu_s)
    cells: list[Cell] = []
    for (name, seed), cell in zip(places, known, strict=True):
        found = cell
        if found is None:
            label = f"{workload.name}: {name}, seed {seed} (run {len(cells) + 1} of {len(places)})"
            tell = partial(_tell, progress, label)
            found = _run(made, name, makers[name], seed, budget, directory, sources[name], tell)
            directory.write_cell(workload.name, name, seed, found.to_dict(), source=sources[name])
        cells.append(found)
    return reference, cells


def _run(
    made: Contest,
    name: str,
    maker: Maker,
    seed: int,
    budget: Budget,
    directory: BenchDirectory,
    source: str,
    progress: Callable[[int, int], None],
) -> Cell:
    """A cell; what a user's searcher raises is reported as theirs."""
    saved = directory.under_way(made.name, name, seed, source=source)
    save = partial(directory.write_under_way, made.name, name, seed, source=source)
    try:
        found = run_cell(made, name, maker, seed, budget, progress=progress, saved=saved, save=save)
        # A searcher may say which design it ends with in integers of numpy, which no file holds.
        final = found.final_point
        return replace(found, final_point=None if final is None else tuple(int(index) for index in final))
    except WorklodeError:
        raise
    except Exception as error:
        if is_own(name):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place, problem = f"{frame.filename}:{frame.lineno}", f"raised {type(error).__name__}: {error}"
        raise SpecError(Fault(where=name, path=place, problem=problem)) from error


def workload_digest(evaluator: Evaluator) -> str:
    """Digest of what of a workload decides its costs and schedules: work, dependences, mode."""
    arrays = evaluator.arrays
    digest = hashlib.sha256(repr((evaluator.mode, arrays.items)).encode())
    for part in (arrays.item_of, arrays.predecessor_start, arrays.predecessor):
        digest.update(part.tobytes())
    return digest.hexdigest()


def _source(searcher: str | None) -> str:
    """Digest of the source that decides a searcher's cells, or where None what `mine` finds.

    Of a searcher of the user's own its file is part of it, where it is one; what that imports is not seen.
    """
    root = "worklode.search"
    modules = [f"{root}.contest.cell"]
    if searcher is None:
        modules.append(f"{root}.mining")
    elif is_own(searcher):
        modules.append(f"{root}.contest.{own_module(searcher)}")
    digest = source_digest(*modules)
    file = None if searcher is None else searcher_file(searcher)
    return digest if file is None else f"{digest} {file_digest(file)}"


def _cells_of(request: BenchRequest) -> Iterator[tuple[str, int]]:
    """Searcher and seed of every cell of a workload: seed by seed, so that an interrupted bench has all searchers."""
    for seed in range(request.seeds):
        for name in request.searchers:
            if seed == 0 or name not in SEEDLESS:
                yield name, seed


def contest_of(request: BenchRequest, workload: BenchWorkload) -> Contest:
    """The contest of one workload of a bench, nothing remembered yet."""
    start = None if request.baseline is None else request.grid.below(request.baseline)
    parts = (workload.name, [workload.evaluator], [1.0], request.grid, workload.limits, request.objective, start)
    return contest(*parts)


def _known_cell(directory: BenchDirectory, workload: str, searcher: str, seed: int, source: str) -> Cell | None:
    """A finished cell; None where its file is missing, damaged or of another version: it is made again."""
    document = directory.cell(workload, searcher, seed, source=source)
    try:
        return None if document is None else Cell.from_dict(document)
    except SpecError:
        return None


def _known_reference(directory: BenchDirectory, workload: str, source: str) -> Reference | None:
    document: Mapping[str, Any] | None = directory.reference(workload, source=source)
    try:
        return None if document is None else Reference(**document)
    except TypeError:
        return None


def _remember(made: Contest, cell: Cell | None) -> None:
    for step in () if cell is None else cell.steps:
        if step.figure is not None:
            remember(made, step.point, step.figure, step.parts, step.evaluation_cpu_s)


def _reference(made: Contest, baseline: Accelerator | None) -> Reference:
    """What `mine` finds, proves, and takes."""
    problem = made.problem()
    started_cpu_s, started_s = time.process_time(), time.perf_counter()
    result = mined_whole(
        problem.evaluators,
        made.grid.space,
        made.grid.technology,
        limits=made.limits,
        objective=made.objective,
        baseline=baseline,
    )
    cpu_s, wall_time_s = time.process_time() - started_cpu_s, time.perf_counter() - started_s
    quick = None
    if result.best is not None:
        times = problem.evaluators[0].figures(result.best.accelerator)
        quick = made.objective.figure(time_s=times.time_s, tdp_w=times.tdp_w, energy_j=times.energy_j)
    return Reference(
        workload=made.name,
        figure=None if result.best is None else result.best.figure,
        quick_figure=quick,
        bound=result.bound,
        cpu_s=cpu_s,
        wall_time_s=wall_time_s,
        design=None if result.best is None else asdict(result.best.accelerator),
    )


def mined_whole(*parts: Any, **options: Any) -> MiningResult:
    """`mine`, which answers an interrupt with what it has found: here that is no answer, and nothing keeps it.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    result = mine(*parts, **options)
    if result.interrupted:
        raise KeyboardInterrupt
    return result


def _warm(made: Contest, baseline: Accelerator | None) -> None:
    """Load every compiled kernel, so that no cell is charged for it."""
    mined_whole(
        made.problem().evaluators,
        made.grid.space,
        made.grid.technology,
        limits=made.limits,
        objective=made.objective,
        baseline=baseline,
        options=LocalSearchOptions(shapes=2, climbs=1, max_evaluations=4, finalists=1, top_k=1),
        proof=ProofOptions(guides=2, sharpened=2, polished=1, max_evaluations=1, refined=1),
    )


def _tell(progress: Progress | None, label: str, done: int, total: int) -> None:
    if progress is not None:
        progress(label, done, total)


def write_tables(directory: BenchDirectory, result: BenchResult, content: RunContent) -> None:
    """Write what the cells say: the document, and a row for every row, cell and place of a curve."""
    directory.write_json(MANIFEST, manifest(content))
    directory.write_json(RESULT, content.result)
    directory.write_rows("rows.csv", [row.to_dict() for row in result.rows])
    directory.write_rows("cells.csv", result.cell_rows())
    directory.write_rows("curves.csv", result.curve_rows())


def check_searchers(names: Sequence[str], *, where: str = "--searchers") -> None:
    """Refuse unknown searchers before any work is done.

    Raises:
        SpecError: every searcher that cannot be made.
    """
    faults: list[Fault] = []
    for name in names:
        try:
            searcher_maker(name)
        except SpecError as error:
            faults += [replace(fault, where=where) for fault in error.faults]
    if faults:
        raise SpecError(*faults)
