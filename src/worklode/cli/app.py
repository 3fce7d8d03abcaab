"""The commands and their options. Every import of the package happens inside a command, so that help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worklode.cli import contests, options
from worklode.cli.outcome import Outcome  # typer evaluates annotations

app = typer.Typer(
    name="worklode",
    help="Mines accelerators: a PyTorch training step and a silicon budget in, the best accelerator out.",
    epilog="Exit status: 0 done, 2 bad input, 3 infeasible, 4 time budget used up, 130 interrupted.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from worklode import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command()
def models(json: options.Json = False) -> Outcome:
    """List the workloads that have a name."""
    from worklode.cli.listings import list_models

    return list_models()


@app.command()
def presets(json: options.Json = False, technology: options.Technology = None) -> Outcome:
    """List the accelerators that have a name, with area and TDP by the model."""
    from worklode.cli.listings import list_presets

    return list_presets(technology)


@app.command()
def doctor(
    clear_cache: Annotated[bool, typer.Option("--clear-cache", help="Delete every cached graph.")] = False,
    json: options.Json = False,
) -> Outcome:
    """Show versions, cores, cache and kernels: what a bug report needs."""
    from worklode.cli.doctor import examine

    return examine(clear=clear_cache)


@app.command()
def capture(
    workload: options.Workload,
    batch: options.Batch = None,
    seq_len: options.SeqLen = None,
    optimizer: options.Optimizer = None,
    dtype: options.Dtype = None,
    recompute: options.Recompute = None,
    accumulation_steps: options.AccumulationSteps = None,
    no_cache: options.NoCache = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Save the graph here.", show_default=False)] = None,
    fused: Annotated[bool, typer.Option("--fused", help="Show the graph before and after fusion.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Outcome:
    """Record one training step without allocating it, and say what it consists of."""
    from worklode.cli.commands import StepOptions, run_capture

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
    return run_capture(workload, step, out=out, fused=fused)


@app.command()
def evaluate(
    workload: options.Workload,
    on: Annotated[str, typer.Option("--on", help="Preset or YAML file of an accelerator.", show_default=False)],
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
        Path | None, typer.Option("--out", "-o", help="Write a run directory with the trace here.", show_default=False)
    ] = None,
    uncertainty: options.Uncertainty = False,
    pipeline: options.Pipeline = None,
    tensor: options.Tensor = None,
    data: options.Data = None,
    global_batch: options.GlobalBatch = None,
    microbatch: options.Microbatch = None,
    schedule: options.PipelineOrder = None,
    sequence_parallel: options.SequenceParallel = False,
    zero: options.Zero = None,
    nodes_of: options.NodesOf = None,
    network: options.NetworkName = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Outcome:
    """Time one training step on a given accelerator, and say what limits it."""
    from worklode.cli.commands import StepOptions, run_evaluate
    from worklode.cli.parallel import ParallelOptions, run_parallel

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
    setting = ParallelOptions(
        pipeline=pipeline,
        tensor=tensor,
        data=data,
        global_batch=global_batch,
        microbatch=microbatch,
        schedule=schedule,
        sequence_parallel=sequence_parallel,
        zero=zero,
        nodes_of=nodes_of,
        network=network,
    )
    if setting.given:
        refused = "--uncertainty" if uncertainty else ""
        refused = "--mode one-core" if mode == "one-core" else refused
        return run_parallel(workload, step, setting, on=on, technology=technology, out=out, refused=refused)
    return run_evaluate(workload, step, on=on, mode=mode, technology=technology, out=out, uncertain=uncertainty)


@app.command()
def mine(
    workloads: options.Workloads,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", help="Preset whose area and TDP are the limits, and the baseline.", show_default=False
        ),
    ] = None,
    area: Annotated[str | None, typer.Option("--area", help="Die area, such as 600mm2.", show_default=False)] = None,
    tdp: Annotated[
        str | None, typer.Option("--tdp", help="Thermal design power, such as 280W.", show_default=False)
    ] = None,
    memory: Annotated[
        options.MemoryRule,
        typer.Option(
            "--memory",
            help="fit: only designs whose HBM holds the step; ignore: any; auto: fit where the budget's own HBM does.",
        ),
    ] = "auto",
    objective: Annotated[
        str, typer.Option("--objective", help="throughput, throughput/tdp, energy or energy-delay.")
    ] = "throughput",
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", help="One for each workload, such as 2,1: of the geometric mean over them.", show_default=False
        ),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="How many of the best designs to keep.")] = 10,
    space: Annotated[
        Path | None, typer.Option("--space", help="YAML file of the values each part may take.", show_default=False)
    ] = None,
    max_time: Annotated[
        str | None, typer.Option("--max-time", help="Stop after this long with the best so far.", show_default=False)
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(
            "--evaluations",
            min=0,
            help="Designs to schedule after those that the search explores, where no bound rules them out.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that bound designs.")] = 2,
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
        typer.Option("--out", "-o", help="Run directory; default runs/WORKLOAD-N here.", show_default=False),
    ] = None,
    uncertainty: options.Uncertainty = False,
    devices: options.Devices = None,
    pipeline: options.Pipeline = None,
    tensor: options.Tensor = None,
    data: options.Data = None,
    global_batch: options.GlobalBatch = None,
    microbatch: options.Microbatch = None,
    schedule: options.PipelineOrder = None,
    sequence_parallel: options.SequenceParallel = False,
    zero: options.Zero = None,
    nodes_of: options.NodesOf = None,
    network: options.NetworkName = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Outcome:
    """Find the accelerator that trains the workload best within a silicon budget."""
    from worklode.cli.commands import StepOptions, run_mine
    from worklode.cli.mine_request import MineRequest
    from worklode.cli.mining_parallel import run_mine_parallel
    from worklode.cli.parallel import ParallelOptions

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
    request = MineRequest(
        budget=budget,
        area=area,
        tdp=tdp,
        memory=memory,
        objective=objective,
        weights=weights,
        top_k=top_k,
        space=space,
        max_time=max_time,
        evaluations=evaluations,
        workers=workers,
        mode=mode,
        technology=technology,
        out=out,
        uncertain=uncertainty,
    )
    setting = ParallelOptions(
        pipeline=pipeline,
        tensor=tensor,
        data=data,
        global_batch=global_batch,
        microbatch=microbatch,
        schedule=schedule,
        sequence_parallel=sequence_parallel,
        zero=zero,
        nodes_of=nodes_of,
        network=network,
    )
    if setting.given or devices is not None:
        return run_mine_parallel(tuple(workloads), step, request, setting, devices=devices)
    return run_mine(tuple(workloads), step, request)


@app.command()
def report(run: options.RunFolder, json: options.Json = False) -> Outcome:
    """Print the result of a finished run again."""
    from worklode.cli.finished import report_run

    return report_run(run)


@app.command()
def compare(runs: options.RunFolders, json: options.Json = False) -> Outcome:
    """Put the designs of finished runs side by side."""
    from worklode.cli.finished import compare_runs

    return compare_runs(tuple(runs))


@app.command("explain-number")
def explain_number(
    figure: options.Figure,
    on: Annotated[str, typer.Option("--on", help="Preset or YAML file of an accelerator.", show_default=False)],
    workload: options.OptionalWorkload = None,
    batch: options.Batch = None,
    seq_len: options.SeqLen = None,
    optimizer: options.Optimizer = None,
    dtype: options.Dtype = None,
    recompute: options.Recompute = None,
    accumulation_steps: options.AccumulationSteps = None,
    no_cache: options.NoCache = False,
    technology: options.Technology = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Outcome:
    """Show where a figure comes from: a tree down to constants with unit and source."""
    from worklode.cli.commands import StepOptions
    from worklode.cli.explaining import run_explain

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
    return run_explain(figure, workload, step, on=on, technology=technology)


@app.command()
def validate(
    suites: options.Suites = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the reference tables; default WORKLODE_DATA.", show_default=False),
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="Write the page of results (Markdown) here.", show_default=False)
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Outcome:
    """Compare the models with published measurements: errors, ranks, worst points, a naive baseline."""
    from worklode.cli.validating import run_validate

    return run_validate(tuple(suites or ()), data=data, write=write)


app.command()(contests.bench)
app.command()(contests.reproduce)
