"""`worklode bench`: searchers against one another, from options to an outcome."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklode.cli.commands import StepOptions, captured
from worklode.cli.faults import Faults
from worklode.cli.options import MemoryRule, ModeName
from worklode.cli.outcome import EXIT_INFEASIBLE, EXIT_OK, Outcome
from worklode.cli.progress import shown_progress
from worklode.errors import Fault, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from worklode.search.evaluate import Evaluator
    from worklode.study.bench import BenchRequest, BenchResult
    from worklode.study.bench_directory import BenchDirectory

# Where a bench goes that is told no place.
PAGE = "bench.html"
DEFAULT_OUT = Path("runs") / "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """Options of `bench` as they were typed."""

    budget: str | None
    area: str | None
    tdp: str | None
    memory: MemoryRule
    objective: str
    space: Path | None
    searchers: str
    seeds: int
    evaluations: int
    cpu_time: str | None
    mode: ModeName
    technology: Path | None
    out: Path | None
    resume: Path | None
    workers: int = 1


def run_bench(workloads: tuple[str, ...], step: StepOptions, options: BenchOptions) -> Outcome:
    """Run, or go on with, a bench; write its tables."""
    from worklode.study.bench import run_bench as run_cells
    from worklode.study.bench_directory import BenchDirectory

    started = datetime.now(UTC).astimezone()
    directory = BenchDirectory(options.resume or options.out or DEFAULT_OUT)
    if options.resume is not None:
        workloads, step, options = _resumed(directory, workloads, step, options)
    elif not workloads:
        raise SpecError(Fault(where="bench", problem="no workload", allowed="WORKLOAD..., or --resume DIR"))
    request, settings = bench_request(workloads, step, options)
    directory.open(settings)
    with shown_progress(quiet=step.quiet) as progress:
        result = run_cells(request, directory, progress, workers=options.workers)
    document = result.to_dict()
    messages = write_bench(directory, result, document, settings, started, workloads, options)

    def report() -> Iterable[RenderableType]:
        from worklode.report.bench import bench_report

        return bench_report(document)

    infeasible = all(reference.figure is None for reference in result.references)
    document = {**document, "run_directory": str(directory.path)}
    code = EXIT_INFEASIBLE if infeasible else EXIT_OK
    return Outcome(document=document, report=report, messages=messages, exit_code=code)


def bench_request(
    workloads: tuple[str, ...], step: StepOptions, options: BenchOptions
) -> tuple[BenchRequest, dict[str, Any]]:
    """What is compared, and the settings that decide it."""
    from worklode import api
    from worklode.hardware.presets import load_accelerator
    from worklode.hardware.space import default_space, load_space
    from worklode.hardware.technology import load_technology
    from worklode.search.contest.cell import Budget
    from worklode.search.grid import Grid
    from worklode.search.objective import Limits, Objective
    from worklode.study.bench import BenchRequest, BenchWorkload, check_searchers, workload_digest
    from worklode.study.bench_directory import MAY_CHANGE
    from worklode.units import parse_area_mm2, parse_power_w, parse_time_s, parse_times

    faults = Faults()
    budget, area, tdp, space_file, cpu_time = (
        options.budget, options.area, options.tdp, options.space, options.cpu_time
    )  # fmt: skip
    baseline = None if budget is None else faults.collect(lambda: load_accelerator(budget, where="--budget"))
    area_mm2 = None if area is None else faults.collect(lambda: parse_area_mm2(area, where="--area"))
    tdp_w = None if tdp is None else faults.collect(lambda: parse_power_w(tdp, where="--tdp"))
    cpu_s = times_mine = float("inf")
    if cpu_time is not None and cpu_time.strip().endswith("x"):
        times_mine = faults.collect(lambda: parse_times(cpu_time, where="--cpu-time")) or times_mine
    elif cpu_time is not None:
        cpu_s = faults.collect(lambda: parse_time_s(cpu_time, where="--cpu-time")) or cpu_s
    objective = faults.collect(lambda: Objective.parse(options.objective))
    constants = faults.collect(lambda: load_technology(options.technology))
    if budget is None and area is None and tdp is None:
        faults.add("bench", "no silicon budget", "--budget PRESET, or --area and/or --tdp")
    searchers = tuple(dict.fromkeys(name.strip() for name in options.searchers.split(",") if name.strip()))
    faults.collect(lambda: check_searchers(searchers))
    if not searchers:
        faults.add("--searchers", "none given", "names with commas between them")
    if len(set(workloads)) < len(workloads):
        faults.add("bench", "a workload is given twice", "each once")
    cell_budget = faults.collect(lambda: Budget(evaluations=options.evaluations, cpu_s=cpu_s, times_mine=times_mine))
    space = default_space(baseline)
    if space_file is not None:
        space = faults.collect(lambda: load_space(space_file, space)) or space
    faults.finish()
    graphs = [faults.collect(partial(captured, name, step)) for name in workloads]
    faults.finish()
    assert constants is not None and objective is not None and cell_budget is not None
    found = []
    for name, graph in zip(workloads, graphs, strict=True):
        assert graph is not None
        evaluator: Evaluator = api.evaluator(graph, mode=options.mode, technology=constants)
        limits: Limits = api.workload_limits(
            [evaluator], space, constants, budget=baseline, area_mm2=area_mm2, tdp_w=tdp_w, memory=options.memory
        )
        found.append(BenchWorkload(name=name, evaluator=evaluator, limits=limits))
    request = BenchRequest(
        workloads=tuple(found),
        searchers=searchers,
        seeds=options.seeds,
        budget=cell_budget,
        grid=Grid(space, constants),
        objective=objective,
        baseline=baseline,
    )
    settings = {
        "workloads": list(workloads),
        "step": {name: str(value) for name, value in step.given().items()},
        "options": {name: value for name, value in _kept(options).items() if name not in _WHICH_CELLS},
        MAY_CHANGE: {name: value for name, value in _kept(options).items() if name in _WHICH_CELLS},
        "limits": [asdict(workload.limits) | _finite_limits(workload.limits) for workload in found],
        "space": asdict(space),
        "workload_sha256": [workload_digest(workload.evaluator) for workload in found],
        "file_sha256": _files(options),
    }
    return request, settings


# Options that say which cells there are: a bench may be gone on with for more of them.
_WHICH_CELLS = ("searchers", "seeds")


def _kept(options: BenchOptions) -> dict[str, Any]:
    """The options that decide the cells, as plain values; where the bench lies does not."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(options).items()
        if name not in ("out", "resume", "workers")
    }


