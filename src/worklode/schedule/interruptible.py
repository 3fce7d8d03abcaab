"""Scheduling of tasks that may be interrupted and go on later, on another option: docs/models/schedule.md, section 8.

An uninterrupted schedule is one of the schedules allowed here, so a pass of `list_scheduler` is always among those
that are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from worklode.errors import InternalError
from worklode.schedule.allocation import NO_SLACK, efficient_options
from worklode.schedule.bounds import path_wants
from worklode.schedule.compiled import Ints
from worklode.schedule.interruptible_kernel import (
    OVERFLOW,
    PIECES,
    SEGMENTS,
    CutRules,
    CutTasks,
    Log,
    climb_interruptible,
    new_log,
    schedule_pieces,
)
from worklode.schedule.list_scheduler import QUICK_POLICIES, ROUNDING, SHIFT, Effort, Found, Passes
from worklode.schedule.problem import Pieces, Schedule, ScheduleProblem

# Room for pieces and segments [count per task]; doubled where it does not do.
PIECES_PER_TASK, SEGMENTS_PER_TASK = 4, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPolicy:
    """One way to begin: which options tasks want, and in which direction time runs.

    Attributes:
        backward: schedule the graph with its edges turned round, and turn the schedule round.
        price: of cores, for options of least d · (1 + price · share of the cores).
        weighed: critical tasks want the option that is cheapest at the weights of the trade-off bound.
        strict: HBM bandwidth strictly by priority instead of graded.
        widen: cores that no task takes go to those that run.
        reluctance: a task is only interrupted that has this many times left what the interruption costs [1].
    """

    backward: bool = False
    price: float = 0.0
    weighed: bool = False
    strict: bool = False
    widen: bool = True
    reluctance: float = 1.0


# Measured in docs/models/schedule.md: of 80 policies and the four of `list_scheduler` those whose best is shortest in
# the mean over forty mined designs.
QUICK_CUTS = (
    CutPolicy(backward=True, price=16.0),
    CutPolicy(price=1.0),
    CutPolicy(backward=True, price=64.0, weighed=True, reluctance=3.0),
    CutPolicy(price=16.0, reluctance=10.0),
)
MORE_CUTS = (
    CutPolicy(price=4.0),
    CutPolicy(backward=True, weighed=True),
    CutPolicy(price=4.0, weighed=True, strict=True, widen=False, reluctance=10.0),
    CutPolicy(price=64.0, weighed=True, reluctance=10.0),
    CutPolicy(backward=True, price=16.0, reluctance=10.0),
    CutPolicy(backward=True, price=64.0, reluctance=10.0),
)
# Schedules tried by local search with "thorough" [count], a third of them in each round, and from how many starts in
# each round [count].
THOROUGH_EVALUATIONS, UTMOST_EVALUATIONS = 360, 2000
# Tasks up to which all of them are tried [count]; beyond, as many fewer as a schedule takes longer.
FEW_TASKS = 1200
CLIMBERS = (3, 2, 1)


# Where the best start without interruptions is at most this much longer [1], the search climbs from there too.
CLOSE = 1.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundCut:
    """A schedule in the direction of its pass: its length [s], what the pass ran over, and the rules that make it."""

    makespan_s: float
    tasks: CutTasks
    backward: bool
    rules: CutRules


def schedule_interruptible(
    problem: ScheduleProblem,
    *,
    rank: Ints | None = None,
    segments: bool = False,
    effort: Effort = "quick",
    evaluations: int | None = None,
    seed: int = 0,
) -> Schedule:
    """Schedule a problem whose tasks may be interrupted: the best of some policies, thorough also of a local search.

    Never longer than one task after another, each on its fastest option; the same arguments give the same answer.

    Args:
        problem: tasks, options, capacities, and what an interruption costs.
        rank: [N] as for `list_scheduler.schedule`.
        segments: also return the progress of every piece (slower; `verify` and the trace need it).
        effort: "thorough" tries more policies and then searches, "utmost" searches longer.
        evaluations: schedules to try in the local search; by the effort where None.
        seed: of its random steps.

    Raises:
        InternalError: no option of some task fits the cores, the dependences have a cycle, or the problem does not say
            what an interruption costs.
    """
    passes = _CutPasses(problem, rank)
    whole = passes.whole.begin(QUICK_POLICIES[:1])
    uncut = passes.whole.settle(min(whole, key=_makespan))
    cuts = passes.begin(QUICK_CUTS)
    if effort != "quick" and not passes.good(cuts, whole):
        if evaluations is None:
            evaluations = THOROUGH_EVALUATIONS if effort == "thorough" else UTMOST_EVALUATIONS
            evaluations = int(evaluations * min(1.0, FEW_TASKS / max(len(problem.item_of), 1)))
        cuts += passes.begin(MORE_CUTS)
        whole += passes.whole.begin(QUICK_POLICIES[1:])
        uncut_s, cut_s = min(map(_makespan, whole)), min(map(_makespan, cuts))
        cuts += passes.climb(cuts, evaluations, seed)
        if uncut_s <= cut_s * CLOSE:
            whole += passes.whole.climb(whole, evaluations, seed)
        uncut = min(uncut, passes.whole.settle(min(whole, key=_makespan)), key=_makespan)
    best = min(cuts, key=_makespan)
    if uncut.makespan_s <= best.makespan_s * (1.0 + ROUNDING):
        return passes.whole.finish(uncut, segments)
    return passes.finish(best, segments)


def _makespan(found: FoundCut | Found) -> float:
    return found.makespan_s


class _CutPasses:
    """Passes over one problem, and what they share."""

    def __init__(self, problem: ScheduleProblem, rank: Ints | None) -> None:
        if problem.resume_s is None or problem.resume_bytes is None:
            raise InternalError("the problem does not say what an interruption costs")
        self.problem = problem
        self.whole = Passes(problem, None, rank)
        through_s = self.whole.remaining_s + self.whole.reached_s - self.whole.table.duration_s[self.whole.fastest]
        longest_s = float(through_s.max(initial=0.0))
        self.critical = np.flatnonzero(through_s >= longest_s * (1.0 - NO_SLACK))
        self._weighed: Ints | None = None
        forward = self.whole.forward
        self.forward = CutTasks(
            predecessor_start=forward.predecessor_start,
            successor_start=forward.successor_start,
            successor=forward.successor,
            item_of=forward.item_of,
            option_start=forward.option_start,
            tensor_cores=forward.tensor_cores,
            vector_cores=forward.vector_cores,
            hbm_bytes=forward.hbm_bytes,
            duration_s=forward.duration_s,
            resume_s=problem.resume_s,
            resume_bytes=problem.resume_bytes,
            num_tensor_cores=forward.num_tensor_cores,
            num_vector_cores=forward.num_vector_cores,
            hbm_bytes_per_s=forward.hbm_bytes_per_s,
        )
        self.backward = self.forward._replace(
            predecessor_start=problem.successor_start,
            successor_start=problem.predecessor_start,
            successor=problem.predecessor,
        )
        self.nothing: Log = new_log(0, 0)

    def good(self, cuts: list[FoundCut], whole: list[Found]) -> bool:
        """Whether a schedule is so close to a lower bound that it is not tried to be improved."""
        return min(*map(_makespan, cuts), *map(_makespan, whole)) <= self.whole.goal_s

    def begin(self, policies: tuple[CutPolicy, ...]) -> list[FoundCut]:
        """One schedule per policy, up to the first good one."""
        founds: list[FoundCut] = []
        for policy in policies:
            rules = self._rules(policy)
            tasks = self.backward if policy.backward else self.forward
            founds.append(
                FoundCut(
                    makespan_s=schedule_pieces(tasks, rules, self.nothing),
                    tasks=tasks,
                    backward=policy.backward,
                    rules=rules,
                )
            )
            if founds[-1].makespan_s <= self.whole.goal_s:
                break
        return founds

    def climb(self, founds: list[FoundCut], evaluations: int, seed: int) -> list[FoundCut]:
        """Local search from the best schedules; the better half climbs on (successive halving)."""
        role_start, role_tasks, weight = self.whole.roles()
        if not len(weight) or weight[-1] <= 0.0 or evaluations <= 0:
            return []
        random = np.array([seed * 2 + 1], np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        shift_s = SHIFT * float(self.forward.duration_s[self.whole.fastest].max())
        climbed = [
            replace(
                found,
                rules=found.rules._replace(wanted=found.rules.wanted.copy(), priority=found.rules.priority.copy()),
            )
            for found in sorted(founds, key=_makespan)[: CLIMBERS[0]]
        ]
        for climbers in CLIMBERS:
            climbed = sorted(climbed, key=_makespan)[:climbers]
            steps = evaluations // (len(CLIMBERS) * len(climbed))
            for place, found in enumerate(climbed):
                least_s = climb_interruptible(
                    found.tasks,
                    found.rules,
                    self.nothing,
                    role_start,
                    role_tasks,
                    weight,
                    steps,
                    self.whole.goal_s,
                    shift_s,
                    random,
                )
                climbed[place] = replace(found, makespan_s=least_s)
        return climbed

    def finish(self, found: FoundCut, segments: bool) -> Schedule:
        """The schedule with its pieces, forward in time."""
        n = len(self.problem.item_of)
        pieces, parts = PIECES_PER_TASK * n + 1, (SEGMENTS_PER_TASK * n + 1) if segments else 0
        while True:
            log = new_log(pieces, parts)
            makespan_s = schedule_pieces(found.tasks, found.rules, log)
            if not log.counts[OVERFLOW]:
                break
            pieces, parts = 2 * pieces, 2 * parts
        if makespan_s != found.makespan_s:
            raise InternalError(f"a pass took {makespan_s} s, and {found.makespan_s} s before")
        return _as_schedule(self.problem, log, makespan_s, backward=found.backward)

    def _rules(self, policy: CutPolicy) -> CutRules:
        wanted = efficient_options(self.problem, self.whole.table, policy.price)[self.problem.item_of]
        if policy.weighed:
            if self._weighed is None:
                self._weighed = path_wants(self.problem, self.whole.table, self.critical)
            wanted[self.critical] = self._weighed
        return CutRules(
            wanted=wanted,
            priority=self.whole.reached_s if policy.backward else self.whole.remaining_s,
            tie_s=self.whole.table.duration_s[wanted],
            rank=self.whole.rank,
            strict=policy.strict,
            widen=policy.widen,
            reluctance=policy.reluctance,
        )


def _as_schedule(problem: ScheduleProblem, log: Log, makespan_s: float, *, backward: bool) -> Schedule:
    """What a pass wrote down, as a schedule: pieces in the order of their starts."""
    count, parts = int(log.counts[PIECES]), int(log.counts[SEGMENTS])
    start, end, share, set_up_s = log.piece_times[:, :count]
    from_s, to_s, rate, sets_up = log.segment_times[:, :parts]
    if backward:
        start, end = makespan_s - end, makespan_s - start
        from_s, to_s = makespan_s - to_s, makespan_s - from_s
    order = np.lexsort((log.piece_task[:count], start))
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    task, option = log.piece_task[:count][order], log.piece_option[:count][order]
    n = len(problem.item_of)
    first_s, last_s = np.full(n, np.inf), np.zeros(n)
    np.minimum.at(first_s, task, start[order])
    np.maximum.at(last_s, task, end[order])
    # The option of the largest piece stands for the task; of equal ones the first.
    by_share = np.lexsort((np.arange(count)[::-1], share[order]))
    main = np.zeros(n, np.int64)
    main[task[by_share]] = option[by_share]
    # Turning time round may round the shortest segments to nothing.
    lasts = to_s > from_s
    piece = place[log.segment_piece[:parts]] if parts else np.empty(0, np.int64)
    return Schedule(
        start_s=first_s,
        end_s=last_s,
        option=main,
        segment_task=task[piece][lasts],
        segment_start_s=from_s[lasts],
        segment_end_s=to_s[lasts],
        segment_rate=rate[lasts],
        pieces=Pieces(
            task=task,
            option=option,
            start_s=start[order],
            end_s=end[order],
            share=share[order],
            set_up_s=set_up_s[order],
            segment_piece=piece[lasts],
            segment_sets_up=sets_up[lasts] > 0.0,
        ),
    )
