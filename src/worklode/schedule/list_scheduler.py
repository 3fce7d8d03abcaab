"""List scheduling of moldable tasks on two core types and a shared HBM. Method and figures: docs/models/schedule.md."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from worklode.errors import InternalError
from worklode.schedule.allocation import efficient_options, leave_room_options
from worklode.schedule.bounds import quick_bound
from worklode.schedule.compiled import Floats, Ints
from worklode.schedule.critical_path import earliest_start, longest_remaining, topological_order
from worklode.schedule.list_kernel import (
    FINISHED,
    OVERFLOW,
    SEGMENTS,
    Rules,
    Tasks,
    climb,
    list_schedule,
    new_state,
)
from worklode.schedule.options import OptionTable, option_table
from worklode.schedule.problem import Schedule, ScheduleProblem

Effort = Literal["quick", "thorough", "utmost"]

# A schedule this close to a lower bound [1] is not tried to be improved. Choice: a tenth of the 1 % gap that a search
# has to prove.
GOOD_ENOUGH = 1e-3
# Makespans closer than this [1] differ by the order of sums only.
ROUNDING = 1e-9
# Room for segments [count per task]; doubled where it does not do.
SEGMENTS_PER_TASK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One way to begin: which options tasks want, and in which direction time runs.

    Attributes:
        backward: schedule the graph with its edges turned round, and turn the schedule round.
        price: of cores, for options of least d · (1 + price · share of the cores); 0 wants the fastest.
        most_off_path: instead: critical tasks want the fastest option, others the fastest on at most this share of the
            cores.
        strict: HBM bandwidth strictly by priority instead of graded.
        hold: keep tasks back that would outlast the most urgent running one for most of their duration.
        widen: cores that no ready task takes go to those that have just started.
    """

    backward: bool = False
    price: float = 0.0
    most_off_path: float | None = None
    strict: bool = False
    hold: bool = False
    widen: bool = False


# Measured in docs/models/schedule.md: the set of four, of 128 policies, whose best is shortest in the mean over forty
# mined designs, and what the next ones add.
QUICK_POLICIES = (
    Policy(backward=True, price=4.0, widen=True),
    Policy(price=16.0, widen=True),
    Policy(backward=True, most_off_path=0.5, hold=True),
    Policy(most_off_path=0.5),
)
MORE_POLICIES = (
    Policy(hold=True),
    Policy(backward=True),
    Policy(price=16.0, widen=True, hold=True),
    Policy(backward=True, price=4.0, widen=True, hold=True),
    Policy(price=4.0, strict=True, widen=True),
    Policy(most_off_path=0.25, widen=True),
    Policy(backward=True, most_off_path=0.67),
    Policy(backward=True, price=64.0, widen=True),
    Policy(price=1.0, widen=True, hold=True),
)
# Passes of justification after the policies [count]: of the best with "quick", of each with "thorough".
JUSTIFICATIONS = 2
# Schedules tried by local search with "thorough" [count], a third of them in each round, and from how many starts in
# each round [count]. Measured in docs/models/schedule.md.
THOROUGH_EVALUATIONS = 400
# With "utmost" [count]: for the one design that is best.
UTMOST_EVALUATIONS = 2400
CLIMBERS = (4, 2, 1)
# Largest change of a priority in a step of the local search, relative to the longest task [1].
SHIFT = 2.0
NO_SEQUENCE = np.empty(0, np.int64)


# One task after another: a floor under the policies, as list schedules have anomalies and can be longer.
SERIAL = Policy()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """A schedule in the direction of its pass, and the rules that make it.

    Attributes:
        makespan_s: its length [s].
        tasks: what the pass ran over.
        backward: whether the pass runs backward in time.
        rules: of the pass.
        start, end: [N] times [s] of the pass.
        option: [N] option.
        policy: where it comes from.
    """

    makespan_s: float
    tasks: Tasks
    backward: bool
    rules: Rules
    start: Floats
    end: Floats
    option: Ints
    policy: Policy


