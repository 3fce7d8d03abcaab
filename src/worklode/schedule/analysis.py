"""Why a schedule takes as long as it does: use of resources, conflicts, and the chain of tasks that explains it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from worklode.schedule.compiled import Floats, Ints
from worklode.schedule.options import option_table
from worklode.schedule.problem import Pieces, Schedule, ScheduleProblem
from worklode.schedule.verify import usage

# Delays below this share of the makespan [1] are rounding.
NO_DELAY = 1e-12


class Resource(StrEnum):
    """What time can be blamed on."""

    TENSOR_CORE = "tensor_core"
    VECTOR_CORE = "vector_core"
    HBM = "hbm"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A task that started after all its predecessors had ended, or that was interrupted.

    Attributes:
        task: index.
        resource: type of core it waited for; `WAITING` where cores were free but kept for a more urgent task.
        delay_s: from the end of its last predecessor, or of its piece before, to its start [s].
        on_chain: it lies on the chain that explains the makespan.
    """

    task: int
    resource: Resource
    delay_s: float
    on_chain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainLink:
    """A task, or a piece of one, of the chain that explains the makespan.

    Attributes:
        task, option: indices.
        cause: what its standalone duration is bound by: compute on tensor or vector cores, or HBM.
        duration_s: its standalone duration [s], the set-up of a piece included.
        slowed_s: what sharing the bandwidth added to it [s].
        waited_s: gap between the end of the link before and its start [s].
        after_resource: the link before is no predecessor: it held cores this task needed.
    """

    task: int
    option: int
    cause: Resource
    duration_s: float
    slowed_s: float
    waited_s: float
    after_resource: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleAnalysis:
    """Findings about a schedule.

    Attributes:
        tensor_core, vector_core, hbm: share [1] of the capacity used over the makespan; 0 where there is none.
        conflicts: tasks delayed, longest delay first.
        chain: tasks from time 0 to the makespan, each starting when the one before ends.
        shares: share [1] of the makespan per resource, adding up to 1: cores for the chain tasks they bound, HBM for
            those it bounds and for all slowing down, waiting for gaps in the chain.
    """

    tensor_core: float
    vector_core: float
    hbm: float
    conflicts: tuple[Conflict, ...]
    chain: tuple[ChainLink, ...]
    shares: dict[Resource, float]

    @property
    def bottleneck(self) -> Resource:
        """The resource with the largest share of the makespan: the one to grow."""
        resources = (Resource.TENSOR_CORE, Resource.VECTOR_CORE, Resource.HBM)
        return max(resources, key=lambda resource: self.shares[resource])


def analyze(problem: ScheduleProblem, schedule: Schedule) -> ScheduleAnalysis:
    """Analyze a schedule; segments are not needed."""
    makespan_s = schedule.makespan_s
    if makespan_s <= 0:
        none = dict.fromkeys(Resource, 0.0)
        return ScheduleAnalysis(tensor_core=0.0, vector_core=0.0, hbm=0.0, conflicts=(), chain=(), shares=none)
    pieces = schedule.runs()
    ready_s, last = _last_before(problem, schedule, pieces)
    places, chain = _chain(problem, pieces, ready_s, last)
    conflicts = _conflicts(problem, pieces, ready_s, set(places), makespan_s)
    shares = dict.fromkeys(Resource, 0.0)
    for link in chain:
        shares[link.cause] += link.duration_s / makespan_s
        shares[Resource.HBM] += link.slowed_s / makespan_s
        shares[Resource.WAITING] += link.waited_s / makespan_s
    held_s = pieces.end_s - pieces.start_s
    tensor_s = float(problem.tensor_cores[pieces.option] @ held_s)
    vector_s = float(problem.vector_cores[pieces.option] @ held_s)
    traffic = float(problem.hbm_bytes[pieces.option] @ pieces.share)
    if problem.resume_bytes is not None:
        traffic += float(problem.resume_bytes[pieces.option] @ (pieces.set_up_s > 0.0))
    return ScheduleAnalysis(
        tensor_core=tensor_s / (problem.num_tensor_cores * makespan_s) if problem.num_tensor_cores else 0.0,
        vector_core=vector_s / (problem.num_vector_cores * makespan_s) if problem.num_vector_cores else 0.0,
        hbm=traffic / (problem.hbm_bytes_per_s * makespan_s),
        conflicts=conflicts,
        chain=chain,
        shares=shares,
    )


def _last_before(problem: ScheduleProblem, schedule: Schedule, pieces: Pieces) -> tuple[Floats, Ints]:
    """Per piece the time [s] it could start, and the piece that ended then (-1 where there is none).

    That is the piece of its task before, or for the first one the last piece of the predecessor that ends last.
    """
    n = len(problem.item_of)
    owner = np.repeat(np.arange(n), np.diff(problem.predecessor_start))
    by_end = np.lexsort((schedule.end_s[problem.predecessor], owner))
    last = np.full(n, -1, np.int64)
    last[owner[by_end]] = problem.predecessor[by_end]  # the last assignment, the latest end, stays
    by_task = np.lexsort((pieces.end_s, pieces.start_s, pieces.task))
    last_piece = np.empty(n, np.int64)
    last_piece[pieces.task[by_task]] = by_task
    first = np.append(True, pieces.task[by_task][1:] != pieces.task[by_task][:-1])
    before_task = last[pieces.task[by_task]]
    before = np.where(first, np.where(before_task >= 0, last_piece[before_task], -1), np.append(-1, by_task[:-1]))
    found = np.empty(len(by_task), np.int64)
    found[by_task] = before
    return np.where(found >= 0, pieces.end_s[found], 0.0), found


