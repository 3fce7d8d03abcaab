"""`mine` for many devices: from options to an outcome and a run directory."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from worklode.cli.commands import StepOptions, captured, kept, names_of
from worklode.cli.faults import Faults
from worklode.cli.mine_request import Checked, MineRequest, checked
from worklode.cli.outcome import EXIT_BAD_INPUT, EXIT_INFEASIBLE, EXIT_OK, EXIT_OUT_OF_TIME, Outcome
from worklode.cli.parallel import ParallelOptions, microbatch_of, setting_faults, setting_of
from worklode.cli.progress import shown_progress

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from worklode.hardware.network import Network
    from worklode.search.devices import JointResult
    from worklode.search.distributed_result import DistributedResult


def run_mine_parallel(
    workloads: tuple[str, ...],
    step: StepOptions,
    request: MineRequest,
    options: ParallelOptions,
    *,
    devices: int | None,
) -> Outcome:
    """Mine designs for workloads in a parallel setting, or setting and design together, and write the run directory."""
    from worklode import api
    from worklode.search.distributed_document import distributed_document, joint_document

    started = datetime.now(UTC).astimezone()
    faults = Faults()
    asked = checked(request, len(workloads), faults)
    _refuse(request, step, options, asked, workloads, devices, faults)
    setting = None if devices is not None else faults.collect(lambda: setting_of(step, options))
    known = request.budget is None or asked.baseline is not None
    number = devices if devices is not None else setting.devices if setting is not None else 0
    network = None
    if known and number > 0:
        network = faults.collect(lambda: api.network_of(asked.baseline, number, options.network, options.nodes_of))
    faults.finish()
    joint = None
    with shown_progress(quiet=step.quiet) as progress:
        if devices is not None:
            joint = _joint(workloads[0], step, request, options, asked, devices, network, progress)
            found = joint.best
        else:
            assert setting is not None
            made = replace(step, batch=setting.microbatch, recompute=None)
            graphs = [faults.collect(partial(captured, name, made)) for name in workloads]
            faults.finish()
            found = api.mine_setting(
                [graph for graph in graphs if graph is not None],
                setting,
                network=network,
                max_time_s=asked.max_time_s,
                weights=asked.weights,
                **_shared(request, asked, progress),
            )
    document = distributed_document(found) if joint is None else joint_document(joint)
    messages = kept(document, lambda: _write(workloads, step, request, options, found, document, asked, started))

    def report() -> Iterable[RenderableType]:
        from worklode.report.distributed import distributed_report

        return distributed_report(document)

    exit_code = EXIT_OK
    if found.best is None:
        exit_code = EXIT_INFEASIBLE
    elif found.out_of_time:
        exit_code = EXIT_OUT_OF_TIME
    if document["run_directory"] is None:
        exit_code = EXIT_BAD_INPUT
    return Outcome(document=document, report=report, messages=messages, exit_code=exit_code)


def _refuse(
    request: MineRequest,
    step: StepOptions,
    options: ParallelOptions,
    asked: Checked,
    workloads: tuple[str, ...],
    devices: int | None,
    faults: Faults,
) -> None:
    """Options that mean nothing for many devices, and what does not divide them."""
    from worklode.api.parallel import check_devices

    if getattr(asked.objective, "needs_energy", False):
        faults.add("--objective", "energy is not minimised over many devices", "throughput, throughput/tdp")
    if request.uncertain:
        faults.add("--uncertainty", "does not go with a parallel setting", "leave it out")
    if request.evaluations is not None:
        faults.add("--evaluations", "does not go with a parallel setting", "leave it out")
    if devices is None:
        return
    if len(workloads) > 1:
        faults.add(
            "--devices", f"takes one workload, not {len(workloads)}", "--pipeline, --tensor and --data for a set"
        )
    if options.global_batch is None:
        faults.add("--devices", "needs the samples of one iteration", "--global-batch")
    if request.max_time is not None:
        faults.add("--max-time", "does not go with --devices", "leave it out")
    setting_faults(step, options, faults)
    faults.collect(
        lambda: check_devices(
            devices,
            pipeline=options.pipeline,
            tensor=options.tensor,
            data=options.data,
            microbatch=options.microbatch,
        )
    )


def _shared(request: MineRequest, asked: Checked, progress: Any) -> dict[str, Any]:
    """Arguments of both interfaces."""
    return {
        "budget": asked.baseline,
        "area_mm2": asked.area_mm2,
        "tdp_w": asked.tdp_w,
        "memory": request.memory,
        "objective": asked.objective,
        "space": asked.space,
        "technology": asked.constants,
        "mode": request.mode,
        "top_k": request.top_k,
        "workers": request.workers,
        "progress": progress,
    }


def _joint(
    workload: str,
    step: StepOptions,
    request: MineRequest,
    options: ParallelOptions,
    asked: Checked,
    devices: int,
    network: Network | None,
    progress: Any,
) -> JointResult:
    from worklode import api

    assert options.global_batch is not None, "checked"
    return api.mine_devices(
        lambda size: captured(workload, replace(step, batch=size, recompute=None, quiet=True)),
        devices,
        options.global_batch,
        pipeline=options.pipeline,
        tensor=options.tensor,
        data=options.data,
        microbatch=microbatch_of(step, options),
        recompute=step.recompute,
        schedule=options.schedule or "1f1b",
        sequence_parallel=options.sequence_parallel,
        zero=options.zero or 0,
        network=network,
        **_shared(request, asked, progress),
    )


def _write(
    workloads: tuple[str, ...],
    step: StepOptions,
    request: MineRequest,
    options: ParallelOptions,
    found: DistributedResult,
    document: dict[str, Any],
    asked: Checked,
    started: datetime,
) -> Path:
    from worklode.report.pipeline_trace import pipeline_trace_text
    from worklode.study.run_directory import RunContent, write_run

    trace = None
    if found.best is not None:
        trace = pipeline_trace_text(found.best.evaluations[0].timeline, found.tasks[0].name)
    content = RunContent(
        command="mine",
        arguments=sys.argv[1:],
        inputs=names_of(*workloads, request.budget, request.space, request.technology, options.network),
        started=started,
        finished=datetime.now(UTC).astimezone(),
        config={
            "workloads": [{"workload": name, "options": step.given()} for name in workloads],
            "budget": request.budget,
            "limits": document["constraints"],
            "objective": document["objective"],
            "weights": request.weights,
            "mode": request.mode,
            "memory": request.memory,
            "top_k": request.top_k,
            "max_time": request.max_time,
            "technology": request.technology,
            "parallel": [task.setting.to_dict() for task in found.tasks],
            "space": asdict(asked.space),
        },
        result=document,
        designs=found.designs,
        trace=trace,
    )
    return write_run(content, out=request.out, name="-".join(workloads))