def schedule(
    problem: ScheduleProblem,
    *,
    priorities: Floats | None = None,
    rank: Ints | None = None,
    segments: bool = False,
    effort: Effort = "quick",
) -> Schedule:
    """Schedule a problem: the best of some policies and of their justifications, or the first that cannot be improved.

    Never longer than one task after another, each on its fastest option.

    Args:
        problem: tasks, options, capacities.
        priorities: [N] higher goes first; default the longest remaining path [s]. Given, every pass runs forward.
        rank: [N] lower goes first among tasks equal in priority and duration; give it (`canonical_rank`) where the
            result must not depend on the order of the tasks.
        segments: also return the progress of every task (slower; `verify` and the trace need it).
        effort: "thorough" tries more policies and then improves the best (`improve`): some hundred times as long;
            "utmost" six times as long as that.

    Raises:
        InternalError: no option of some task fits the cores, or the dependences have a cycle.
    """
    if effort != "quick":
        evaluations = THOROUGH_EVALUATIONS if effort == "thorough" else UTMOST_EVALUATIONS
        return improve(problem, evaluations=evaluations, priorities=priorities, rank=rank, segments=segments)
    passes = Passes(problem, priorities, rank)
    founds = passes.begin(QUICK_POLICIES)
    return passes.finish(passes.quick_best(founds), segments)


def improve(
    problem: ScheduleProblem,
    *,
    evaluations: int,
    lower_bound_s: float = 0.0,
    priorities: Floats | None = None,
    rank: Ints | None = None,
    seed: int = 0,
    segments: bool = False,
) -> Schedule:
    """Improve on `schedule` by more policies and local search: for the few designs that are reported.

    A step of the search moves the tasks of one to three work items to wider or narrower options, or those of one to an
    earlier or later place in the order, and stays if the schedule is not longer: what repeats (blocks, forward and
    backward) decides alike. Never worse than `schedule`; the same seed gives the same answer.

    Args:
        problem: tasks, options, capacities.
        evaluations: schedules to try in the local search.
        lower_bound_s: known lower bound of the makespan [s]; the search ends within 0.1 % of it.
        priorities: as for `schedule`.
        rank: as for `schedule`.
        seed: of the random steps.
        segments: also return the progress of every task.

    Raises:
        InternalError: no option of some task fits the cores, or the dependences have a cycle.
    """
    passes = Passes(problem, priorities, rank)
    passes.goal_s = max(passes.goal_s, lower_bound_s * (1.0 + GOOD_ENOUGH))
    founds = passes.begin(QUICK_POLICIES)
    best = passes.quick_best(founds)
    if not passes.good(best):
        founds += passes.begin(MORE_POLICIES)
        for found in tuple(founds):
            founds += passes.justify(found)
        if evaluations > 0:
            founds += passes.climb(founds, evaluations, seed)
        best = min(best, passes.settle(min(founds, key=_makespan)), key=_makespan)
    return passes.finish(best, segments)


def _makespan(found: Found) -> float:
    return found.makespan_s


