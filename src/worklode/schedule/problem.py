"""What the scheduler is given and what it returns; free of operators, hardware and cost formulas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScheduleProblem:
    """N moldable tasks on two core types and one shared HBM.

    A task starts when its predecessors have finished, takes one of its options, holds that option's cores until it
    ends. Alone it lasts `d = max(compute_s, hbm_bytes / hbm_bytes_per_s)`. While it runs it asks for `hbm_bytes / d`
    of bandwidth; where those that run ask for more than there is, some advance slower (fluid).

    Where `resume_s` is given, a task may be interrupted: its share of work done is kept, and it goes on later, on the
    same option or another. Every further piece costs `resume_s` and moves `resume_bytes`, once, before it (filling) or
    after it (draining).

    Attributes:
        predecessor_start, predecessor, successor_start, successor: dependences, CSR ([N + 1], [E]) in both directions.
        item_of: [N] work item of each task; tasks of one item share their options.
        option_start: [U + 1]; tensor_cores, vector_cores, compute_s, hbm_bytes: [O], as in the costs of an accelerator.
        num_tensor_cores, num_vector_cores: capacities.
        hbm_bytes_per_s: capacity [bytes/s].
        resume_s, resume_bytes: [O] what an interruption adds to a piece on each option; None: no task is interrupted.
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
    resume_s: NDArray[np.float64] | None = None
    resume_bytes: NDArray[np.float64] | None = None

    @property
    def interruptible(self) -> bool:
        """Whether tasks may be interrupted."""
        return self.resume_s is not None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pieces:
    """The K pieces of a schedule with interruptions, in the order of their starts.

    Attributes:
        task, option: [K] indices.
        start_s, end_s: [K] times [s]; in between the piece holds the cores of its option.
        share: [K] share of the operator that it does [1]; those of a task add up to 1.
        set_up_s: [K] `resume_s` of the option, or 0 in one piece of each task.
        segment_piece: [M] piece of each segment of the schedule.
        segment_sets_up: [M] whether the progress of a segment is that of the set-up.
    """

    task: NDArray[np.int64]
    option: NDArray[np.int64]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    share: NDArray[np.float64]
    set_up_s: NDArray[np.float64]
    segment_piece: NDArray[np.int64]
    segment_sets_up: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schedule:
    """A complete schedule of a problem.

    Attributes:
        start_s, end_s: [N] times [s].
        option: [N] index into the option arrays; of the largest piece where there are several.
        segment_task, segment_start_s, segment_end_s, segment_rate: the progress of tasks: in a segment a task advances
            at `rate` (1 = as fast as alone); over its segments rate·duration adds up to its standalone duration.
            May be empty where segments were not asked for.
        pieces: of tasks that were interrupted or could have been; None: every task is one piece.
    """

    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    option: NDArray[np.int64]
    segment_task: NDArray[np.int64]
    segment_start_s: NDArray[np.float64]
    segment_end_s: NDArray[np.float64]
    segment_rate: NDArray[np.float64]
    pieces: Pieces | None = None

    def runs(self) -> Pieces:
        """The pieces; every task whole where none was interrupted."""
        if self.pieces is not None:
            return self.pieces
        n = len(self.start_s)
        return Pieces(
            task=np.arange(n),
            option=self.option,
            start_s=self.start_s,
            end_s=self.end_s,
            share=np.ones(n),
            set_up_s=np.zeros(n),
            segment_piece=self.segment_task,
            segment_sets_up=np.zeros(len(self.segment_task), np.bool_),
        )

    @property
    def interruptions(self) -> int:
        """How often a task was interrupted, or went over to another option [count]."""
        return 0 if self.pieces is None else len(self.pieces.task) - len(self.start_s)

    @property
    def makespan_s(self) -> float:
        """Time of the iteration [s]."""
        return float(self.end_s.max(initial=0.0))
