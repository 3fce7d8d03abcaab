"""The event loop of the list scheduler, compiled. Rules: docs/models/schedule.md. Entry: `list_scheduler.schedule`."""

# A kernel keeps its state in one loop:
# ruff: noqa: PLR0912, PLR0915

from __future__ import annotations

import numpy as np

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
def grown(values: Floats) -> Floats:
    """A copy of twice the room."""
    larger = np.empty(2 * len(values))
    larger[: len(values)] = values
    return larger


@compiled
def list_schedule(
    predecessor_start: Ints,
    successor_start: Ints,
    successor: Ints,
    item_of: Ints,
    option_start: Ints,
    tensor_cores: Ints,
    vector_cores: Ints,
    hbm_bytes: Floats,
    duration_s: Floats,
    wanted: Ints,
    priority: Floats,
    rank: Ints,
    num_tensor_cores: int,
    num_vector_cores: int,
    hbm_bytes_per_s: float,
    strict: bool,
    hold_until_s: float,
    want_segments: bool,
) -> tuple[int, Floats, Floats, Ints, Floats, Floats, Floats, Floats]:
    """Schedule every task; tasks are held back only before `hold_until_s`.

    Returns:
        Tasks finished; start, end, option, all [N]; task, start, end, rate of segments.
    """
    n = len(item_of)
    start, end = np.zeros(n), np.zeros(n)
    held = np.full(n, -1, np.int64)
    wanted_s = np.empty(n)
    waiting_for = np.empty(n, np.int64)
    # Progress of running tasks: `left_s` [s of standalone time] at `since_s`, advancing at `rate`, done at `finish_s`.
    left_s, since_s, rate, finish_s, demand = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.zeros(n)
    new_rate, segment_start = np.empty(n), np.empty(n)
    running = np.empty(n, np.int64)
    num_running = 0
    # Ready tasks by the cores they need (neither, tensor, vector, both), highest priority last.
    ready = np.empty((4, n), np.int64)
    num_ready = np.zeros(4, np.int64)
    cursor = np.zeros(4, np.int64)
    room = 2 * n + 16 if want_segments else 1
    seg_task, seg_start, seg_end, seg_rate = np.empty(room), np.empty(room), np.empty(room), np.empty(room)
    num_segments = 0

    for task in range(n):
        wanted_s[task] = duration_s[wanted[task]]
        waiting_for[task] = predecessor_start[task + 1] - predecessor_start[task]
    for task in range(n):
        if waiting_for[task] == 0:
            first = option_start[item_of[task]]
            kind = NEEDS_TENSOR * (tensor_cores[first] > 0) + NEEDS_VECTOR * (vector_cores[first] > 0)
            insert_sorted(ready[kind], num_ready[kind], task, True, priority, wanted_s, rank)
            num_ready[kind] += 1

    now = 0.0
    free_tensor, free_vector = num_tensor_cores, num_vector_cores
    finished = 0
    slowed = False
    while True:
        # 1. Start ready tasks, highest priority first. A task that waits for more cores reserves them: those behind it
        #    may only use what they give back in time, or what it does not need.
        reserved_at, spare_tensor, spare_vector = np.inf, free_tensor, free_vector
        looked_past = 0
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
                    ready[other, cursor[other]], ready[kind, cursor[kind]], priority, wanted_s, rank
                ):
                    kind = other
            if kind < 0:
                break
            task = ready[kind, cursor[kind]]
            option = wanted[task]
            fits = tensor_cores[option] <= free_tensor and vector_cores[option] <= free_vector
            in_time = now + duration_s[option] <= reserved_at
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
                    if option >= 0 and now + duration_s[option] > available + wanted_s[task]:
                        option = -1
                    if option < 0 and reserved_at == np.inf and available < np.inf:
                        reserved_at = available
                        spare_tensor = then_tensor - need_tensor
                        spare_vector = then_vector - need_vector
                elif option >= 0 and now + duration_s[option] > available + wanted_s[task]:
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
            d = duration_s[option]
            if now + d > reserved_at:
                spare_tensor -= tensor_cores[option]
                spare_vector -= vector_cores[option]
            free_tensor -= tensor_cores[option]
            free_vector -= vector_cores[option]
            insert_sorted(running, num_running, task, False, priority, wanted_s, rank)
            num_running += 1
            held[task] = option
            start[task] = since_s[task] = segment_start[task] = now
            left_s[task] = d
            rate[task] = 1.0
            finish_s[task] = now + d
            demand[task] = hbm_bytes[option] / d if d > 0.0 else 0.0
        if num_running == 0:
            break

        # 2. Share the bandwidth among what runs.
        asked = 0.0
        for slot in range(num_running):
            asked += demand[running[slot]]
        contended = asked > hbm_bytes_per_s * (1.0 + ROUNDING)
        if contended:
            share_bandwidth(running, num_running, demand, hbm_bytes_per_s, strict, new_rate)
        if contended or slowed:
            for slot in range(num_running):
                task = running[slot]
                fresh = new_rate[task] if contended else 1.0
                if fresh == rate[task]:
                    continue
                left_s[task] = max(left_s[task] - (now - since_s[task]) * rate[task], 0.0)
                since_s[task] = now
                if want_segments and now > segment_start[task] and rate[task] > 0.0:
                    if num_segments == len(seg_task):
                        seg_task, seg_start = grown(seg_task), grown(seg_start)
                        seg_end, seg_rate = grown(seg_end), grown(seg_rate)
                    seg_task[num_segments], seg_rate[num_segments] = task, rate[task]
                    seg_start[num_segments], seg_end[num_segments] = segment_start[task], now
                    num_segments += 1
                segment_start[task] = now
                rate[task] = fresh
                finish_s[task] = now if left_s[task] <= 0.0 else now + left_s[task] / fresh
        slowed = contended

        # 3. Go to the next end of a task, and make its successors ready.
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
            finished += 1
            free_tensor += tensor_cores[held[task]]
            free_vector += vector_cores[held[task]]
            if want_segments and now > segment_start[task] and rate[task] > 0.0:
                if num_segments == len(seg_task):
                    seg_task, seg_start = grown(seg_task), grown(seg_start)
                    seg_end, seg_rate = grown(seg_end), grown(seg_rate)
                seg_task[num_segments], seg_rate[num_segments] = task, rate[task]
                seg_start[num_segments], seg_end[num_segments] = segment_start[task], now
                num_segments += 1
            for edge in range(successor_start[task], successor_start[task + 1]):
                follower = successor[edge]
                waiting_for[follower] -= 1
                if waiting_for[follower] == 0:
                    first = option_start[item_of[follower]]
                    kind = NEEDS_TENSOR * (tensor_cores[first] > 0) + NEEDS_VECTOR * (vector_cores[first] > 0)
                    insert_sorted(ready[kind], num_ready[kind], follower, True, priority, wanted_s, rank)
                    num_ready[kind] += 1
        num_running = kept
    return (
        finished,
        start,
        end,
        held,
        seg_task[:num_segments],
        seg_start[:num_segments],
        seg_end[:num_segments],
        seg_rate[:num_segments],
    )
