"""The event loop of the list scheduler and its local search, compiled. Rules: docs/models/schedule.md.

Entry: `list_scheduler.schedule`. Longer than other files: numba does not notice changes across files (`compiled`).
"""

# A kernel keeps its state in one loop:
# ruff: noqa: PLR0912, PLR0915

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worklode.schedule.compiled import Floats, Ints, compiled

# Demands that exceed the bandwidth by less than this share [1] are rounding, not contention.
ROUNDING = 1e-12
# Waiting tasks looked at per event behind the ones that start [count]; bounds the time of an event on wide graphs.
# Measured (docs/models/schedule.md): 256 shortens schedules by 0.1 % in the mean and takes a third longer.
BACKFILL_DEPTH = 16

# Share of what is left [1] that a task takes which asks for more than its fair share; the next takes the same share of
# the rest. 0.65 to 0.85 do equally well, strict priority and equal shares worse (docs/models/schedule.md).
GRADED_SHARE = 0.75
# A task is held back that would run for more than this share [1] of its duration after the most urgent running task
# has ended. Measured in docs/models/schedule.md.
HOLD_SHARE = 0.85

NEEDS_TENSOR = 1
NEEDS_VECTOR = 2

# Roles moved in a step of `climb` [count], by how many options [count] (narrower more often), and how often a step
# shifts priorities instead [1]. Measured in docs/models/schedule.md.
MOST_MOVED = 3
MOVES = (-3, -2, -1, 1, 2)
SHIFT_SHARE = 0.25

# Places in `State.counts`.
FINISHED, SEGMENTS, OVERFLOW = 0, 1, 2


class Tasks(NamedTuple):
    """A problem as a pass reads it; for a pass backwards in time the dependences are turned round.

    Attributes:
        predecessor_start, successor_start, successor: dependences, CSR ([N + 1], [N + 1], [E]).
        item_of, option_start, tensor_cores, vector_cores, hbm_bytes: as in `ScheduleProblem`.
        duration_s: [O] standalone duration [s]; infinite for an option wider than the machine.
        num_tensor_cores, num_vector_cores, hbm_bytes_per_s: capacities.
    """

    predecessor_start: Ints
    successor_start: Ints
    successor: Ints
    item_of: Ints
    option_start: Ints
    tensor_cores: Ints
    vector_cores: Ints
    hbm_bytes: Floats
    duration_s: Floats
    num_tensor_cores: int
    num_vector_cores: int
    hbm_bytes_per_s: float


class Rules(NamedTuple):
    """How a pass decides.

    Attributes:
        wanted: [N] option each task takes where its cores are free in time.
        priority: [N] higher goes first.
        tie_s: [N] longer goes first among tasks equal in priority [s].
        rank: [N] lower goes first among those equal in both.
        sequence: tasks in the order in which they must start, none before the one before it, on wanted options only;
            empty: any order.
        strict: HBM bandwidth strictly by priority instead of graded.
        hold_until_s: tasks that would outlast the most urgent running one are held back before this time [s].
        widen: cores that no ready task takes go to those that start at this moment.
    """

    wanted: Ints
    priority: Floats
    tie_s: Floats
    rank: Ints
    sequence: Ints
    strict: bool
    hold_until_s: float
    widen: bool


class State(NamedTuple):
    """Working memory of a pass, and its result: `start`, `end`, `held` (options), segments.

    Attributes:
        counts: [3] tasks finished, segments, and whether segments did not fit.
        start, end: [N] times [s].
        held: [N] option.
        waiting_for: [N] predecessors that have not ended.
        left_s, since_s, rate, finish_s, demand, new_rate: [N] progress of running tasks: `left_s` [s of standalone
            time] at `since_s`, advancing at `rate`, done at `finish_s`; bandwidth asked for [bytes/s].
        segment_start: [N] start of the segment that is open [s].
        running: [N] running tasks, highest priority first.
        ready: [4, N] ready tasks by the cores they need (neither, tensor, vector, both), highest priority last.
        segment_task: [M] tasks of segments; M = 0: segments are not wanted.
        segment_times: [3, M] start [s], end [s] and rate of segments.
    """

    counts: Ints
    start: Floats
    end: Floats
    held: Ints
    waiting_for: Ints
    left_s: Floats
    since_s: Floats
    rate: Floats
    finish_s: Floats
    demand: Floats
    new_rate: Floats
    segment_start: Floats
    running: Ints
    ready: Ints
    segment_task: Ints
    segment_times: Floats


