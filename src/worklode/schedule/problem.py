"""What the scheduler is given and what it returns; free of operators, hardware and cost formulas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScheduleProblem:
    """N moldable tasks on two core types and one shared HBM.

    A task starts when its predecessors have finished, takes one of its options, holds that option's cores until it
    ends and is never interrupted. Alone it lasts `d = max(compute_s, hbm_bytes / hbm_bytes_per_s)`. While it runs it
    asks for `hbm_bytes / d` of bandwidth; where those that run ask for more than there is, some advance slower (fluid).

    Attributes:
        predecessor_start, predecessor, successor_start, successor: dependences, CSR ([N + 1], [E]) in both directions.
        item_of: [N] work item of each task; tasks of one item share their options.
        option_start: [U + 1]; tensor_cores, vector_cores, compute_s, hbm_bytes: [O], as in the costs of an accelerator.
        num_tensor_cores, num_vector_cores: capacities.
        hbm_bytes_per_s: capacity [bytes/s].
    """

    predecessor_start: NDArray[np.int64]
    predecessor: NDArray[np.int64]
    successor_start: NDArray[np.int64]
    successor: NDArray[np.int64]
    item_of: NDArray[np.int64]
    option_start: NDArray[np.int64]
    tensor_cores: NDArray[np.int64]
    vector_cores: NDArray[np.int64]
    compute_s: NDArray[np.float64]
    hbm_bytes: NDArray[np.float64]
    num_tensor_cores: int
    num_vector_cores: int
    hbm_bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schedule:
    """A complete schedule of a problem.

    Attributes:
        start_s, end_s: [N] times [s].
        option: [N] index into the option arrays.
        segment_task, segment_start_s, segment_end_s, segment_rate: the progress of tasks: in a segment a task advances
            at `rate` (1 = as fast as alone); over its segments rate·duration adds up to its standalone duration.
            May be empty where segments were not asked for.
    """

    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    option: NDArray[np.int64]
    segment_task: NDArray[np.int64]
    segment_start_s: NDArray[np.float64]
    segment_end_s: NDArray[np.float64]
    segment_rate: NDArray[np.float64]

    @property
    def makespan_s(self) -> float:
        """Time of the iteration [s]."""
        return float(self.end_s.max(initial=0.0))
