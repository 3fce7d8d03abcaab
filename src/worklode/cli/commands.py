"""`capture`, `evaluate` and `mine`: from options to an outcome. Everything is checked before anything long begins."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklode.cli.faults import Faults
from worklode.cli.options import MemoryRule, ModeName
from worklode.cli.outcome import EXIT_BAD_INPUT, EXIT_INFEASIBLE, EXIT_OK, EXIT_OUT_OF_TIME, Outcome
from worklode.cli.progress import shown_progress
from worklode.errors import SpecError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from worklode.graph.training_graph import TrainingGraph
    from worklode.hardware.accelerator import Accelerator
    from worklode.hardware.space import DesignSpace
    from worklode.search.evaluate import Evaluator
    from worklode.search.mining import MiningResult


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """How a workload is captured; None takes the workload's own value."""

    batch: int | None
    seq_len: int | None
    optimizer: str | None
    dtype: str | None
    recompute: str | None
    accumulation_steps: int | None
    use_cache: bool
    quiet: bool

    def given(self) -> dict[str, Any]:
        """Options of the capture the user set, by name."""
        values = asdict(self)
        del values["use_cache"], values["quiet"]
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class MineRequest:
    """Options of `mine` as they were typed."""

    budget: str | None
    area: str | None
    tdp: str | None
    memory: MemoryRule
    objective: str
    top_k: int
    space: Path | None
    max_time: str | None
    evaluations: int | None
    workers: int
    mode: ModeName
    technology: Path | None
    out: Path | None
    uncertain: bool = False


def run_capture(workload: str, step: StepOptions, *, out: Path | None, fused: bool) -> Outcome:
    """Capture a workload; save it and show its fusion where asked."""
    from worklode.graph.file import save_graph
    from worklode.search.evaluation import coverage, workload_summary

    graph = _capture(workload, step)
    document: dict[str, Any] = {
        "workload": workload_summary(graph).to_dict(),
        "coverage": coverage(graph).to_dict(),
        "graph_file": None,
    }
    if out is not None:
        save_graph(graph, out)
        document["graph_file"] = str(out)
    if fused:
        from worklode.graph.fusion import fuse

        document["fusion"] = asdict(fuse(graph).report)

    def report() -> Iterable[RenderableType]:
        from worklode.report.table import capture_report

        return capture_report(document)

    return Outcome(document=document, report=report)


def run_evaluate(
    workload: str,
    step: StepOptions,
    *,
    on: str,
    mode: ModeName,
    technology: Path | None,
    out: Path | None,
    uncertain: bool = False,
) -> Outcome:
    """Put a workload on an accelerator; write a run directory where asked."""
    from worklode import api
    from worklode.hardware.presets import load_accelerator
    from worklode.hardware.technology import load_technology
    from worklode.search.overlay import idle_overlay
    from worklode.study.run_directory import RunContent, check_destination, write_run

    started = datetime.now(UTC).astimezone()
    faults = Faults()
    accelerator = faults.collect(lambda: load_accelerator(on, where="--on"))
    constants = faults.collect(lambda: load_technology(technology))
    if out is not None:
        faults.collect(lambda: check_destination(out))
    graph = faults.collect(lambda: _capture(workload, step))
    faults.finish()
    assert accelerator is not None and graph is not None

    evaluator = api.evaluator(graph, mode=mode, technology=constants)
    document = evaluator.evaluate(accelerator).to_dict()
    if uncertain:
        from worklode.search.uncertainty import uncertainty

        document["uncertainty"] = uncertainty(evaluator, accelerator)
    document["warnings"] += idle_overlay(evaluator.technology, [accelerator], ranges=uncertain)
    messages: tuple[str, ...] = ()
    if out is not None:
        content = RunContent(
            command="evaluate",
            arguments=sys.argv[1:],
            inputs=_names(workload, on, technology),
            started=started,
            finished=datetime.now(UTC).astimezone(),
            config={
                "workloads": [_workload_config(workload, evaluator)],
                "on": asdict(accelerator),
                "mode": mode,
                "technology": technology,
            },
            result=document,
            trace=_trace(evaluator, accelerator),
        )
        messages = _keep(document, lambda: write_run(content, out=out, name=workload))

    def report() -> Iterable[RenderableType]:
        from worklode.report.table import evaluation_report

        return evaluation_report(document)

    exit_code = EXIT_OK if out is None or messages else EXIT_BAD_INPUT
    return Outcome(document=document, report=report, messages=messages, exit_code=exit_code)


