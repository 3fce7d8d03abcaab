"""A pass as a GPU runs it: kernels one after another, collectives in line or on a stream of their own.

What the rules are and where they come from: docs/distributed.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worklode.graph.operator import Operator, Tensor, TensorRole
from worklode.graph.work import Collective, Communication
from worklode.schedule.problem import ScheduleProblem
from worklode.search.evaluate import Evaluator, ScheduledStep

# How often HBM carries a byte that arrives: it is stored and read back, "at least 2x" by NCCL's maintainer
# (github.com/NVIDIA/nccl issue 1428, 2024).
HBM_PASSES = 2
# How often a collective sends a tensor around; what is not named sends it once.
_ROUNDS = {Collective.ALL_REDUCE: 2}

_Interval = tuple[float, float, float]


def in_streams_s(
    evaluator: Evaluator, step: ScheduledStep, *, blocking: bool, collective_cores: int = 0
) -> tuple[float, float]:
    """Time of a pass whose operators run one after another, each by its fastest option, and of its kernels alone [s].

    Kernels keep their order, but that an input's gradient comes before the weight's (`issue_order`). A collective
    starts when its inputs are there and the one before has ended; a kernel waits for the collectives it reads. Beside a
    collective that holds c of N vector cores and asks HBM for the share u of its bandwidth, a kernel takes

        max(compute·N/(N - c), HBM·(1 + u))         instead of max(compute, HBM).

    Args:
        evaluator, step: the operators and their costs.
        blocking: collectives are in line with the kernels.
        collective_cores: c.
    """
    problem = step.problem
    operators = evaluator.fused.operators
    alone_s, compute_s, hbm_s = _fastest(problem)
    end_s = np.zeros(len(alone_s))
    communications = [operator.work.communication for operator in operators]
    if blocking:
        clock_s = 0.0
        for index in range(len(operators)):
            end_s[index] = clock_s = clock_s + alone_s[index]
    else:
        usable = (problem.num_vector_cores - collective_cores) / problem.num_vector_cores
        collectives = [index for index, found in enumerate(communications) if found is not None]
        ended = np.zeros(len(operators), bool)
        busy: list[_Interval] = []
        clock_s = link_s = 0.0
        for kernel in [*issue_order(operators, evaluator.fused.tensors, problem), -1]:
            while collectives and ended[predecessors(problem, collectives[0])].all():
                index = collectives.pop(0)
                start_s = max(link_s, float(end_s[predecessors(problem, index)].max(initial=0.0)))
                end_s[index] = link_s = start_s + alone_s[index]
                ended[index] = True
                share = _hbm_share(communications[index], alone_s[index], problem.hbm_bytes_per_s)
                busy.append((start_s, link_s, share))
            if kernel >= 0:
                start_s = max(clock_s, float(end_s[predecessors(problem, kernel)].max(initial=0.0)))
                clock_s = _ends_s(start_s, compute_s[kernel], hbm_s[kernel], usable, busy)
                end_s[kernel], ended[kernel] = clock_s, True
        assert ended.all(), "a collective waits for a kernel behind it"
    kernels_s = sum(float(alone_s[index]) for index, found in enumerate(communications) if found is None)
    return max(float(end_s.max(initial=0.0)), kernels_s), kernels_s


def predecessors(problem: ScheduleProblem, index: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Operators that must have ended before one starts."""
    return problem.predecessor[problem.predecessor_start[index] : problem.predecessor_start[index + 1]]


def issue_order(operators: Sequence[Operator], tensors: Sequence[Tensor], problem: ScheduleProblem) -> list[int]:
    """Kernels in the order a program issues them: as listed, but what makes gradients of parameters comes behind the
    product next to it that reads the same operand, which makes the gradient of the layer's input.

    So does Megatron-LM, whose collective of that gradient then runs beside the other (megatron/mpu/layers.py@02bb1f5c).
    """
    readers: dict[int, list[int]] = {}
    for index, operator in enumerate(operators):
        for access in operator.reads:
            readers.setdefault(access.tensor, []).append(index)
    aside = [False] * len(operators)
    for index in reversed(range(len(operators))):
        written = [access.tensor for access in operators[index].writes]
        aside[index] = bool(written) and all(
            tensors[tensor].role is TensorRole.GRADIENT
            or (tensor in readers and all(aside[reader] for reader in readers[tensor]))
            for tensor in written
        )
    reads: list[set[int]] = []
    for index in range(len(operators)):
        before = predecessors(problem, index).tolist()
        reads.append(set().union(*(reads[other] if aside[other] else {other} for other in before)))
    order: list[int] = []
    for kernel in (index for index, operator in enumerate(operators) if operator.work.communication is None):
        at = len(order)
        leads = bool(operators[kernel].work.products) and not aside[kernel]
        while leads and at and aside[order[at - 1]] and reads[kernel] & reads[order[at - 1]]:
            at -= 1
        order.insert(at, kernel)
    return order


def _fastest(problem: ScheduleProblem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[N] time of every operator's fastest option alone, of its cores and of HBM [s]."""
    hbm_s = problem.hbm_bytes / problem.hbm_bytes_per_s
    alone_s = np.maximum(problem.compute_s, hbm_s)
    best = [
        start + int(alone_s[start:stop].argmin())
        for start, stop in zip(problem.option_start[:-1], problem.option_start[1:], strict=True)
    ]
    chosen = np.array(best, np.int64)[problem.item_of]
    return alone_s[chosen], problem.compute_s[chosen], hbm_s[chosen]


def _hbm_share(communication: Communication | None, time_s: float, hbm_bytes_per_s: float) -> float:
    """Share of the HBM bandwidth a collective asks for [1]."""
    if communication is None or time_s <= 0.0:
        return 0.0
    rounds = _ROUNDS.get(communication.collective, 1)
    received = rounds * communication.bytes * (communication.devices - 1) / communication.devices
    return HBM_PASSES * received / time_s / hbm_bytes_per_s


def _ends_s(start_s: float, compute_s: float, hbm_s: float, usable: float, busy: Sequence[_Interval]) -> float:
    """When a kernel ends that starts at a time, collectives running beside it in some intervals [s]."""
    left_s, now_s = max(compute_s, hbm_s), start_s
    alone_s = left_s
    for begins_s, ends_s, share in busy:
        if left_s <= 0.0 or ends_s <= now_s:
            continue
        before_s = min(left_s, max(0.0, begins_s - now_s))
        now_s, left_s = now_s + before_s, left_s - before_s
        slower = max(compute_s / usable, hbm_s * (1.0 + share)) / alone_s if alone_s > 0.0 else 1.0
        beside_s = min(left_s * slower, max(0.0, ends_s - now_s))
        now_s, left_s = now_s + beside_s, left_s - beside_s / slower
    return now_s + max(left_s, 0.0)
