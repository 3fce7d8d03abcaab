"""`bench` and `reproduce` and their options; as in `app`, every import of the package happens inside a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worklode.cli import options
from worklode.cli.outcome import Outcome  # typer evaluates annotations


def bench(
    workloads: options.BenchWorkloads = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Preset whose area and TDP are the limits.", show_default=False),
    ] = None,
    area: Annotated[str | None, typer.Option("--area", help="Die area, such as 600mm2.", show_default=False)] = None,
    tdp: Annotated[
        str | None, typer.Option("--tdp", help="Thermal design power, such as 280W.", show_default=False)
    ] = None,
    memory: Annotated[options.MemoryRule, typer.Option("--memory", help="As for mine.")] = "auto",
    objective: Annotated[
        str, typer.Option("--objective", help="throughput, throughput/tdp, energy or energy-delay.")
    ] = "throughput",
    space: Annotated[
        Path | None, typer.Option("--space", help="YAML file of the values each part may take.", show_default=False)
    ] = None,
    searchers: Annotated[
        str, typer.Option("--searchers", help="Names with commas between them, or module:Class; see docs/bench.md.")
    ] = "worklode,random,hill-climbing,genetic",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of every searcher that is random.")] = 3,
    evaluations: Annotated[int, typer.Option("--evaluations", min=1, help="Designs a run may ask for.")] = 1000,
    cpu_time: Annotated[
        str | None,
        typer.Option("--cpu-time", help="CPU time a run may use: 60s, or 100x what mine takes.", show_default=False),
    ] = None,
    batch: options.Batch = None,
    seq_len: options.SeqLen = None,
    optimizer: options.Optimizer = None,
    dtype: options.Dtype = None,
    recompute: options.Recompute = None,
    accumulation_steps: options.AccumulationSteps = None,
    no_cache: options.NoCache = False,
    mode: options.Mode = "split",
    technology: options.Technology = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the bench, gone on with where it is one; default runs/bench."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the bench of this folder.", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes, each with one workload at a time.")] = 1,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Outcome:
    """Compare searchers on one cost model, space and budget; interrupted, the same command goes on."""
    from worklode.cli.benching import BenchOptions, run_bench
    from worklode.cli.commands import StepOptions

    step = StepOptions(
        batch=batch,
        seq_len=seq_len,
        optimizer=optimizer,
        dtype=dtype,
        recompute=recompute,
        accumulation_steps=accumulation_steps,
        use_cache=not no_cache,
        quiet=quiet,
    )
    request = BenchOptions(
        budget=budget,
        area=area,
        tdp=tdp,
        memory=memory,
        objective=objective,
        space=space,
        searchers=searchers,
        seeds=seeds,
        evaluations=evaluations,
        cpu_time=cpu_time,
        mode=mode,
        technology=technology,
        out=out,
        resume=resume,
        workers=workers,
    )
    return run_bench(tuple(workloads or ()), step, request)


def reproduce(
    models: options.PaperModels = None,
    budget: Annotated[str, typer.Option("--budget", help="Preset whose area and TDP are the limits.")] = "tpuv2",
    objective: Annotated[str, typer.Option("--objective", help="throughput or throughput/tdp.")] = "throughput",
    searchers: Annotated[
        str | None, typer.Option("--searchers", help="As for bench; default those of the paper.", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of every searcher that is random.")] = 1,
    evaluations: Annotated[int, typer.Option("--evaluations", min=1, help="Designs a run may ask for.")] = 1000,
    cpu_time: Annotated[
        str | None,
        typer.Option("--cpu-time", help="CPU time a run may use: 60s, or 100x what mine takes.", show_default=False),
    ] = None,
    rivals: Annotated[
        str | None,
        typer.Option("--rivals", help="Searchers that are given more time; '' for none.", show_default=False),
    ] = None,
    rivals_time: Annotated[str, typer.Option("--rivals-time", help="How much more than mine takes.")] = "100x",
    technology: options.Technology = None,
    no_cache: options.NoCache = False,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the evaluation, gone on with where it is one.")
    ] = Path("runs/reproduce"),
    write: Annotated[
        Path | None,
        typer.Option("--write", help="Write the page here too, its CSV files beside it.", show_default=False),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes, each with one workload at a time.")] = 1,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Outcome:
    """Repeat the paper's evaluation, on one device and on many; interrupted, the same command goes on."""
    from worklode.cli.benching import BenchOptions
    from worklode.cli.commands import StepOptions
    from worklode.cli.reproducing import default_rivals, default_searchers, run_reproduce

    step = StepOptions(
        batch=None,
        seq_len=None,
        optimizer=None,
        dtype=None,
        recompute=None,
        accumulation_steps=None,
        use_cache=not no_cache,
        quiet=quiet,
    )
    request = BenchOptions(
        budget=budget,
        area=None,
        tdp=None,
        memory="auto",
        objective=objective,
        space=None,
        searchers=searchers or default_searchers(),
        seeds=seeds,
        evaluations=evaluations,
        cpu_time=cpu_time,
        mode="split",
        technology=technology,
        out=out,
        resume=None,
        workers=workers,
    )
    opposed = default_rivals() if rivals is None else rivals
    return run_reproduce(tuple(models or ()), step, request, rivals=opposed, rivals_time=rivals_time, write=write)