def new_state(num_tasks: int, num_segments: int) -> State:
    """Memory for passes over so many tasks that record at most so many segments."""
    return State(
        counts=np.zeros(3, np.int64),
        start=np.zeros(num_tasks),
        end=np.zeros(num_tasks),
        held=np.zeros(num_tasks, np.int64),
        waiting_for=np.zeros(num_tasks, np.int64),
        left_s=np.zeros(num_tasks),
        since_s=np.zeros(num_tasks),
        rate=np.zeros(num_tasks),
        finish_s=np.zeros(num_tasks),
        demand=np.zeros(num_tasks),
        new_rate=np.zeros(num_tasks),
        segment_start=np.zeros(num_tasks),
        running=np.zeros(num_tasks, np.int64),
        ready=np.zeros((4, num_tasks), np.int64),
        segment_task=np.zeros(num_segments, np.int64),
        segment_times=np.zeros((3, num_segments)),
    )


@compiled
def goes_before(a: int, b: int, priority: Floats, wanted_s: Floats, rank: Ints) -> bool:
    """Total order of tasks: longer remaining path, longer duration, lower rank, lower index."""
    if priority[a] != priority[b]:
        return bool(priority[a] > priority[b])
    if wanted_s[a] != wanted_s[b]:
        return bool(wanted_s[a] > wanted_s[b])
    if rank[a] != rank[b]:
        return bool(rank[a] < rank[b])
    return a < b


