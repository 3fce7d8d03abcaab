"""Why a schedule takes as long as it does: use of resources, conflicts, and the chain of tasks that explains it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from worklode.schedule.compiled import Floats, Ints
from worklode.schedule.options import option_table
from worklode.schedule.problem import Schedule, ScheduleProblem
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
    """A task that started after all its predecessors had ended.

    Attributes:
        task: index.
        resource: type of core it waited for; `WAITING` where cores were free but kept for a more urgent task.
        delay_s: from the end of its last predecessor to its start [s].
        on_chain: it lies on the chain that explains the makespan.
    """

    task: int
    resource: Resource
    delay_s: float
    on_chain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainLink:
    """A task of the chain that explains the makespan.

    Attributes:
        task: index.
        cause: what its standalone duration is bound by: compute on tensor or vector cores, or HBM.
        duration_s: its standalone duration [s].
        slowed_s: what sharing the bandwidth added to it [s].
        waited_s: gap between the end of the link before and its start [s].
        after_resource: the link before is no predecessor: it held cores this task needed.
    """

    task: int
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
    ready_s, last = _last_predecessor(problem, schedule)
    chain = _chain(problem, schedule, ready_s, last)
    conflicts = _conflicts(problem, schedule, ready_s, {link.task for link in chain})
    shares = dict.fromkeys(Resource, 0.0)
    for link in chain:
        shares[link.cause] += link.duration_s / makespan_s
        shares[Resource.HBM] += link.slowed_s / makespan_s
        shares[Resource.WAITING] += link.waited_s / makespan_s
    held_s = schedule.end_s - schedule.start_s
    tensor_s = float(problem.tensor_cores[schedule.option] @ held_s)
    vector_s = float(problem.vector_cores[schedule.option] @ held_s)
    traffic = float(problem.hbm_bytes[schedule.option].sum())
    return ScheduleAnalysis(
        tensor_core=tensor_s / (problem.num_tensor_cores * makespan_s) if problem.num_tensor_cores else 0.0,
        vector_core=vector_s / (problem.num_vector_cores * makespan_s) if problem.num_vector_cores else 0.0,
        hbm=traffic / (problem.hbm_bytes_per_s * makespan_s),
        conflicts=conflicts,
        chain=chain,
        shares=shares,
    )


def _last_predecessor(problem: ScheduleProblem, schedule: Schedule) -> tuple[Floats, Ints]:
    """Per task the time [s] its last predecessor ends, and which it is (-1 where there is none)."""
    n = len(problem.item_of)
    owner = np.repeat(np.arange(n), np.diff(problem.predecessor_start))
    by_end = np.lexsort((schedule.end_s[problem.predecessor], owner))
    last = np.full(n, -1, np.int64)
    last[owner[by_end]] = problem.predecessor[by_end]  # the last assignment, the latest end, stays
    return np.where(last >= 0, schedule.end_s[last], 0.0), last


def _cause(problem: ScheduleProblem, option: int) -> Resource:
    """What bounds an option alone: HBM where its traffic takes longer than its compute, else the cores it holds."""
    if problem.hbm_bytes[option] / problem.hbm_bytes_per_s > problem.compute_s[option]:
        return Resource.HBM
    return Resource.TENSOR_CORE if problem.tensor_cores[option] > 0 else Resource.VECTOR_CORE


def _chain(problem: ScheduleProblem, schedule: Schedule, ready_s: Floats, last: Ints) -> tuple[ChainLink, ...]:
    """Back from the task that ends last: to the predecessor it started after, else to a task that held its cores."""
    duration_s = option_table(problem).duration_s[schedule.option]
    rounding_s = NO_DELAY * schedule.makespan_s
    by_end = np.argsort(schedule.end_s, kind="stable")
    ends_s = schedule.end_s[by_end]
    links: list[ChainLink] = []
    task = int(by_end[-1])
    seen: set[int] = set()
    while task >= 0:
        seen.add(task)
        start = float(schedule.start_s[task])
        before, after_resource = int(last[task]), False
        if start - ready_s[task] > rounding_s:
            # A task of no duration that ends at this moment explains nothing, and could lead back here.
            blocker = _blocker(problem, schedule, task, by_end[: np.searchsorted(ends_s, start, side="right")], seen)
            if blocker >= 0 and schedule.end_s[blocker] > ready_s[task]:
                before, after_resource = blocker, True
        waited = start - float(schedule.end_s[before]) if before >= 0 else start
        option = int(schedule.option[task])
        elapsed = float(schedule.end_s[task]) - start
        alone = min(float(duration_s[task]), elapsed)
        links.append(
            ChainLink(
                task=task,
                cause=_cause(problem, option),
                duration_s=alone,
                slowed_s=elapsed - alone,
                waited_s=max(waited, 0.0),
                after_resource=after_resource,
            )
        )
        task = before
    return tuple(reversed(links))


def _blocker(problem: ScheduleProblem, schedule: Schedule, task: int, ended: Ints, seen: set[int]) -> int:
    """The task that ended last before `task` started and held a type of core that it needs; -1 if none."""
    option = schedule.option[task]
    for other in ended[::-1]:
        if int(other) in seen:
            continue
        held = schedule.option[other]
        shares_tensor = problem.tensor_cores[held] > 0 and problem.tensor_cores[option] > 0
        shares_vector = problem.vector_cores[held] > 0 and problem.vector_cores[option] > 0
        lasted = schedule.end_s[other] > schedule.start_s[other]
        if lasted and (shares_tensor or shares_vector):
            return int(other)
    return -1


def _conflicts(
    problem: ScheduleProblem, schedule: Schedule, ready_s: Floats, on_chain: set[int]
) -> tuple[Conflict, ...]:
    """Delayed tasks, and the type of core that was short just before they started."""
    delay_s = schedule.start_s - ready_s
    delayed = np.flatnonzero(delay_s > NO_DELAY * schedule.makespan_s)
    delayed = delayed[np.argsort(-delay_s[delayed], kind="stable")]
    short: dict[Resource, Floats] = {}
    for resource, cores, capacity in (
        (Resource.TENSOR_CORE, problem.tensor_cores[schedule.option], problem.num_tensor_cores),
        (Resource.VECTOR_CORE, problem.vector_cores[schedule.option], problem.num_vector_cores),
    ):
        time_s, used = usage(schedule.start_s, schedule.end_s, cores.astype(np.float64))
        just_before = np.maximum(np.searchsorted(time_s, schedule.start_s[delayed], side="left") - 1, 0)
        short[resource] = (cores[delayed] > 0) * (cores[delayed] + used[just_before] - capacity)
    conflicts = []
    for place, task in enumerate(delayed):
        most = max(short, key=lambda resource: short[resource][place])
        conflicts.append(
            Conflict(
                task=int(task),
                resource=most if short[most][place] > 0 else Resource.WAITING,
                delay_s=float(delay_s[task]),
                on_chain=int(task) in on_chain,
            )
        )
    return tuple(conflicts)
