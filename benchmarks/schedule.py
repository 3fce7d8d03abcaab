"""Scheduler: placements per second, and how far quick and thorough schedules are from lower bounds.

    python benchmarks/schedule.py                 synthetic training steps
    python benchmarks/schedule.py GRAPH_FILE...   captured graphs, on the designs below, in all modes

The first call compiles the kernels; its time is reported apart and not part of the rates.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

from worklode.cost.model import CostModel
from worklode.graph.file import load_graph
from worklode.graph.training_graph import graph_arrays
from worklode.hardware.accelerator import Accelerator
from worklode.schedule.bounds import lower_bounds
from worklode.schedule.interruptible import schedule_interruptible
from worklode.schedule.list_kernel import list_schedule
from worklode.schedule.list_scheduler import QUICK_POLICIES, Passes, schedule
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
    """Captured graphs on every design, in all modes."""
    for path in paths:
        arrays = graph_arrays(load_graph(path))
        for mode in ("split", "uninterrupted", "one-core"):
            model = CostModel(arrays.items, mode="one-core" if mode == "one-core" else "split")
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
                        resume_s=costs.resume_s if mode == "split" else None,
                        resume_bytes=costs.resume_bytes if mode == "split" else None,
                    ),
                )


def shortest_s(work: Callable[[], object], times: int = 5) -> float:
    """The shortest of some runs [s]."""
    spans = []
    for _ in range(times):
        began = perf_counter()
        work()
        spans.append(perf_counter() - began)
    return min(spans)


def main() -> None:
    """Print one line per problem, and the means."""
    began = perf_counter()
    warm_up = training_problem(2, branches=2)
    lower_bounds(warm_up)
    schedule(warm_up, segments=True, effort="thorough")
    print(f"first call, compiling or loading from the cache: {perf_counter() - began:.1f} s")
    print("problem                               tasks  placements/pass  bounds    quick             thorough")
    gaps = []
    for name, problem in captured(sys.argv[1:]) if sys.argv[1:] else synthetic():
        passes = Passes(problem, None, None)
        found = passes.begin(QUICK_POLICIES[:1])[0]
        pass_s = shortest_s(partial(list_schedule, found.tasks, found.rules, passes.state))
        make = schedule_interruptible if problem.interruptible else schedule
        quick_s = shortest_s(partial(make, problem))
        bound_s = shortest_s(partial(lower_bounds, problem), 1)
        thorough_s = shortest_s(partial(make, problem, effort="thorough"), 1)
        bound = lower_bounds(problem).makespan_s
        quick, thorough = make(problem, segments=True), make(problem, effort="thorough", segments=True)
        verify(problem, quick)
        verify(problem, thorough)
        gaps.append((quick.makespan_s / bound - 1, thorough.makespan_s / bound - 1))
        n = len(problem.item_of)
        print(
            f"{name:36s} {n:6d} {n / pass_s / 1e6:12.1f} M/s {1e3 * bound_s:5.1f} ms  {gaps[-1][0]:6.2%} "
            f"{1e3 * quick_s:6.2f} ms  {gaps[-1][1]:6.2%} {1e3 * thorough_s:6.1f} ms"
        )
    quick_gaps, thorough_gaps = zip(*gaps, strict=True)
    for what, values in (("quick", quick_gaps), ("thorough", thorough_gaps)):
        print(f"{what}: mean gap {sum(values) / len(values):.2%}, largest {max(values):.2%}")


if __name__ == "__main__":
    main()
