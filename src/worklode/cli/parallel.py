"""`evaluate` in a parallel setting: from options to an outcome."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from worklode.cli.commands import StepOptions, captured, kept, names_of
from worklode.cli.faults import Faults
from worklode.cli.outcome import EXIT_BAD_INPUT, EXIT_INFEASIBLE, EXIT_OK, Outcome
from worklode.errors import SpecError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from worklode.search.parallel import ParallelSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelOptions:
    """Options of a parallel setting as they were typed; None where they were not."""

    pipeline: int | None = None
    tensor: int | None = None
    data: int | None = None
    global_batch: int | None = None
    microbatch: int | None = None
    schedule: str | None = None
    sequence_parallel: bool = False
    zero: int | None = None
    nodes_of: int | None = None
    network: str | None = None

    @property
    def given(self) -> bool:
        """Whether any was typed."""
        return self != ParallelOptions()


def run_parallel(
    workload: str,
    step: StepOptions,
    options: ParallelOptions,
    *,
    on: str,
    technology: Path | None,
    out: Path | None,
    refused: str,
) -> Outcome:
    """Evaluate an accelerator in a parallel setting; write a run directory where asked.

    Args:
        refused: options that were given and mean nothing beside a parallel setting.
    """
    from worklode import api
    from worklode.hardware.presets import load_accelerator
    from worklode.hardware.technology import load_technology
    from worklode.report.pipeline_trace import pipeline_trace_text
    from worklode.search.parallel_document import parallel_document
    from worklode.study.run_directory import RunContent, check_destination, write_run

    started = datetime.now(UTC).astimezone()
    faults = Faults()
    if refused:
        faults.add(refused, "does not go with a parallel setting", "leave it out")
    setting = faults.collect(lambda: setting_of(step, options))
    accelerator = faults.collect(lambda: load_accelerator(on, where="--on"))
    constants = faults.collect(lambda: load_technology(technology))
    if out is not None:
        faults.collect(lambda: check_destination(out))
    network = None
    if setting is not None and accelerator is not None:
        network = faults.collect(
            lambda: api.network_of(accelerator, setting.devices, options.network, options.nodes_of)
        )
    faults.finish()
    assert setting is not None and accelerator is not None and constants is not None
    graph = captured(workload, replace(step, batch=setting.microbatch, recompute=None))
    found = api.evaluate_setting(graph, accelerator, setting, network=network, technology=constants)
    document = parallel_document(found, graph, constants)

    def report() -> Iterable[RenderableType]:
        from worklode.report.parallel import parallel_report

        return parallel_report(document)

    messages: tuple[str, ...] = ()
    if out is not None:
        content = RunContent(
            command="evaluate",
            arguments=sys.argv[1:],
            inputs=names_of(workload, on, technology, options.network),
            started=started,
            finished=datetime.now(UTC).astimezone(),
            config={
                "workloads": [{"workload": workload, "options": step.given()}],
                "on": asdict(accelerator),
                "parallel": setting.to_dict(),
                "technology": technology,
            },
            result=document,
            trace=pipeline_trace_text(found.timeline, graph.info.name),
        )
        messages = kept(document, lambda: write_run(content, out=out, name=workload))
    exit_code = EXIT_OK if found.fits else EXIT_INFEASIBLE
    if out is not None and not messages:
        exit_code = EXIT_BAD_INPUT
    return Outcome(document=document, report=report, messages=messages, exit_code=exit_code)


def microbatch_of(step: StepOptions, options: ParallelOptions) -> int | None:
    """The microbatch that was typed, under either name."""
    return step.batch if options.microbatch is None else options.microbatch


def setting_faults(step: StepOptions, options: ParallelOptions, faults: Faults) -> None:
    """Options of the step that say otherwise than the setting, or mean nothing beside it."""
    if step.batch is not None and options.microbatch is not None and step.batch != options.microbatch:
        faults.add("--batch", f"differs from --microbatch {options.microbatch}", "one of them")
    if step.accumulation_steps is not None:
        faults.add("--accumulation-steps", "the pipeline repeats the microbatch", "--global-batch")


def setting_of(step: StepOptions, options: ParallelOptions) -> ParallelSetting:
    """The setting that was typed.

    Raises:
        SpecError: every fault of it.
    """
    from worklode import api

    data = 1 if options.data is None else options.data
    microbatch = microbatch_of(step, options) or 1 if options.microbatch is None else options.microbatch
    faults = Faults()
    setting_faults(step, options, faults)
    setting = faults.collect(
        lambda: api.parallel_setting(
            pipeline=1 if options.pipeline is None else options.pipeline,
            tensor=1 if options.tensor is None else options.tensor,
            data=1 if options.data is None else options.data,
            global_batch=data * microbatch if options.global_batch is None else options.global_batch,
            microbatch=microbatch,
            schedule=options.schedule or "1f1b",
            recompute=step.recompute or "none",
            sequence_parallel=options.sequence_parallel,
            zero=options.zero or 0,
        )
    )
    faults.finish()
    if setting is None:
        raise SpecError(*faults.found)
    return setting
