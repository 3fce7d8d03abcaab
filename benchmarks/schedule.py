"""Scheduler: placements per second, and how far schedules are from lower bounds.

    python benchmarks/schedule.py                 synthetic training steps
    python benchmarks/schedule.py GRAPH_FILE...   captured graphs, on the designs below, in both modes

The first call compiles the kernels; its time is reported apart and not part of the rates.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from worklode.cost.model import CostModel
from worklode.graph.file import load_graph
from worklode.graph.training_graph import graph_arrays
from worklode.hardware.accelerator import Accelerator
from worklode.schedule.bounds import lower_bounds
from worklode.schedule.list_scheduler import improve, schedule
from worklode.schedule.problem import ScheduleProblem
from worklode.schedule.synthetic import training_problem
from worklode.schedule.verify import verify

# (tensor cores, rows and columns, vector cores, lanes, HBM stacks, bandwidth of one [bytes/s]).
DESIGNS = (
    (2, 128, 2, 128, 1, 0.3e12),
    (4, 128, 4, 256, 1, 0.6e12),
    (8, 128, 8, 512, 4, 0.6e12),
    (16, 64, 16, 128, 2, 0.6e12),
    (64, 32, 64, 64, 2, 0.6e12),
)


def synthetic() -> Iterator[tuple[str, ScheduleProblem]]:
    """Training steps of the synthetic generator: long chains, branches, bad scaling, heavy traffic."""
    for layers in (125, 1250):
        yield f"chain, {layers} layers", training_problem(layers)
    yield "chain, perfect scaling", training_problem(300, serial_share=0.0)
    yield "chain, heavy traffic", training_problem(300, hbm_load=1.0)
    yield "3 branches, 4 cores", training_problem(100, branches=3)
    yield "3 branches, 64 cores", training_problem(100, branches=3, num_tensor_cores=64, num_vector_cores=64)


def captured(paths: list[str]) -> Iterator[tuple[str, ScheduleProblem]]:
    """Captured graphs on every design, in both modes."""
    for path in paths:
        arrays = graph_arrays(load_graph(path))
        for mode in ("split", "one-core"):
            model = CostModel(arrays.items, mode=mode)  # type: ignore[arg-type]
            for cores, side, vector, lanes, stacks, bandwidth in DESIGNS:
                accelerator = Accelerator(
                    num_tensor_cores=cores,
                    tensor_core_rows=side,
                    tensor_core_cols=side,
                    num_vector_cores=vector,
                    vector_lanes=lanes,
                    sram_bytes=64 << 20,
                    hbm_stacks=stacks,
                    hbm_stack_bytes=16 << 30,
                    hbm_stack_bytes_per_s=bandwidth,
                    clock_hz=1e9,
                    node_nm=7,
                )
                costs = model.on(accelerator)
                yield (
                    f"{Path(path).stem} {mode} {cores}x{side}",
                    ScheduleProblem(
                        predecessor_start=arrays.predecessor_start,
                        predecessor=arrays.predecessor,
                        successor_start=arrays.successor_start,
                        successor=arrays.successor,
                        item_of=arrays.item_of,
                        option_start=costs.option_start,
                        tensor_cores=costs.tensor_cores,
                        vector_cores=costs.vector_cores,
                        compute_s=costs.compute_s,
                        hbm_bytes=costs.hbm_bytes,
                        num_tensor_cores=cores,
                        num_vector_cores=vector,
                        hbm_bytes_per_s=accelerator.hbm_bytes_per_s,
                    ),
                )


def main() -> None:
    """Print one line per problem."""
    began = perf_counter()
    warm_up = training_problem(2, branches=2)
    lower_bounds(warm_up)
    improve(warm_up, evaluations=1, segments=True)
    print(f"first call, compiling or loading from the cache: {perf_counter() - began:.1f} s")
    print(f"{'problem':36s}  tasks  schedule  placements   bounds     gap  improved")
    for name, problem in captured(sys.argv[1:]) if sys.argv[1:] else synthetic():
        spans = []
        for _ in range(5):
            began = perf_counter()
            made = schedule(problem)
            spans.append(perf_counter() - began)
        began = perf_counter()
        bound = lower_bounds(problem).makespan_s
        bound_time = perf_counter() - began
        better = improve(problem, evaluations=200, lower_bound_s=bound, segments=True)
        verify(problem, better)
        n = len(problem.item_of)
        print(
            f"{name:36s} {n:6d} {1e3 * min(spans):6.2f} ms {n / min(spans) / 1e6:8.2f} M/s {1e3 * bound_time:5.1f} ms "
            f"{made.makespan_s / bound - 1:7.2%} {better.makespan_s / bound - 1:9.2%}"
        )


if __name__ == "__main__":
    main()