class Passes:
    """Passes over one problem, and what they share."""

    def __init__(self, problem: ScheduleProblem, priorities: Floats | None, rank: Ints | None) -> None:
        self.problem = problem
        self.table: OptionTable = option_table(problem)
        self.order = topological_order(problem)
        n = len(self.order)
        self.fastest = self.table.fastest[problem.item_of]
        fastest_s = self.table.duration_s[self.fastest]
        self.remaining_s = longest_remaining(self.order, problem.successor_start, problem.successor, fastest_s)
        # Longest path up to the end of a task: what remains to a pass backward.
        self.reached_s = fastest_s + earliest_start(
            self.order, problem.predecessor_start, problem.predecessor, fastest_s
        )
        self.forward_only = priorities is not None
        self.priorities = self.remaining_s if priorities is None else np.asarray(priorities, np.float64)
        self.rank = np.zeros(n, np.int64) if rank is None else np.asarray(rank, np.int64)
        # Rounded, so that the order in which the bound adds items does not matter.
        self.bound_s = float(f"{quick_bound(problem, self.table, self.remaining_s):.9e}")
        self.goal_s = self.bound_s * (1.0 + GOOD_ENOUGH)
        self.forward = Tasks(
            predecessor_start=problem.predecessor_start,
            successor_start=problem.successor_start,
            successor=problem.successor,
            item_of=problem.item_of,
            option_start=problem.option_start,
            tensor_cores=problem.tensor_cores,
            vector_cores=problem.vector_cores,
            hbm_bytes=problem.hbm_bytes,
            duration_s=self.table.duration_s,
            num_tensor_cores=problem.num_tensor_cores,
            num_vector_cores=problem.num_vector_cores,
            hbm_bytes_per_s=problem.hbm_bytes_per_s,
        )
        self.backward = self.forward._replace(
            predecessor_start=problem.successor_start,
            successor_start=problem.predecessor_start,
            successor=problem.predecessor,
        )
        self.state = new_state(n, 0)

    def good(self, found: Found) -> bool:
        """Whether a schedule is so close to a lower bound that it is not tried to be improved."""
        return found.makespan_s <= self.goal_s

    def begin(self, policies: tuple[Policy, ...]) -> list[Found]:
        """One schedule per policy, up to the first good one; then one task after another, where that is shorter."""
        founds = []
        for policy in policies:
            if policy.backward and self.forward_only:
                continue
            tasks = self.backward if policy.backward else self.forward
            founds.append(self.run(tasks, self._rules(policy), policy.backward, policy))
            if self.good(founds[-1]):
                break
        serial_s = float(self.table.duration_s[self.fastest].sum())
        if serial_s < min(founds, key=_makespan).makespan_s * (1.0 - ROUNDING):
            founds.append(self._one_after_another())
        return founds

    def justify(self, found: Found) -> list[Found]:
        """Forward-backward improvement: a pass in the other direction, what ended last first, then one in this again.

        Li and Willis 1992, "An iterative scheduling technique"; Valls, Ballestin and Quintanilla 2005, "Justification
        and RCPSP". Unlike there options change and bandwidth is shared, so a pass can be longer than the one before.
        """
        founds: list[Found] = []
        for _ in range(0 if self.forward_only or found.policy is SERIAL else JUSTIFICATIONS):
            rules = self._make_rules(found.option, found.end, widen=True)
            tasks = self.forward if found.backward else self.backward
            found = self.run(tasks, rules, not found.backward, found.policy)
            founds.append(found)
        return founds

    def climb(self, founds: list[Found], evaluations: int, seed: int) -> list[Found]:
        """Local search from the best of different policies and directions, then justification of what it finds."""
        starts: list[Found] = []
        for found in sorted(founds, key=_makespan):
            known = any(found.policy == other.policy and found.backward == other.backward for other in starts)
            if found.policy is not SERIAL and not known:
                starts.append(found)
        role_start, role_tasks, weight = self.roles()
        if not len(weight) or weight[-1] <= 0.0:
            return []
        random = np.array([seed * 2 + 1], np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        shift_s = SHIFT * float(self.table.duration_s[self.fastest].max())
        climbed = [
            replace(
                found,
                rules=found.rules._replace(wanted=found.rules.wanted.copy(), priority=found.rules.priority.copy()),
            )
            for found in starts[: CLIMBERS[0]]
        ]
        # Successive halving: the better half climbs on.
        for climbers in CLIMBERS:
            climbed = sorted(climbed, key=_makespan)[:climbers]
            steps = evaluations // (len(CLIMBERS) * len(climbed))
            for place, found in enumerate(climbed):
                least_s = climb(
                    found.tasks,
                    found.rules,
                    self.state,
                    role_start,
                    role_tasks,
                    weight,
                    steps,
                    self.goal_s,
                    shift_s,
                    random,
                )
                climbed[place] = replace(found, makespan_s=least_s)
        best = min(climbed, key=_makespan)
        top = self.run(best.tasks, best.rules, best.backward, best.policy)
        return [top, *self.justify(top)]

    def roles(self) -> tuple[Ints, Ints, Floats]:
        """Tasks by work item, items in the order of their first rank; and running sums of the weights of items."""
        item_of = self.problem.item_of
        num_items = len(self.table.fastest)
        first = np.full(num_items, np.iinfo(np.int64).max)
        np.minimum.at(first, item_of, self.rank)
        by_rank = np.argsort(first, kind="stable")
        place = np.empty(num_items, np.int64)
        place[by_rank] = np.arange(num_items)
        count = np.bincount(item_of, minlength=num_items)[by_rank]
        role_start = np.concatenate(([0], np.cumsum(count))).astype(np.int64)
        # Items that take long more often; the square root was as good as other weights.
        weight = np.cumsum(np.sqrt(count * self.table.duration_s[self.table.fastest[by_rank]]))
        return role_start, np.argsort(place[item_of], kind="stable"), weight

    def run(self, tasks: Tasks, rules: Rules, backward: bool, policy: Policy) -> Found:
        """One pass."""
        makespan_s = list_schedule(tasks, rules, self.state)
        if self.state.counts[FINISHED] < len(self.order):
            raise InternalError(f"the list scheduler placed {self.state.counts[FINISHED]} of {len(self.order)} tasks")
        return Found(
            makespan_s=makespan_s,
            tasks=tasks,
            backward=backward,
            rules=rules,
            start=self.state.start.copy(),
            end=self.state.end.copy(),
            option=self.state.held.copy(),
            policy=policy,
        )

    def quick_best(self, founds: list[Found]) -> Found:
        """The best of some schedules and of the justifications of the best of them."""
        best = min(founds, key=_makespan)
        return self.settle(best if self.good(best) else min([best, *self.justify(best)], key=_makespan))

    def finish(self, found: Found, segments: bool) -> Schedule:
        """The schedule, forward in time."""
        state = self.state
        room = SEGMENTS_PER_TASK * len(self.order) + 1
        while segments and (state is self.state or state.counts[OVERFLOW]):
            state = new_state(len(self.order), room)
            list_schedule(found.tasks, found.rules, state)
            room *= 2
        count = int(state.counts[SEGMENTS]) if segments else 0
        segment_start, segment_end, rate = state.segment_times[:, :count]
        start, end = found.start, found.end
        if found.backward:
            start, end = found.makespan_s - end, found.makespan_s - start
            segment_start, segment_end = found.makespan_s - segment_end, found.makespan_s - segment_start
        # Turning time round may round the shortest segments to nothing.
        lasts = segment_end > segment_start
        return Schedule(
            start_s=start,
            end_s=end,
            option=found.option,
            segment_task=state.segment_task[:count][lasts],
            segment_start_s=segment_start[lasts],
            segment_end_s=segment_end[lasts],
            segment_rate=rate[lasts],
        )

    def settle(self, found: Found) -> Found:
        """A schedule that was made backward, with every task as early as its order and its option allow.

        In a pass backward, tasks end when others start, and wait for no reason that can be seen; here they start when
        others end. Where sharing the bandwidth makes that longer, the schedule stays as it is.
        """
        if not found.backward:
            return found
        depth = earliest_start(
            self.order, self.problem.predecessor_start, self.problem.predecessor, np.ones(len(self.order))
        )
        # Depth: tasks without work start with their predecessors.
        sequence = np.lexsort((self.rank, -self.remaining_s, depth, -found.end))
        place = np.empty(len(sequence))
        place[sequence] = np.arange(len(sequence))
        rules = self._make_rules(found.option, -place)._replace(sequence=sequence)
        moved = self.run(self.forward, rules, False, found.policy)
        return moved if moved.makespan_s <= found.makespan_s * (1.0 + ROUNDING) else found

    def _one_after_another(self) -> Found:
        all_tensor = np.full_like(self.problem.tensor_cores, self.problem.num_tensor_cores)
        all_vector = np.full_like(self.problem.vector_cores, self.problem.num_vector_cores)
        tasks = self.forward._replace(tensor_cores=all_tensor, vector_cores=all_vector)
        return self.run(tasks, self._make_rules(self.fastest, self.priorities), False, SERIAL)

    def _rules(self, policy: Policy) -> Rules:
        if policy.most_off_path is not None:
            wanted = leave_room_options(self.problem, self.table, self.order, self.remaining_s, policy.most_off_path)
        else:
            wanted = efficient_options(self.problem, self.table, policy.price)[self.problem.item_of]
        return self._make_rules(
            wanted,
            self.reached_s if policy.backward else self.priorities,
            strict=policy.strict,
            hold=policy.hold,
            widen=policy.widen,
        )

    def _make_rules(
        self, wanted: Ints, priority: Floats, *, strict: bool = False, hold: bool = False, widen: bool = False
    ) -> Rules:
        return Rules(
            wanted=wanted,
            priority=priority,
            tie_s=self.table.duration_s[wanted],
            rank=self.rank,
            sequence=NO_SEQUENCE,
            strict=strict,
            hold_until_s=self.bound_s if hold else 0.0,
            widen=widen,
        )
