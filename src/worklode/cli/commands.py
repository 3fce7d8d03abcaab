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
from worklode.cli.mine_request import MineRequest, checked
from worklode.cli.options import ModeName
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


def run_capture(workload: str, step: StepOptions, *, out: Path | None, fused: bool) -> Outcome:
    """Capture a workload; save it and show its fusion where asked."""
    from worklode.graph.file import save_graph
    from worklode.search.evaluation import coverage, workload_summary

    graph = captured(workload, step)
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
    graph = faults.collect(lambda: captured(workload, step))
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
            inputs=names_of(workload, on, technology),
            started=started,
            finished=datetime.now(UTC).astimezone(),
            config={
                "workloads": [workload_config(workload, evaluator)],
                "on": asdict(accelerator),
                "mode": mode,
                "technology": technology,
            },
            result=document,
            trace=_trace(evaluator, accelerator),
        )
        messages = kept(document, lambda: write_run(content, out=out, name=workload))

    def report() -> Iterable[RenderableType]:
        from worklode.report.table import evaluation_report

        return evaluation_report(document)

    exit_code = EXIT_OK if out is None or messages else EXIT_BAD_INPUT
    return Outcome(document=document, report=report, messages=messages, exit_code=exit_code)


def run_mine(workloads: tuple[str, ...], step: StepOptions, request: MineRequest) -> Outcome:
    """Mine a design for workloads, and write the run directory."""
    from worklode import api
    from worklode.search.evaluation import workload_summary
    from worklode.search.overlay import idle_overlay

    started = datetime.now(UTC).astimezone()
    faults = Faults()
    asked = checked(request, len(workloads), faults)
    faults.collect(lambda: api.capture_options(**step.given()).check())
    faults.finish()

    graphs = [faults.collect(partial(captured, name, step)) for name in workloads]
    faults.finish()
    found = [graph for graph in graphs if graph is not None]
    evaluators = [api.evaluator(graph, mode=request.mode, technology=asked.constants) for graph in found]
    with shown_progress(quiet=step.quiet) as progress:
        result = api.mine(
            evaluators,
            budget=asked.baseline,
            area_mm2=asked.area_mm2,
            tdp_w=asked.tdp_w,
            memory=request.memory,
            objective=asked.objective,
            weights=asked.weights,
            space=asked.space,
            technology=asked.constants,
            top_k=request.top_k,
            max_time_s=asked.max_time_s,
            evaluations=request.evaluations,
            workers=request.workers,
            progress=progress,
        )
    document = result.to_dict()
    # An infeasible result evaluated nothing that could describe the workloads.
    document["workload"] = document["workload"] or [workload_summary(graph).to_dict() for graph in found]
    if request.uncertain:
        document.update(_uncertain(evaluators, result, asked.baseline))
    designs = [asked.baseline] if asked.baseline is not None else []
    designs += [candidate.accelerator for candidate in result.search.candidates]
    document["warnings"] += idle_overlay(evaluators[0].technology, designs, ranges=request.uncertain)
    messages = kept(
        document,
        lambda: _write_mining(workloads, evaluators, request, result, document, space=asked.space, started=started),
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


def kept(document: dict[str, Any], write: Callable[[], Path]) -> tuple[str, ...]:
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
        inputs=names_of(*workloads, request.budget, request.space, request.technology),
        started=started,
        finished=datetime.now(UTC).astimezone(),
        config={
            "workloads": [workload_config(name, found) for name, found in zip(workloads, evaluators, strict=True)],
            "budget": request.budget,
            "limits": document["constraints"],
            "objective": document["objective"],
            "weights": request.weights,
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


def captured(workload: str, step: StepOptions) -> TrainingGraph:
    """The captured step of a workload."""
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


def names_of(*inputs: str | Path | None) -> tuple[str, ...]:
    """Inputs of a run as they were typed, those that were."""
    return tuple(str(name) for name in inputs if name is not None)


def workload_config(name: str, evaluator: Evaluator) -> dict[str, Any]:
    """A workload as the configuration of a run has it."""
    return {"workload": name, "options": dict(evaluator.summary.options)}


def _trace(evaluator: Evaluator, accelerator: Accelerator) -> str:
    from worklode.report.trace import trace_text

    step = evaluator.reported_step(accelerator)
    return trace_text(evaluator.fused, step.problem, step.schedule)