def _finite_limits(limits: Any) -> dict[str, float | None]:
    return {name: value if value < float("inf") else None for name, value in asdict(limits).items()}


def _files(options: BenchOptions) -> dict[str, str]:
    """Digests of the user's files that are read where they lie: constants, and the budget.

    Those of searchers are with their runs: searchers may be added to a bench.
    """
    from worklode.hardware.presets import preset_names
    from worklode.study.cache import file_digest

    named = (options.technology, options.budget)
    names = [str(name) for name in named if name is not None and name not in preset_names()]
    return {name: file_digest(Path(name)) for name in names}


def _resumed(
    directory: BenchDirectory, workloads: tuple[str, ...], step: StepOptions, options: BenchOptions
) -> tuple[tuple[str, ...], StepOptions, BenchOptions]:
    """The request of an earlier command line, from its directory."""
    from worklode.study.bench_directory import MAY_CHANGE

    if workloads:
        allowed = "--resume DIR alone: it knows what it was made for"
        raise SpecError(Fault(where="bench", value=" ".join(workloads), problem="workloads given", allowed=allowed))
    settings = directory.settings()
    try:
        kept = {**settings["options"], **settings[MAY_CHANGE]}
        for name in ("space", "technology"):
            kept[name] = None if kept[name] is None else Path(kept[name])
        found = BenchOptions(**kept, out=directory.path, resume=None, workers=options.workers)
        given: dict[str, Any] = {
            name: int(value) if value.isdigit() else value for name, value in settings["step"].items()
        }
        return tuple(settings["workloads"]), replace(step, **given), found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(Fault(where=str(directory.path), problem=f"cannot be read: {error}")) from None


def write_bench(
    directory: BenchDirectory,
    result: BenchResult,
    document: dict[str, Any],
    settings: dict[str, Any],
    started: datetime,
    workloads: tuple[str, ...],
    options: BenchOptions,
    *,
    around: dict[str, Any] | None = None,
) -> tuple[str, ...]:
    """Tables, document and page of a bench; what to tell the user.

    Args:
        directory, result, document, settings, started, workloads, options: of the bench.
        around: the document of `reproduce` that has the bench in it, where that is the command.
    """
    from worklode.study.bench import write_tables
    from worklode.study.run_directory import RunContent

    inputs = [*workloads, *(str(name) for name in (options.budget, options.space, options.technology) if name)]
    content = RunContent(
        command="bench" if around is None else "reproduce",
        arguments=sys.argv[1:],
        inputs=inputs,
        started=started,
        finished=datetime.now(UTC).astimezone(),
        config=settings,
        result=document if around is None else around,
    )
    write_tables(directory, result, content)
    try:
        from worklode.report.bench_page import bench_page

        directory.write_text(PAGE, bench_page(document, result.curve_rows()))
    except ModuleNotFoundError as error:
        return (f"written: {directory.path} (without {PAGE}: {error.name} is missing, pip install 'worklode[bench]')",)
    return (f"written: {directory.path}, page: {directory.path / PAGE}",)