def _chain(
    problem: ScheduleProblem, pieces: Pieces, ready_s: Floats, last: Ints
) -> tuple[list[int], tuple[ChainLink, ...]]:
    """The pieces of the chain, and what each of them spent its time on."""
    places, after_resource = _walk_back(problem, pieces, ready_s, last)
    option = pieces.option[places]
    start_s, end_s = pieces.start_s[places], pieces.end_s[places]
    elapsed_s = end_s - start_s
    alone_s = pieces.share[places] * option_table(problem).duration_s[option] + pieces.set_up_s[places]
    alone_s = np.minimum(alone_s, elapsed_s)
    waited_s = np.maximum(start_s - np.append(0.0, end_s[:-1]), 0.0)
    # An option is bound by HBM where its traffic takes longer than its compute, else by the cores it holds.
    by_hbm = problem.hbm_bytes[option] / problem.hbm_bytes_per_s > problem.compute_s[option]
    by_core = np.where(problem.tensor_cores[option] > 0, 1, 2)
    causes = (Resource.HBM, Resource.TENSOR_CORE, Resource.VECTOR_CORE)
    return places.tolist(), tuple(
        ChainLink(
            task=task,
            option=taken,
            cause=causes[cause],
            duration_s=alone,
            slowed_s=slowed,
            waited_s=waited,
            after_resource=by,
        )
        for task, taken, cause, alone, slowed, waited, by in zip(
            pieces.task[places].tolist(),
            option.tolist(),
            np.where(by_hbm, 0, by_core).tolist(),
            alone_s.tolist(),
            (elapsed_s - alone_s).tolist(),
            waited_s.tolist(),
            after_resource,
            strict=True,
        )
    )


def _walk_back(problem: ScheduleProblem, pieces: Pieces, ready_s: Floats, last: Ints) -> tuple[Ints, list[bool]]:
    """Back from the piece that ends last: to the one it started after, else to one that held its cores.

    Returns the pieces in the order of time, and for each whether the one before held its cores.
    """
    by_end = np.argsort(pieces.end_s, kind="stable")
    ended = np.searchsorted(pieces.end_s[by_end], pieces.start_s, side="right").tolist()
    delayed = (pieces.start_s - ready_s > NO_DELAY * pieces.end_s[by_end[-1]]).tolist()
    # A piece of no duration that ends at this moment explains nothing, and could lead back here.
    lasted = pieces.end_s > pieces.start_s
    on_tensor = (problem.tensor_cores[pieces.option] > 0).tolist()
    on_vector = (problem.vector_cores[pieces.option] > 0).tolist()
    holds_tensor, holds_vector = (lasted & on_tensor).tolist(), (lasted & on_vector).tolist()
    # Lists: taking one number at a time out of an array costs several times as much.
    by_end_list, end_s, ready, before_of = by_end.tolist(), pieces.end_s.tolist(), ready_s.tolist(), last.tolist()
    places: list[int] = []
    after_resource: list[bool] = []
    seen: set[int] = set()
    here = by_end_list[-1]
    while here >= 0:
        seen.add(here)
        before, by_resource = before_of[here], False
        if delayed[here]:
            needs_tensor, needs_vector = on_tensor[here], on_vector[here]
            for place in range(ended[here] - 1, -1, -1):
                other = by_end_list[place]
                holds = (needs_tensor and holds_tensor[other]) or (needs_vector and holds_vector[other])
                if holds and other not in seen:
                    if end_s[other] > ready[here]:
                        before, by_resource = other, True
                    break
        places.append(here)
        after_resource.append(by_resource)
        here = before
    return np.array(places[::-1], np.int64), after_resource[::-1]


def _conflicts(
    problem: ScheduleProblem, pieces: Pieces, ready_s: Floats, on_chain: set[int], makespan_s: float
) -> tuple[Conflict, ...]:
    """Delayed tasks, and the type of core that was short just before they started."""
    delay_s = pieces.start_s - ready_s
    delayed = np.flatnonzero(delay_s > NO_DELAY * makespan_s)
    delayed = delayed[np.argsort(-delay_s[delayed], kind="stable")]
    short = np.empty((2, len(delayed)))
    for row, cores, capacity in (
        (0, problem.tensor_cores[pieces.option], problem.num_tensor_cores),
        (1, problem.vector_cores[pieces.option], problem.num_vector_cores),
    ):
        time_s, used = usage(pieces.start_s, pieces.end_s, cores.astype(np.float64))
        just_before = np.maximum(np.searchsorted(time_s, pieces.start_s[delayed], side="left") - 1, 0)
        short[row] = (cores[delayed] > 0) * (cores[delayed] + used[just_before] - capacity)
    most = np.where(short.max(axis=0) > 0, short.argmax(axis=0), 2)
    resources = (Resource.TENSOR_CORE, Resource.VECTOR_CORE, Resource.WAITING)
    return tuple(
        Conflict(task=task, resource=resources[row], delay_s=delay, on_chain=piece in on_chain)
        for piece, task, row, delay in zip(
            delayed.tolist(), pieces.task[delayed].tolist(), most.tolist(), delay_s[delayed].tolist(), strict=True
        )
    )