@compiled
def insert_sorted(
    tasks: Ints, count: int, task: int, highest_last: bool, priority: Floats, wanted_s: Floats, rank: Ints
) -> None:
    """Insert a task into the first `count` entries, kept in the total order (or its reverse); the caller counts."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if goes_before(task, tasks[middle], priority, wanted_s, rank) == highest_last:
            low = middle + 1
        else:
            high = middle
    for position in range(count, low, -1):
        tasks[position] = tasks[position - 1]
    tasks[low] = task


@compiled
def share_bandwidth(
    running: Ints, num_running: int, demand: Floats, capacity: float, strict: bool, rate: Floats
) -> None:
    """Rates of the running tasks [1] into `rate`, which is indexed by task; `running` has the highest priority first.

    Strict: each task in turn gets what it asks for, or what is left. Graded: whoever asks for no more than an equal
    share gets it, and what these leave raises the share (as in max-min fairness); of the rest, each of the others in
    turn takes `GRADED_SHARE`, the last all. Both use all the bandwidth that is asked for.
    """
    left = capacity
    if strict:
        for slot in range(num_running):
            task = running[slot]
            given = min(demand[task], left)
            left -= given
            rate[task] = 1.0 if demand[task] <= given * (1.0 + ROUNDING) else given / demand[task]
        return
    unserved = num_running
    for slot in range(num_running):
        rate[running[slot]] = -1.0
    served = True
    while served and unserved > 0:
        served = False
        share = left / unserved
        for slot in range(num_running):
            task = running[slot]
            if rate[task] < 0.0 and demand[task] <= share * (1.0 + ROUNDING):
                rate[task] = 1.0
                left = max(left - demand[task], 0.0)
                unserved -= 1
                served = True
    # Each of the m greedy asks for more than left / m, so that none of it remains after the last.
    for slot in range(num_running):
        task = running[slot]
        if rate[task] < 0.0:
            given = min(demand[task], left * GRADED_SHARE if unserved > 1 else left)
            left -= given
            unserved -= 1
            rate[task] = 1.0 if demand[task] <= given * (1.0 + ROUNDING) else given / demand[task]


@compiled
def when_free(
    running: Ints,
    num_running: int,
    finish_s: Floats,
    now_s: float,
    held: Ints,
    tensor_cores: Ints,
    vector_cores: Ints,
    free_tensor: int,
    free_vector: int,
    need_tensor: int,
    need_vector: int,
) -> tuple[float, int, int]:
    """When the needed cores will be free if all goes on as now, and the cores free then; infinite if never."""
    at = now_s
    while free_tensor < need_tensor or free_vector < need_vector:
        following = np.inf
        for slot in range(num_running):
            end = finish_s[running[slot]]
            if end > at or (end <= now_s and at == now_s):
                following = min(following, end)
        if following == np.inf:
            return np.inf, free_tensor, free_vector
        for slot in range(num_running):
            end = finish_s[running[slot]]
            if (end > at or (end <= now_s and at == now_s)) and end <= following:
                free_tensor += tensor_cores[held[running[slot]]]
                free_vector += vector_cores[held[running[slot]]]
        # Past `now_s` in any case, so that tasks ending at this very moment are counted once.
        at = max(following, np.nextafter(now_s, np.inf))
    return at, free_tensor, free_vector


@compiled
def core_kinds(item_of: Ints, option_start: Ints, tensor_cores: Ints, vector_cores: Ints) -> Ints:
    """Which types of cores tasks need [N]: neither (0), tensor, vector, both (3)."""
    kinds = np.empty(len(item_of), np.int64)
    for task in range(len(item_of)):
        first = option_start[item_of[task]]
        kinds[task] = NEEDS_TENSOR * (tensor_cores[first] > 0) + NEEDS_VECTOR * (vector_cores[first] > 0)
    return kinds


@compiled
def close_segment(
    task: int,
    now_s: float,
    segment_start: Floats,
    rate: Floats,
    counts: Ints,
    segment_task: Ints,
    segment_times: Floats,
) -> None:
    """Record the progress of a task up to now, if there is room, and begin a new segment."""
    if now_s > segment_start[task] and rate[task] > 0.0:
        at = counts[SEGMENTS]
        if at == len(segment_task):
            counts[OVERFLOW] = 1
        else:
            segment_task[at] = task
            segment_times[0, at] = segment_start[task]
            segment_times[1, at] = now_s
            segment_times[2, at] = rate[task]
            counts[SEGMENTS] += 1
    segment_start[task] = now_s


@compiled
def list_schedule(tasks: Tasks, rules: Rules, state: State) -> float:
    """Schedule every task; the schedule is in `state`, valid if all tasks finished. Returns the makespan [s]."""
    n = len(tasks.item_of)
    # Fields are read once: in the loop, numba would take the tuples apart again and again, at a third more time.
    item_of, option_start, successor_start = tasks.item_of, tasks.option_start, tasks.successor_start
    tensor_cores, vector_cores, hbm_bytes = tasks.tensor_cores, tasks.vector_cores, tasks.hbm_bytes
    successor, duration_s, hbm_bytes_per_s = tasks.successor, tasks.duration_s, tasks.hbm_bytes_per_s
    wanted, sequence, hold_until_s, widen = rules.wanted, rules.sequence, rules.hold_until_s, rules.widen
    priority, tie_s, rank = rules.priority, rules.tie_s, rules.rank
    counts, start, end, held, waiting_for = state.counts, state.start, state.end, state.held, state.waiting_for
    left_s, since_s, rate, finish_s = state.left_s, state.since_s, state.rate, state.finish_s
    demand, new_rate, segment_start = state.demand, state.new_rate, state.segment_start
    running, ready = state.running, state.ready
    segment_task, segment_times = state.segment_task, state.segment_times
    want_segments = len(segment_task) > 0
    kinds = core_kinds(item_of, option_start, tensor_cores, vector_cores)
    in_sequence = len(sequence) > 0
    next_in_sequence = 0
    num_running = 0
    num_ready = np.zeros(4, np.int64)
    cursor = np.zeros(4, np.int64)
    counts[:] = 0
    for task in range(n):
        waiting_for[task] = tasks.predecessor_start[task + 1] - tasks.predecessor_start[task]
        if waiting_for[task] == 0:
            kind = kinds[task]
            insert_sorted(ready[kind], num_ready[kind], task, True, priority, tie_s, rank)
            num_ready[kind] += 1

    now = 0.0
    free_tensor, free_vector = tasks.num_tensor_cores, tasks.num_vector_cores
    slowed = False
    while True:
        # 1. Start ready tasks, highest priority first. A task that waits for more cores reserves them: those behind it
        #    may only use what they give back in time, or what it does not need.
        reserved_at, spare_tensor, spare_vector = np.inf, free_tensor, free_vector
        looked_past = 0
        started = False
        # The last question when cores will be free, and its answer; -1 once a task has started since.
        asked_tensor, asked_vector = -1, -1
        asked_at, then_tensor, then_vector = np.inf, 0, 0
        for kind in range(4):
            cursor[kind] = num_ready[kind] - 1
        while looked_past <= BACKFILL_DEPTH:
            kind = -1
            for other in range(4):
                blocked = (
                    (other == NEEDS_TENSOR and free_tensor == 0)
                    or (other == NEEDS_VECTOR and free_vector == 0)
                    or (other == NEEDS_TENSOR + NEEDS_VECTOR and free_tensor == 0 and free_vector == 0)
                )
                if cursor[other] < 0 or blocked:
                    continue
                if kind < 0 or goes_before(
                    ready[other, cursor[other]], ready[kind, cursor[kind]], priority, tie_s, rank
                ):
                    kind = other
            if kind < 0:
                break
            task = ready[kind, cursor[kind]]
            option = wanted[task]
            fits = tensor_cores[option] <= free_tensor and vector_cores[option] <= free_vector
            in_time = now + duration_s[option] <= reserved_at
            if in_sequence and (task != sequence[next_in_sequence] or not fits):
                break
            if num_running > 0 and now < hold_until_s and tensor_cores[option] > 0:
                leader = running[0]
                overrun = now + duration_s[option] - finish_s[leader]
                if priority[leader] > priority[task] and overrun > HOLD_SHARE * duration_s[option]:
                    cursor[kind] -= 1
                    looked_past += 1
                    continue
            if not (
                fits and (in_time or (tensor_cores[option] <= spare_tensor and vector_cores[option] <= spare_vector))
            ):
                # The best that can start at once ...
                option = -1
                item = item_of[task]
                for other in range(option_start[item], option_start[item + 1]):
                    if tensor_cores[other] > free_tensor or vector_cores[other] > free_vector:
                        continue
                    allowed = now + duration_s[other] <= reserved_at or (
                        tensor_cores[other] <= spare_tensor and vector_cores[other] <= spare_vector
                    )
                    if allowed and (option < 0 or duration_s[other] < duration_s[option]):
                        option = other
                # ... against waiting for the wanted cores.
                available = reserved_at
                if not fits:
                    need_tensor, need_vector = tensor_cores[wanted[task]], vector_cores[wanted[task]]
                    if need_tensor != asked_tensor or need_vector != asked_vector:
                        asked_tensor, asked_vector = need_tensor, need_vector
                        asked_at, then_tensor, then_vector = when_free(
                            running,
                            num_running,
                            finish_s,
                            now,
                            held,
                            tensor_cores,
                            vector_cores,
                            free_tensor,
                            free_vector,
                            need_tensor,
                            need_vector,
                        )
                    available = asked_at
                    if option >= 0 and now + duration_s[option] > available + duration_s[wanted[task]]:
                        option = -1
                    if option < 0 and reserved_at == np.inf and available < np.inf:
                        reserved_at = available
                        spare_tensor = then_tensor - need_tensor
                        spare_vector = then_vector - need_vector
                elif option >= 0 and now + duration_s[option] > available + duration_s[wanted[task]]:
                    option = -1
            if option < 0:
                cursor[kind] -= 1
                looked_past += 1
                continue
            for position in range(cursor[kind], num_ready[kind] - 1):
                ready[kind, position] = ready[kind, position + 1]
            num_ready[kind] -= 1
            cursor[kind] -= 1
            asked_tensor = -1
            if now + duration_s[option] > reserved_at:
                spare_tensor -= tensor_cores[option]
                spare_vector -= vector_cores[option]
            free_tensor -= tensor_cores[option]
            free_vector -= vector_cores[option]
            insert_sorted(running, num_running, task, False, priority, tie_s, rank)
            num_running += 1
            started = True
            next_in_sequence += 1
            start[task] = since_s[task] = segment_start[task] = now
            d = duration_s[option]
            held[task] = option
            left_s[task] = d
            rate[task] = 1.0
            finish_s[task] = now + d
            demand[task] = hbm_bytes[option] / d if d > 0.0 else 0.0
        if num_running == 0:
            break

        # 2. Cores that no ready task has taken: wider options for what has just started, highest priority first.
        if widen and started and (free_tensor > 0 or free_vector > 0):
            for slot in range(num_running):
                task = running[slot]
                if start[task] < now:
                    continue
                old = held[task]
                option = old
                for other in range(old + 1, option_start[item_of[task] + 1]):
                    more_tensor = tensor_cores[other] - tensor_cores[old]
                    more_vector = vector_cores[other] - vector_cores[old]
                    if more_tensor > free_tensor or more_vector > free_vector:
                        continue
                    allowed = now + duration_s[other] <= reserved_at or (
                        more_tensor <= spare_tensor and more_vector <= spare_vector
                    )
                    if allowed and duration_s[other] < duration_s[option]:
                        option = other
                if option != old:
                    more_tensor = tensor_cores[option] - tensor_cores[old]
                    more_vector = vector_cores[option] - vector_cores[old]
                    free_tensor -= more_tensor
                    free_vector -= more_vector
                    if now + duration_s[option] > reserved_at:
                        spare_tensor -= more_tensor
                        spare_vector -= more_vector
                    d = duration_s[option]
                    held[task] = option
                    left_s[task] = d
                    finish_s[task] = now + d
                    demand[task] = hbm_bytes[option] / d if d > 0.0 else 0.0

        # 3. Share the bandwidth among what runs.
        asked = 0.0
        for slot in range(num_running):
            asked += demand[running[slot]]
        contended = asked > hbm_bytes_per_s * (1.0 + ROUNDING)
        if contended:
            share_bandwidth(running, num_running, demand, hbm_bytes_per_s, rules.strict, new_rate)
        if contended or slowed:
            for slot in range(num_running):
                task = running[slot]
                fresh = new_rate[task] if contended else 1.0
                if fresh == rate[task]:
                    continue
                left = max(left_s[task] - (now - since_s[task]) * rate[task], 0.0)
                left_s[task] = left
                since_s[task] = now
                if want_segments:
                    close_segment(task, now, segment_start, rate, counts, segment_task, segment_times)
                rate[task] = fresh
                finish_s[task] = now if left <= 0.0 else now + left / fresh
        slowed = contended

        # 4. Go to the next end of a task, and make its successors ready.
        now_next = np.inf
        for slot in range(num_running):
            now_next = min(now_next, finish_s[running[slot]])
        now = now_next
        kept = 0
        for slot in range(num_running):
            task = running[slot]
            if finish_s[task] > now:
                running[kept] = task
                kept += 1
                continue
            end[task] = now
            counts[FINISHED] += 1
            free_tensor += tensor_cores[held[task]]
            free_vector += vector_cores[held[task]]
            if want_segments:
                close_segment(task, now, segment_start, rate, counts, segment_task, segment_times)
            for edge in range(successor_start[task], successor_start[task + 1]):
                follower = successor[edge]
                waiting_for[follower] -= 1
                if waiting_for[follower] == 0:
                    kind = kinds[follower]
                    insert_sorted(ready[kind], num_ready[kind], follower, True, priority, tie_s, rank)
                    num_ready[kind] += 1
        num_running = kept
    return now


@compiled
def next_random(seed: NDArray[np.uint64]) -> float:
    """Uniform in [0, 1): xorshift64* (Vigna 2016, "An experimental exploration of Marsaglia's xorshift generators")."""
    x = seed[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    seed[0] = x
    return float((x * np.uint64(2685821657736338717)) >> np.uint64(11)) / 9007199254740992.0


@compiled
def climb(
    tasks: Tasks,
    rules: Rules,
    state: State,
    role_start: Ints,
    role_tasks: Ints,
    weight: Floats,
    evaluations: int,
    goal_s: float,
    shift_s: float,
    seed: NDArray[np.uint64],
) -> float:
    """Local search over what the tasks of a role want and when they go: `rules` are changed in place, never for worse.

    A step moves the tasks of one to three roles to wider or narrower options, or moves the tasks of one role forward or
    back in the order, and stays if the schedule is not longer.

    Args:
        tasks: the problem.
        rules: where to start, and what was found.
        state: memory for passes.
        role_start: [R + 1] tasks of role r are `role_tasks[role_start[r] : role_start[r + 1]]`.
        role_tasks: [N] see role_start.
        weight: [R] running sums of the weights of roles in the draw.
        evaluations: schedules to try [count].
        goal_s: the search ends at this makespan [s].
        shift_s: largest change of a priority [s].
        seed: [1] state of the random numbers, not 0.

    Returns:
        The least makespan [s].
    """
    best = list_schedule(tasks, rules, state)
    wanted, priority = rules.wanted.copy(), rules.priority.copy()
    for _ in range(evaluations):
        if best <= goal_s:
            break
        if next_random(seed) < SHIFT_SHARE:
            role = np.searchsorted(weight, next_random(seed) * weight[-1], side="right")
            shift = (2.0 * next_random(seed) - 1.0) * shift_s
            for place in range(role_start[role], role_start[role + 1]):
                rules.priority[role_tasks[place]] += shift
        else:
            for _ in range(1 + int(next_random(seed) * MOST_MOVED)):
                role = np.searchsorted(weight, next_random(seed) * weight[-1], side="right")
                step = MOVES[int(next_random(seed) * len(MOVES))]
                for place in range(role_start[role], role_start[role + 1]):
                    task = role_tasks[place]
                    item = tasks.item_of[task]
                    option = rules.wanted[task] + step
                    option = min(max(option, tasks.option_start[item]), tasks.option_start[item + 1] - 1)
                    if tasks.duration_s[option] < np.inf:
                        rules.wanted[task] = option
        found = list_schedule(tasks, rules, state)
        if found <= best:
            best = found
            wanted[:] = rules.wanted
            priority[:] = rules.priority
        else:
            rules.wanted[:] = wanted
            rules.priority[:] = priority
    return best