def run_mine(workloads: tuple[str, ...], step: StepOptions, request: MineRequest) -> Outcome:
    """Mine a design for workloads, and write the run directory."""
    from worklode import api
    from worklode.hardware.presets import load_accelerator
    from worklode.hardware.space import default_space, load_space
    from worklode.hardware.technology import load_technology
    from worklode.search.evaluation import workload_summary
    from worklode.search.objective import Objective
    from worklode.search.overlay import idle_overlay
    from worklode.study.run_directory import check_destination
    from worklode.units import parse_area_mm2, parse_power_w, parse_time_s

    started = datetime.now(UTC).astimezone()
    faults = Faults()
    budget, area, tdp, space_file, max_time, out = (
        request.budget, request.area, request.tdp, request.space, request.max_time, request.out
    )  # fmt: skip
    baseline = None if budget is None else faults.collect(lambda: load_accelerator(budget, where="--budget"))
    area_mm2 = None if area is None else faults.collect(lambda: parse_area_mm2(area, where="--area"))
    tdp_w = None if tdp is None else faults.collect(lambda: parse_power_w(tdp, where="--tdp"))
    max_time_s = None if max_time is None else faults.collect(lambda: parse_time_s(max_time, where="--max-time"))
    objective = faults.collect(lambda: Objective.parse(request.objective))
    constants = faults.collect(lambda: load_technology(request.technology))
    if budget is None and area is None and tdp is None:
        faults.add("mine", "no silicon budget", "--budget PRESET, or --area and/or --tdp")
    faults.collect(lambda: check_destination(out))
    space = default_space(baseline)
    if space_file is not None:
        space = faults.collect(lambda: load_space(space_file, space)) or space
    faults.collect(lambda: api.capture_options(**step.given()).check())
    faults.finish()

    graphs = [faults.collect(partial(_capture, name, step)) for name in workloads]
    faults.finish()
    captured = [graph for graph in graphs if graph is not None]
    evaluators = [api.evaluator(graph, mode=request.mode, technology=constants) for graph in captured]
    with shown_progress(quiet=step.quiet) as progress:
        result = api.mine(
            evaluators,
            budget=baseline,
            area_mm2=area_mm2,
            tdp_w=tdp_w,
            memory=request.memory,
            objective=objective or request.objective,
            space=space,
            technology=constants,
            top_k=request.top_k,
            max_time_s=max_time_s,
            evaluations=request.evaluations,
            workers=request.workers,
            progress=progress,
        )
    document = result.to_dict()
    # An infeasible result evaluated nothing that could describe the workloads.
    document["workload"] = document["workload"] or [workload_summary(graph).to_dict() for graph in captured]
    if request.uncertain:
        document.update(_uncertain(evaluators, result, baseline))
    designs = [baseline] if baseline is not None else []
    designs += [candidate.accelerator for candidate in result.search.candidates]
    document["warnings"] += idle_overlay(evaluators[0].technology, designs, ranges=request.uncertain)
    messages = _keep(
        document, lambda: _write_mining(workloads, evaluators, request, result, document, space=space, started=started)
    )

    def report() -> Iterable[RenderableType]:
        from worklode.report.table import mining_report

        return mining_report(document)

    exit_code = EXIT_OK
    if result.best is None:
        exit_code = EXIT_INFEASIBLE
    elif document["search"]["out_of_time"]:
        exit_code = EXIT_OUT_OF_TIME
    if document["run_directory"] is None:
        exit_code = EXIT_BAD_INPUT
    return Outcome(document=document, report=report, messages=messages, exit_code=exit_code)


def _uncertain(evaluators: Sequence[Evaluator], result: MiningResult, baseline: Accelerator | None) -> dict[str, Any]:
    """What drawn constants say of the best design: of itself, within its budget, and among the others."""
    from worklode.search.ranking import ranking
    from worklode.search.uncertainty import confidence, uncertainty

    if result.best is None:
        return {}
    best, technology = result.best.accelerator, evaluators[0].technology
    found = {"uncertainty": uncertainty(evaluators[0], best)}
    if baseline is not None:
        found["confidence"] = confidence(best, baseline, technology)
    top_k = [design.accelerator for design in result.top_k]
    found["ranking"] = ranking(evaluators, result.objective, top_k, baseline)
    return found


def _keep(document: dict[str, Any], write: Callable[[], Path]) -> tuple[str, ...]:
    """Write the run directory and name it in the document; what to tell the user.

    Where it cannot be written after all (a full disk), the result is printed all the same: it may have taken long.
    """
    path = None
    try:
        path = str(write())
    except (OSError, SpecError) as error:
        sys.stderr.write(f"error: the run directory could not be written: {error}\n")
    document["run_directory"] = path
    return () if path is None else (f"written: {path}",)


def _write_mining(
    workloads: Sequence[str],
    evaluators: Sequence[Evaluator],
    request: MineRequest,
    result: MiningResult,
    document: dict[str, Any],
    *,
    space: DesignSpace,
    started: datetime,
) -> Path:
    from worklode.study.run_directory import RunContent, write_run

    trace = None if result.best is None else _trace(evaluators[0], result.best.accelerator)
    content = RunContent(
        command="mine",
        arguments=sys.argv[1:],
        inputs=_names(*workloads, request.budget, request.space, request.technology),
        started=started,
        finished=datetime.now(UTC).astimezone(),
        config={
            "workloads": [_workload_config(name, found) for name, found in zip(workloads, evaluators, strict=True)],
            "budget": request.budget,
            "limits": document["constraints"],
            "objective": document["objective"],
            "mode": request.mode,
            "memory": request.memory,
            "top_k": request.top_k,
            "max_time": request.max_time,
            "evaluations": request.evaluations,
            "technology": request.technology,
            "space": asdict(space),
        },
        result=document,
        designs=result.designs,
        trace=trace,
    )
    return write_run(content, out=request.out, name="-".join(workloads))


def _capture(workload: str, step: StepOptions) -> TrainingGraph:
    from worklode import api

    with shown_progress(quiet=step.quiet) as progress:
        return api.capture(
            workload, use_cache=step.use_cache, note=_notes(quiet=step.quiet), progress=progress, **step.given()
        )


def _notes(*, quiet: bool) -> Callable[[str], None]:
    def note(text: str) -> None:
        if not quiet:
            sys.stderr.write(f"note: {text}\n")

    return note


def _names(*inputs: str | Path | None) -> tuple[str, ...]:
    return tuple(str(name) for name in inputs if name is not None)


def _workload_config(name: str, evaluator: Evaluator) -> dict[str, Any]:
    return {"workload": name, "options": dict(evaluator.summary.options)}


def _trace(evaluator: Evaluator, accelerator: Accelerator) -> str:
    from worklode.report.trace import trace_text

    step = evaluator.reported_step(accelerator)
    return trace_text(evaluator.fused, step.problem, step.schedule)
