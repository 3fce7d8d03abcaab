"""The event loop for tasks that may be interrupted, and its local search, compiled. Rules: docs/models/schedule.md.

Entry: `interruptible.schedule_interruptible`. Longer than other files: numba does not notice changes across files
(`compiled`), so what the loop calls is here, even where the loop of uninterrupted tasks has much the same.
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
# A piece that lacks less than this share of the least piece [1] is large enough.
ROUNDED = 1e-9
# Waiting tasks looked at per event behind the ones that run [count]; bounds the time of an event on wide graphs.
BACKFILL_DEPTH = 12
# Share of what is left [1] that a task takes which asks for more than its fair share; see `list_kernel`.
GRADED_SHARE = 0.75
# A piece is at least this share of its operator [1]. Assumption: operators that matter consist of some dozens of tiles,
# and a cut falls between two of them.
QUANTUM = 1.0 / 16.0
# A running task is widened only where it then takes less than this share of the time [1]. Choice: it is not disturbed
# for little.
WIDEN_GAIN = 0.9
# Events after which a pass gives up [count per task, count]: a guard, a pass takes about one to four per task.
MOST_EVENTS = (64, 4096)

# Roles moved in a step of `climb_interruptible` [count], by how many options [count], and how often a step shifts
# priorities instead [1].
MOST_MOVED = 3
MOVES = (-3, -2, -1, 1, 2)
SHIFT_SHARE = 0.4

# Places in `Log.counts`.
FINISHED, PIECES, SEGMENTS, OVERFLOW = 0, 1, 2, 3

NEEDS_TENSOR, NEEDS_VECTOR = 1, 2


class CutTasks(NamedTuple):
    """A problem as a pass reads it; for a pass backwards in time the dependences are turned round.

    Attributes:
        predecessor_start, successor_start, successor: dependences, CSR ([N + 1], [N + 1], [E]).
        item_of, option_start, tensor_cores, vector_cores, hbm_bytes: as in `ScheduleProblem`.
        duration_s: [O] standalone duration [s]; infinite for an option wider than the machine.
        resume_s, resume_bytes: [O] what a piece after an interruption begins with, as in `ScheduleProblem`.
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
    resume_s: Floats
    resume_bytes: Floats
    num_tensor_cores: int
    num_vector_cores: int
    hbm_bytes_per_s: float


class CutRules(NamedTuple):
    """How a pass decides; as `list_kernel.Rules`.

    Attributes:
        wanted: [N] option each task takes where its cores are free.
        priority: [N] higher goes first, and interrupts.
        tie_s: [N] longer goes first among tasks equal in priority [s].
        rank: [N] lower goes first among those equal in both.
        strict: HBM bandwidth strictly by priority instead of graded.
        widen: cores that no task takes go to those that run.
        reluctance: times what an interruption costs that a task must have left to be interrupted [1].
    """

    wanted: Ints
    priority: Floats
    tie_s: Floats
    rank: Ints
    strict: bool
    widen: bool
    reluctance: float


class Log(NamedTuple):
    """What a pass writes down.

    Attributes:
        counts: [4] tasks finished, pieces, segments, and whether pieces or segments did not fit.
        piece_task, piece_option: [K]; K = 0: not wanted.
        piece_times: [4, K] start [s], end [s], share of the operator [1], set-up [s].
        segment_piece: [M]; M = 0: not wanted.
        segment_times: [4, M] start [s], end [s], rate, and 1 in the set-up.
    """

    counts: Ints
    piece_task: Ints
    piece_option: Ints
    piece_times: Floats
    segment_piece: Ints
    segment_times: Floats


def new_log(num_pieces: int, num_segments: int) -> Log:
    """Room for so many pieces and segments."""
    return Log(
        counts=np.zeros(4, np.int64),
        piece_task=np.zeros(num_pieces, np.int64),
        piece_option=np.zeros(num_pieces, np.int64),
        piece_times=np.zeros((4, num_pieces)),
        segment_piece=np.zeros(num_segments, np.int64),
        segment_times=np.zeros((4, num_segments)),
    )


