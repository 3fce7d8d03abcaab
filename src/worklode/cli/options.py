"""Options that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Workload = Annotated[
    str,
    typer.Argument(
        help="Name from `worklode models`, file.py:function, a Hugging Face config.json, or a saved graph.",
        show_default=False,
    ),
]
Workloads = Annotated[
    list[str],
    typer.Argument(
        metavar="WORKLOAD...",
        help="One or more workloads: name from `worklode models`, file.py:function, config.json, or saved graph.",
        show_default=False,
    ),
]

BenchWorkloads = Annotated[
    list[str] | None,
    typer.Argument(metavar="WORKLOAD...", help="Workloads, each compared by itself.", show_default=False),
]

PaperModels = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL]...", help="Workloads; default the paper's eleven models.", show_default=False),
]

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run directory of `mine` or `evaluate --out`.", show_default=False)
]
RunFolders = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Run directories, two or more.", show_default=False)
]

FigureName = Literal["area", "tdp", "energy", "time"]
Figure = Annotated[FigureName, typer.Argument(metavar="FIGURE", help="area, tdp, energy or time.", show_default=False)]
OptionalWorkload = Annotated[
    str | None, typer.Argument(metavar="[WORKLOAD]", help="What time and energy are of.", show_default=False)
]

Suites = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SUITE]...",
        help="systolic, gemm, vector, attention, layer, collectives, memory, training, silicon, energy, sram; "
        "all where none is named.",
        show_default=False,
    ),
]

_STEP = "Training step"
_OUTPUT = "Output"

Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Samples of one microbatch.", rich_help_panel=_STEP)]
SeqLen = Annotated[int | None, typer.Option("--seq-len", min=1, help="Tokens of one sequence.", rich_help_panel=_STEP)]
Optimizer = Annotated[
    str | None, typer.Option("--optimizer", help="sgd, sgd-momentum, adam or adamw.", rich_help_panel=_STEP)
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="bf16, fp16, fp32, or amp (float32 parameters, products in bfloat16).", rich_help_panel=_STEP
    ),
]
Recompute = Annotated[
    str | None,
    typer.Option(
        "--recompute",
        help="What backward computes again instead of keeping: none or full; in a parallel setting also selective.",
        rich_help_panel=_STEP,
    ),
]
AccumulationSteps = Annotated[
    int | None,
    typer.Option("--accumulation-steps", min=1, help="Microbatches of one optimizer step.", rich_help_panel=_STEP),
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Capture again even where a cached graph fits.", rich_help_panel=_STEP)
]

_PARALLEL = "Parallel setting"
Devices = Annotated[
    int | None,
    typer.Option(
        "--devices",
        help="So many devices: pipeline, tensor, data, microbatch and recomputation are chosen too, where not given.",
        rich_help_panel=_PARALLEL,
        show_default=False,
    ),
]
Pipeline = Annotated[
    int | None, typer.Option("--pipeline", help="Stages in a row.", rich_help_panel=_PARALLEL, show_default=False)
]
Tensor = Annotated[
    int | None, typer.Option("--tensor", help="Tensor-parallel width.", rich_help_panel=_PARALLEL, show_default=False)
]
Data = Annotated[int | None, typer.Option("--data", help="Replicas.", rich_help_panel=_PARALLEL, show_default=False)]
GlobalBatch = Annotated[
    int | None,
    typer.Option("--global-batch", help="Samples of one iteration.", rich_help_panel=_PARALLEL, show_default=False),
]
Microbatch = Annotated[
    int | None,
    typer.Option(
        "--microbatch", help="Samples a device takes at a time.", rich_help_panel=_PARALLEL, show_default=False
    ),
]
PipelineOrder = Annotated[
    str | None,
    typer.Option(
        "--schedule", help="gpipe, 1f1b, interleaved:3 or zb-h1.", rich_help_panel=_PARALLEL, show_default=False
    ),
]
SequenceParallel = Annotated[
    bool,
    typer.Option("--sequence-parallel", help="Divide norms and dropout by sequence, too.", rich_help_panel=_PARALLEL),
]
Zero = Annotated[
    int | None, typer.Option("--zero", help="ZeRO level, 0 to 3.", rich_help_panel=_PARALLEL, show_default=False)
]
NodesOf = Annotated[
    int | None, typer.Option("--nodes-of", help="Devices of a node.", rich_help_panel=_PARALLEL, show_default=False)
]
NetworkName = Annotated[
    str | None,
    typer.Option("--network", help="Preset or YAML file of a network.", rich_help_panel=_PARALLEL, show_default=False),
]

MemoryRule = Literal["auto", "fit", "ignore"]
ModeName = Literal["split", "uninterrupted", "one-core"]
Mode = Annotated[
    ModeName,
    typer.Option(
        "--mode", help="split: an operator may use several cores, and be interrupted; uninterrupted; one-core."
    ),
]
Technology = Annotated[
    Path | None,
    typer.Option("--technology", help="YAML file laid over the built-in technology constants.", show_default=False),
]

Uncertainty = Annotated[
    bool,
    typer.Option(
        "--uncertainty", help="Draw constants from their ranges and say how far figures move.", rich_help_panel=_OUTPUT
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON document on standard output, nothing else there.", rich_help_panel=_OUTPUT),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.", rich_help_panel=_OUTPUT)
]
