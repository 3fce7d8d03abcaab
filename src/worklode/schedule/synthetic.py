"""Synthetic scheduling problems with the shapes of training graphs: for tests, benchmarks and self-checks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worklode.schedule.problem import ScheduleProblem

# Options of one item: (tensor cores, vector cores, compute time [s], HBM traffic [bytes]).
Options = Sequence[tuple[int, int, float, float]]


def problem_from_lists(
    predecessors: Sequence[Sequence[int]],
    options: Sequence[Options],
    *,
    num_tensor_cores: int,
    num_vector_cores: int,
    hbm_bytes_per_s: float,
    item_of: Sequence[int] | None = None,
) -> ScheduleProblem:
    """Build a problem from plain lists; without `item_of` every task is its own item."""
    n = len(predecessors)
    edges = sorted((before, task) for task, found in enumerate(predecessors) for before in set(found))
    successor_count = np.bincount(np.array([b for b, _ in edges], np.int64), minlength=n)[:n]
    predecessor_count = np.array([len(set(found)) for found in predecessors], np.int64)
    flat = [option for per_item in options for option in per_item]
    return ScheduleProblem(
        predecessor_start=np.concatenate(([0], np.cumsum(predecessor_count))).astype(np.int64),
        predecessor=np.array([b for found in predecessors for b in sorted(set(found))], np.int64),
        successor_start=np.concatenate(([0], np.cumsum(successor_count))).astype(np.int64),
        successor=np.array([task for _, task in edges], np.int64),
        item_of=np.arange(n) if item_of is None else np.array(item_of, np.int64),
        option_start=np.concatenate(([0], np.cumsum([len(per_item) for per_item in options]))).astype(np.int64),
        tensor_cores=np.array([option[0] for option in flat], np.int64),
        vector_cores=np.array([option[1] for option in flat], np.int64),
        compute_s=np.array([option[2] for option in flat], np.float64),
        hbm_bytes=np.array([option[3] for option in flat], np.float64),
        num_tensor_cores=num_tensor_cores,
        num_vector_cores=num_vector_cores,
        hbm_bytes_per_s=hbm_bytes_per_s,
    )


def moldable_options(
    *,
    tensor_work_s: float,
    vector_work_s: float,
    hbm_bytes: float,
    num_tensor_cores: int,
    num_vector_cores: int,
    serial_share: float,
) -> list[tuple[int, int, float, float]]:
    """Options on 1, 2, 3, 4, 6, 8, 12, ... cores and on all, by Amdahl's law: work · (serial + (1 - serial) / p) [s].

    An operator with work on both types takes the same share of each.
    """
    widest = max(num_tensor_cores if tensor_work_s > 0 else 0, num_vector_cores if vector_work_s > 0 else 0, 1)
    widths = sorted({min(width, widest) for k in range(widest.bit_length() + 1) for width in (2**k, 3 * 2**k)})
    options: list[tuple[int, int, float, float]] = []
    for width in widths:
        tensor = max(1, num_tensor_cores * width // widest) if tensor_work_s > 0 else 0
        vector = max(1, num_vector_cores * width // widest) if vector_work_s > 0 else 0
        times = [
            work * (serial_share + (1 - serial_share) / cores)
            for work, cores in ((tensor_work_s, tensor), (vector_work_s, vector))
            if cores
        ]
        compute = max(times, default=0.0)
        if not options or compute < options[-1][2]:
            options.append((tensor, vector, compute, hbm_bytes))
    return options


def random_problem(
    seed: int,
    num_tasks: int,
    *,
    num_tensor_cores: int = 4,
    num_vector_cores: int = 4,
    hbm_load: float = 1.0,
    edges_per_task: float = 1.5,
    reach: int = 8,
) -> ScheduleProblem:
    """A random DAG: tasks depend on tasks up to `reach` before them; a third need tensor, vector, both types of cores.

    `hbm_load` scales traffic: at 1 a task's traffic on all bandwidth takes as long as its compute on half the cores, on
    average; at 0 there is none.
    """
    random = np.random.default_rng(seed)
    predecessors: list[list[int]] = []
    options: list[Options] = []
    for task in range(num_tasks):
        window = min(task, reach)
        count = min(window, int(random.poisson(edges_per_task)))
        predecessors.append(
            [task - 1 - int(back) for back in random.choice(window, count, replace=False)] if count else []
        )
        kind = int(random.integers(3))
        work = float(random.lognormal(0.0, 1.0))
        options.append(
            moldable_options(
                tensor_work_s=work * num_tensor_cores if kind != 1 else 0.0,
                vector_work_s=work * num_vector_cores if kind != 0 else 0.0,
                hbm_bytes=hbm_load * work * float(random.exponential(2.0)),
                num_tensor_cores=num_tensor_cores,
                num_vector_cores=num_vector_cores,
                serial_share=float(random.choice([0.0, 0.02, 0.1])),
            )
        )
    return problem_from_lists(
        predecessors,
        options,
        num_tensor_cores=num_tensor_cores,
        num_vector_cores=num_vector_cores,
        hbm_bytes_per_s=1.0,
    )


def training_problem(
    num_layers: int,
    *,
    branches: int = 1,
    num_tensor_cores: int = 4,
    num_vector_cores: int = 4,
    hbm_load: float = 0.3,
    vector_share: float = 0.3,
    serial_share: float = 0.02,
    seed: int = 0,
) -> ScheduleProblem:
    """A training step: per layer and branch a product and a vector operation forward; backward a vector operation, the
    input gradient (critical) and the weight gradient (off the critical path), whose update may follow at once.

    Branches fork from and join in a vector operation (Inception, query/key/value). Times are arbitrary seconds around
    1 for a product on all cores.
    """
    random = np.random.default_rng(seed)
    predecessors: list[list[int]] = []
    options: list[Options] = []
    item_of: list[int] = []

    def item(tensor_work_s: float, vector_work_s: float, traffic: float) -> int:
        options.append(
            moldable_options(
                tensor_work_s=tensor_work_s * num_tensor_cores,
                vector_work_s=vector_work_s * num_vector_cores,
                hbm_bytes=traffic,
                num_tensor_cores=num_tensor_cores,
                num_vector_cores=num_vector_cores,
                serial_share=serial_share,
            )
        )
        return len(options) - 1

    def add(work: int, after: list[int]) -> int:
        predecessors.append(after)
        item_of.append(work)
        return len(item_of) - 1

    sizes = random.lognormal(0.0, 0.5, branches) if branches > 1 else np.ones(1)
    products = [item(float(size), 0.0, hbm_load * float(size)) for size in sizes]
    pointwise = [item(0.0, vector_share * float(size), hbm_load * float(size)) for size in sizes]
    join = item(0.0, vector_share, hbm_load)
    update = item(0.0, vector_share / 2, 2 * hbm_load)
    last = add(join, [])
    saved: list[list[int]] = []
    for _ in range(num_layers):
        outputs = [add(pointwise[b], [add(products[b], [last])]) for b in range(branches)]
        saved.append([last, *outputs])
        last = add(join, outputs)
    gradient = add(join, [last])
    for layer in reversed(range(num_layers)):
        source, *outputs = saved[layer]
        ends = []
        for b in range(branches):
            through = add(pointwise[b], [gradient, outputs[b]])
            ends.append(add(products[b], [through]))
            add(update, [add(products[b], [through, source])])
        gradient = add(join, ends)
    return problem_from_lists(
        predecessors,
        options,
        num_tensor_cores=num_tensor_cores,
        num_vector_cores=num_vector_cores,
        hbm_bytes_per_s=1.0,
        item_of=item_of,
    )
