"""Designs mined for training over many devices: the tables of docs/distributed.md.

    python benchmarks/distributed.py                                  all models and budgets, to the terminal
    python benchmarks/distributed.py --write docs/distributed.md      between the marks of the page
    python benchmarks/distributed.py gpt3-175b --budget tpuv3 --objective throughput

Times are of search and proof, after the capture, in a process whose kernels are compiled; CPU time beside wall time,
since machines are shared. Memory is the peak of a process of its own that mines a cached graph.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marks import put

BUDGETS = ("tpuv2", "tpuv3", "tpuv4")
OBJECTIVES = ("throughput", "throughput/tdp")
# The distributed models of the paper (arXiv 2404.14632) and two more; 25 heads of GPT2-XL are divided by 5 alone.
SETTINGS: dict[str, dict[str, Any]] = {
    "opt-1.3b": {"pipeline": 8, "tensor": 1, "data": 1, "global_batch": 128},
    "gpt2-xl": {"pipeline": 8, "tensor": 1, "data": 1, "global_batch": 128},
    "gpt3-175b": {"pipeline": 32, "tensor": 8, "data": 1, "global_batch": 512, "sequence_parallel": True},
    "llama3-70b": {"pipeline": 16, "tensor": 8, "data": 1, "global_batch": 256, "sequence_parallel": True},
    "mixtral-8x7b": {"pipeline": 8, "tensor": 8, "data": 1, "global_batch": 256, "sequence_parallel": True},
}
MOST_TIME_S, MOST_MEMORY = 10.0, 2 * 2**30
HEAD = """Written by `python benchmarks/distributed.py --write docs/distributed.md` on {cores} cores; do not edit.
Microbatches of one sample, 1F1B, no recomputation; networks of the budgets' presets; memory `auto`. A design is tensor
cores x rows x columns, vector cores x lanes, SRAM [MiB], HBM stacks.
"""
ALIKE = """**One design for all stages.** *gain* over the budget's own design in the objective; *gap* is proven,
schedules included; *regret* is how far the best of the designs kept for single stages is behind; *HBM* says whether
designs had to hold every stage (where the budget's own chip does not, it is ignored). Times of search and proof.

| model | budget | objective | design | W | iteration [s] | gain | gap | regret | HBM | wall [s] | CPU [s] |
|---|---|---|---|---|---|---|---|---|---|---|---|"""
MIXED = """**One design for each distinct stage.** For throughput: the designs of least TDP at the pace of the slowest
stage; for throughput/TDP: the best mix found. *over one* is how much better the best mix is than one design for all in
the objective, *gap* what is proven of it.

| model | budget | objective | stages: design | mean W | iteration [s] | gain | over one | gap |
|---|---|---|---|---|---|---|---|---|"""


def mined(model: str, graph: Any, budget: str, objective: str) -> dict[str, Any]:
    """One row."""
    from worklode import api
    from worklode.search.distributed_document import distributed_document

    setting = api.parallel_setting(**SETTINGS[model])
    started_s, cpu_s = time.perf_counter(), time.process_time()
    result = api.mine_setting(graph, setting, budget=budget, objective=objective)
    return {
        "model": model,
        "budget": budget,
        "objective": objective,
        "wall_s": time.perf_counter() - started_s,
        "cpu_s": time.process_time() - cpu_s,
        **distributed_document(result),
    }


def design(accelerator: dict[str, Any]) -> str:
    """A design in a cell: tensor cores, vector cores, SRAM, HBM stacks."""
    a = accelerator
    return (
        f"{a['num_tensor_cores']}x{a['tensor_core_rows']}x{a['tensor_core_cols']} {a['num_vector_cores']}x"
        f"{a['vector_lanes']} {a['sram_bytes'] / 2**20:.0f}M {a['hbm_stacks']}H"
    )


def alike(row: dict[str, Any]) -> str:
    """One design for all stages."""
    best = row["best"]
    fits = "yes" if row["constraints"]["hbm_bytes"] else "ignored"
    return (
        f"| {row['model']} | {row['budget']} | {row['objective']} | {design(best['accelerator'])} |"
        f" {best['accelerator']['tdp_w']:.0f} | {best['iteration_time_s']:.4g} | {row['improvement']:.2f} |"
        f" {row['optimality_gap']:.1%} | {row['regret']:.1%} | {fits} | {row['wall_s']:.1f} | {row['cpu_s']:.1f} |"
    )


def mixed(row: dict[str, Any]) -> str:
    """One design a stage."""
    found, base = row["heterogeneous"], row["budget_baseline"]
    chosen = found["least_tdp"] or found["best"]
    baseline_w = base["accelerator"]["tdp_w"]
    if row["objective"] == "throughput":
        gain = base["iteration_time_s"] / chosen["iteration_time_s"]
    else:
        gain = base["objective_value"] / chosen["objective_value"]
    parts = "; ".join(f"{span(each['stages'])}: {design(each['accelerator'])}" for each in chosen["accelerators"])
    return (
        f"| {row['model']} | {row['budget']} | {row['objective']} | {parts} | {chosen['mean_tdp_w']:.0f} of"
        f" {baseline_w:.0f} | {chosen['iteration_time_s']:.4g} | {gain:.2f} |"
        f" {found['improvement_over_one_design']:.3f} | {found['optimality_gap']:.1%} |"
    )


def span(stages: Sequence[int]) -> str:
    """Ascending stages in short."""
    return f"{stages[0]}" if len(stages) == 1 else f"{stages[0]}-{stages[-1]}"


def setting_lines() -> list[str]:
    """The settings."""
    lines = ["| model | pipeline | tensor | microbatches | devices |", "|---|---|---|---|---|"]
    for model, setting in SETTINGS.items():
        devices = setting["pipeline"] * setting["tensor"] * setting["data"]
        batches = setting["global_batch"] // setting["data"]
        lines.append(f"| {model} | {setting['pipeline']} | {setting['tensor']} | {batches} | {devices} |")
    return lines


def peak_memory(model: str, budget: str) -> int:
    """Peak memory [bytes] of a process that captures and mines a model."""
    program = (
        "import json, re\nfrom worklode import api\n"
        f"api.mine_setting({model!r}, api.parallel_setting(**{SETTINGS[model]!r}), budget={budget!r})\n"
        # Linux counts the peak of the process that started this one in ru_maxrss too, but not here.
        "print(json.dumps(int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) * 1024))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def _range(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Least and largest of a figure of GPT-3's rows for throughput."""
    found = [row[name] for row in rows if row["model"] == "gpt3-175b" and row["objective"] == "throughput"]
    return f"{min(found):.1f} to {max(found):.1f}" if found else "-"


def section(rows: Sequence[dict[str, Any]], memory: int | None) -> str:
    """The generated part of the page."""
    walls, cpus = [row["wall_s"] for row in rows], [row["cpu_s"] for row in rows]
    gaps = [row["optimality_gap"] for row in rows]
    out = [
        HEAD.format(cores=os.cpu_count()),
        *setting_lines(),
        "",
        ALIKE,
        *map(alike, rows),
        "",
        MIXED,
        *map(mixed, rows),
        "",
        f"Gap of one design: {sum(gaps) / len(gaps):.1%} mean, {max(gaps):.1%} worst. Wall time:",
        f"{sum(walls) / len(walls):.1f} s mean, {max(walls):.1f} s worst; CPU time {sum(cpus) / len(cpus):.1f} s mean,",
        f"{max(cpus):.1f} s worst. GPT-3 for throughput: {_range(rows, 'wall_s')} s wall,",
        f"{_range(rows, 'cpu_s')} s CPU (target {MOST_TIME_S:.0f} s).",
    ]
    if memory is not None:
        out.append(
            f"Memory of mining GPT-3, graph from the cache: {memory / 2**30:.2f} GiB"
            f" (target {MOST_MEMORY / 2**30:.0f})."
        )
    return "\n".join(out)


def main() -> None:
    """Measure and print or write."""
    import worklode

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--budget", action="append")
    parser.add_argument("--objective", action="append")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    unknown = [model for model in given.models if model not in SETTINGS]
    if unknown:
        parser.error(f"no setting for {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
    rows = []
    for model in given.models or SETTINGS:
        graph = worklode.capture(model, batch=1)
        for budget in given.budget or BUDGETS:
            for objective in given.objective or OBJECTIVES:
                rows.append(mined(model, graph, budget, objective))
                sys.stderr.write(f"{alike(rows[-1])}\n")
    memory = peak_memory("gpt3-175b", "tpuv3") if given.write else None
    text = section(rows, memory)
    put(text, given.write, "distributed")


if __name__ == "__main__":
    main()