@compiled
def precedes(a: int, b: int, priority: Floats, tie_s: Floats, rank: Ints) -> bool:
    """Total order of tasks: higher priority, longer duration, lower rank, lower index."""
    if priority[a] != priority[b]:
        return bool(priority[a] > priority[b])
    if tie_s[a] != tie_s[b]:
        return bool(tie_s[a] > tie_s[b])
    if rank[a] != rank[b]:
        return bool(rank[a] < rank[b])
    return a < b


@compiled
def insert_in_order(tasks: Ints, count: int, task: int, priority: Floats, tie_s: Floats, rank: Ints) -> None:
    """Insert a task into the first `count` entries, first in the total order first; the caller counts."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if precedes(task, tasks[middle], priority, tie_s, rank):
            high = middle
        else:
            low = middle + 1
    for position in range(count, low, -1):
        tasks[position] = tasks[position - 1]
    tasks[low] = task


@compiled
def divide_bandwidth(
    running: Ints, num_running: int, demand: Floats, capacity: float, strict: bool, rate: Floats
) -> None:
    """Rates of the running tasks [1], as `list_kernel.share_bandwidth`: strict by priority, or graded."""
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
    for slot in range(num_running):
        task = running[slot]
        if rate[task] < 0.0:
            given = min(demand[task], left * GRADED_SHARE if unserved > 1 else left)
            left -= given
            unserved -= 1
            rate[task] = 1.0 if demand[task] <= given * (1.0 + ROUNDING) else given / demand[task]


@compiled
def schedule_pieces(tasks: CutTasks, rules: CutRules, log: Log) -> float:
    """Schedule every task in pieces; the makespan [s], infinite where the pass gave up. What it did is in `log`."""
    item_of, option_start, successor_start = tasks.item_of, tasks.option_start, tasks.successor_start
    tensor_cores, vector_cores, hbm_bytes = tasks.tensor_cores, tasks.vector_cores, tasks.hbm_bytes
    successor, duration_s, hbm_bytes_per_s = tasks.successor, tasks.duration_s, tasks.hbm_bytes_per_s
    resume_s, resume_bytes = tasks.resume_s, tasks.resume_bytes
    wanted, priority, tie_s, rank = rules.wanted, rules.priority, rules.tie_s, rules.rank
    counts, piece_task, piece_option, piece_times = log.counts, log.piece_task, log.piece_option, log.piece_times
    segment_piece, segment_times = log.segment_piece, log.segment_times
    n = len(item_of)
    logs_pieces, logs_segments = len(piece_task) > 0, len(segment_piece) > 0
    counts[:] = 0
    kind = np.empty(n, np.int64)
    waiting_for = np.empty(n, np.int64)
    active = np.empty((4, n), np.int64)  # tasks that could run, by the cores they need, the first in the order first
    num_active, cursor = np.zeros(4, np.int64), np.zeros(4, np.int64)
    option_of = np.full(n, -1, np.int64)  # option of a running task, -1 where it does not run
    chosen = np.full(n, -1, np.int64)
    to_do = np.ones(n)  # share of the operator left at the start of the piece
    left_s = np.zeros(n)  # of the set-up, or of the work
    in_set_up = np.zeros(n, np.bool_)
    begun, held_fast = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    rate, finish_s, demand = np.ones(n), np.zeros(n), np.zeros(n)
    piece_of = np.zeros(n, np.int64)
    running, starting = np.empty(n, np.int64), np.empty(n, np.int64)
    num_running = 0
    for task in range(n):
        first = option_start[item_of[task]]
        kind[task] = NEEDS_TENSOR * (tensor_cores[first] > 0) + NEEDS_VECTOR * (vector_cores[first] > 0)
        waiting_for[task] = tasks.predecessor_start[task + 1] - tasks.predecessor_start[task]
        if waiting_for[task] == 0:
            insert_in_order(active[kind[task]], num_active[kind[task]], task, priority, tie_s, rank)
            num_active[kind[task]] += 1
    now = 0.0
    most_events = MOST_EVENTS[0] * n + MOST_EVENTS[1]
    for _ in range(most_events):
        # 1. Who must go on: in set-up, too little done for a piece, or too little left for another.
        free_tensor, free_vector = tasks.num_tensor_cores, tasks.num_vector_cores
        all_loose_s = now
        for slot in range(num_running):
            task = running[slot]
            option = option_of[task]
            d = duration_s[option]
            chosen[task] = -1
            held_fast[task] = False
            loose_s = now
            least_s = max(QUANTUM * d, rules.reluctance * resume_s[option])
            if in_set_up[task]:
                held_fast[task] = True
                loose_s = now + left_s[task] + QUANTUM * d
            elif left_s[task] <= least_s:
                held_fast[task] = True
                loose_s = finish_s[task]
            elif to_do[task] * d - left_s[task] < QUANTUM * d * (1.0 - ROUNDED):
                held_fast[task] = True
                loose_s = now + QUANTUM * d - (to_do[task] * d - left_s[task])
            if held_fast[task]:
                chosen[task] = option
                free_tensor -= tensor_cores[option]
                free_vector -= vector_cores[option]
                all_loose_s = max(all_loose_s, loose_s)

        # 2. Everybody else in order, running or not: the wanted option, the one it has, or the fastest that fits.
        num_starting = 0
        passed_over = 0
        undisturbed_s = np.inf  # until the end of a task that goes before
        reserved_s = np.inf  # until cores are needed by one that waits for those that must go on
        waits = False
        for which in range(4):
            cursor[which] = 0
        while passed_over <= BACKFILL_DEPTH:
            which = -1
            for other in range(4):
                blocked = (
                    (other == NEEDS_TENSOR and free_tensor == 0)
                    or (other == NEEDS_VECTOR and free_vector == 0)
                    or (other == NEEDS_TENSOR + NEEDS_VECTOR and (free_tensor == 0 or free_vector == 0))
                )
                if cursor[other] >= num_active[other] or blocked:
                    continue
                if which < 0 or precedes(
                    active[other, cursor[other]], active[which, cursor[which]], priority, tie_s, rank
                ):
                    which = other
            if which < 0:
                break
            task = active[which, cursor[which]]
            cursor[which] += 1
            had = option_of[task]
            if had >= 0 and held_fast[task]:
                undisturbed_s = min(undisturbed_s, finish_s[task] - now)
                continue
            item, wants = item_of[task], wanted[task]
            share = to_do[task]
            if had >= 0:
                share = left_s[task] / duration_s[had] if duration_s[had] > 0.0 else 0.0
            fits = tensor_cores[wants] <= free_tensor and vector_cores[wants] <= free_vector
            option = -1
            if had >= 0 and tensor_cores[had] <= free_tensor and vector_cores[had] <= free_vector:
                option = had
            if fits and (option < 0 or share * duration_s[wants] + resume_s[wants] < share * duration_s[option]):
                option = wants
            if option < 0:
                for other in range(option_start[item], option_start[item + 1]):
                    if tensor_cores[other] > free_tensor or vector_cores[other] > free_vector:
                        continue
                    if duration_s[other] < np.inf and (option < 0 or duration_s[other] < duration_s[option]):
                        option = other
            set_up_s = 0.0
            if option >= 0 and option != had:
                set_up_s = resume_s[option] if begun[task] else 0.0
                takes_s = set_up_s + share * duration_s[option]
                # Better wait for those that must go on than start with few cores.
                if (
                    not fits
                    and undisturbed_s == np.inf
                    and now + takes_s > all_loose_s + set_up_s + share * duration_s[wants]
                ):
                    reserved_s = all_loose_s - now
                    option = -1
                # Not worth a piece where it will be interrupted soon.
                elif takes_s > undisturbed_s or takes_s > reserved_s:
                    gains_s = (undisturbed_s - set_up_s) * duration_s[wants]
                    if (
                        takes_s > reserved_s
                        or undisturbed_s < set_up_s + QUANTUM * duration_s[option]
                        or gains_s < resume_s[option] * duration_s[option]
                    ):
                        option = -1
            if option < 0:
                waits = waits or (undisturbed_s == np.inf and all_loose_s > now)
                passed_over += 1
                continue
            chosen[task] = option
            free_tensor -= tensor_cores[option]
            free_vector -= vector_cores[option]
            if had < 0:
                starting[num_starting] = task
                num_starting += 1
            ends_s = finish_s[task] - now if option == had else set_up_s + share * duration_s[option]
            undisturbed_s = min(undisturbed_s, ends_s)

        # 3. Cores that are left: wider options, for what starts and for what runs and gains from it.
        if rules.widen and reserved_s == np.inf and (free_tensor > 0 or free_vector > 0):
            for slot in range(num_starting + num_running):
                task = starting[slot] if slot < num_starting else running[slot - num_starting]
                option = chosen[task]
                if option < 0 or (slot >= num_starting and held_fast[task]):
                    continue
                had = option_of[task]
                share = to_do[task]
                if had >= 0:
                    share = left_s[task] / duration_s[had] if duration_s[had] > 0.0 else 0.0
                wider = option
                for other in range(option + 1, option_start[item_of[task] + 1]):
                    more_tensor = tensor_cores[other] - tensor_cores[option]
                    more_vector = vector_cores[other] - vector_cores[option]
                    if more_tensor > free_tensor or more_vector > free_vector:
                        continue
                    pays = had != option or (
                        share * duration_s[other] + resume_s[other] < WIDEN_GAIN * share * duration_s[option]
                    )
                    if pays and duration_s[other] < duration_s[wider]:
                        wider = other
                if wider != option:
                    free_tensor -= tensor_cores[wider] - tensor_cores[option]
                    free_vector -= vector_cores[wider] - vector_cores[option]
                    chosen[task] = wider

        # 4. End the pieces of those that are interrupted or change, begin new ones.
        kept = 0
        for slot in range(num_running):
            task = running[slot]
            had = option_of[task]
            if chosen[task] == had:
                running[kept] = task
                kept += 1
                continue
            share = left_s[task] / duration_s[had]
            if logs_pieces:
                piece_times[1, piece_of[task]] = now
                piece_times[2, piece_of[task]] = to_do[task] - share
            to_do[task] = share
            option_of[task] = -1
            if chosen[task] >= 0:
                starting[num_starting] = task
                num_starting += 1
        num_running = kept
        for slot in range(num_starting):
            task = starting[slot]
            option = chosen[task]
            d = duration_s[option]
            option_of[task] = option
            in_set_up[task] = begun[task] and resume_s[option] > 0.0
            if in_set_up[task]:
                left_s[task] = resume_s[option]
                demand[task] = resume_bytes[option] / resume_s[option]
            else:
                left_s[task] = to_do[task] * d
                demand[task] = hbm_bytes[option] / d if d > 0.0 else 0.0
            begun[task] = True
            insert_in_order(running, num_running, task, priority, tie_s, rank)
            num_running += 1
            if logs_pieces:
                at = counts[PIECES]
                if at == len(piece_task):
                    counts[OVERFLOW] = 1
                    return np.inf
                piece_of[task] = at
                piece_task[at] = task
                piece_option[at] = option
                piece_times[0, at] = now
                piece_times[3, at] = left_s[task] if in_set_up[task] else 0.0
                counts[PIECES] += 1
        if num_running == 0:
            break

        # 5. Share the bandwidth, go to the next end of a task or a set-up, and make successors ready.
        asked = 0.0
        for slot in range(num_running):
            asked += demand[running[slot]]
        if asked > hbm_bytes_per_s * (1.0 + ROUNDING):
            divide_bandwidth(running, num_running, demand, hbm_bytes_per_s, rules.strict, rate)
        else:
            for slot in range(num_running):
                rate[running[slot]] = 1.0
        following, first_loose_s = np.inf, np.inf
        for slot in range(num_running):
            task = running[slot]
            finish_s[task] = now + left_s[task] / rate[task] if left_s[task] > 0.0 else now
            following = min(following, finish_s[task])
            if waits and held_fast[task] and not in_set_up[task]:
                d = duration_s[option_of[task]]
                undone_s = QUANTUM * d - (to_do[task] * d - left_s[task])
                if undone_s > ROUNDED * QUANTUM * d:
                    first_loose_s = min(first_loose_s, now + undone_s / rate[task])
        following = min(following, first_loose_s)
        passed_s = following - now
        kept = 0
        for slot in range(num_running):
            task = running[slot]
            option = option_of[task]
            if logs_segments and passed_s > 0.0 and rate[task] > 0.0:
                at = counts[SEGMENTS]
                if at == len(segment_piece):
                    counts[OVERFLOW] = 1
                    return np.inf
                segment_piece[at] = piece_of[task]
                segment_times[0, at] = now
                segment_times[1, at] = following
                segment_times[2, at] = rate[task]
                segment_times[3, at] = 1.0 if in_set_up[task] else 0.0
                counts[SEGMENTS] += 1
            if finish_s[task] > following:
                left_s[task] = max(left_s[task] - passed_s * rate[task], 0.0)
            elif in_set_up[task]:
                in_set_up[task] = False
                d = duration_s[option]
                left_s[task] = to_do[task] * d
                finish_s[task] = following + left_s[task]
                demand[task] = hbm_bytes[option] / d if d > 0.0 else 0.0
            else:
                counts[FINISHED] += 1
                option_of[task] = -1
                if logs_pieces:
                    piece_times[1, piece_of[task]] = following
                    piece_times[2, piece_of[task]] = to_do[task]
                which = kind[task]
                at = 0
                while active[which, at] != task:
                    at += 1
                for position in range(at, num_active[which] - 1):
                    active[which, position] = active[which, position + 1]
                num_active[which] -= 1
                for edge in range(successor_start[task], successor_start[task + 1]):
                    follower = successor[edge]
                    waiting_for[follower] -= 1
                    if waiting_for[follower] == 0:
                        which = kind[follower]
                        insert_in_order(active[which], num_active[which], follower, priority, tie_s, rank)
                        num_active[which] += 1
                continue
            running[kept] = task
            kept += 1
        num_running = kept
        now = following
    return now if counts[FINISHED] == n else np.inf


@compiled
def draw(seed: NDArray[np.uint64]) -> float:
    """Uniform in [0, 1): xorshift64*, as `list_kernel.next_random`."""
    x = seed[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    seed[0] = x
    return float((x * np.uint64(2685821657736338717)) >> np.uint64(11)) / 9007199254740992.0


@compiled
def climb_interruptible(
    tasks: CutTasks,
    rules: CutRules,
    log: Log,
    role_start: Ints,
    role_tasks: Ints,
    weight: Floats,
    evaluations: int,
    goal_s: float,
    shift_s: float,
    seed: NDArray[np.uint64],
) -> float:
    """Local search over what the tasks of a role want and when they go, as `list_kernel.climb`.

    Args:
        tasks: the problem.
        rules: where to start, and what was found.
        log: without room for pieces.
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
    best = schedule_pieces(tasks, rules, log)
    wanted, priority = rules.wanted.copy(), rules.priority.copy()
    for _ in range(evaluations):
        if best <= goal_s:
            break
        if draw(seed) < SHIFT_SHARE:
            role = np.searchsorted(weight, draw(seed) * weight[-1], side="right")
            # Small shifts more often.
            shift = (2.0 * draw(seed) - 1.0) * shift_s * draw(seed) ** 2
            for place in range(role_start[role], role_start[role + 1]):
                rules.priority[role_tasks[place]] += shift
        else:
            for _ in range(1 + int(draw(seed) * MOST_MOVED)):
                role = np.searchsorted(weight, draw(seed) * weight[-1], side="right")
                step = MOVES[int(draw(seed) * len(MOVES))]
                for place in range(role_start[role], role_start[role + 1]):
                    task = role_tasks[place]
                    item = tasks.item_of[task]
                    option = rules.wanted[task] + step
                    option = min(max(option, tasks.option_start[item]), tasks.option_start[item + 1] - 1)
                    if tasks.duration_s[option] < np.inf:
                        rules.wanted[task] = option
        found = schedule_pieces(tasks, rules, log)
        if found <= best:
            best = found
            wanted[:] = rules.wanted
            priority[:] = rules.priority
        else:
            rules.wanted[:] = wanted
            rules.priority[:] = priority
    return best
