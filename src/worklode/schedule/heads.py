"""Heads of tasks for lower bounds: no schedule can start a task earlier. Derivation: docs/models/schedule.md."""

# A kernel keeps its state in one loop:
# ruff: noqa: PLR0912

from __future__ import annotations

import numpy as np

from worklode.schedule.compiled import Floats, Ints, compiled

# Ancestors looked at when the head of a task is raised [count]: one machine word of flags.
WINDOW = 64
# Halvings of the interval in which the least time of a set is sought [count]: to 0.1 % of it.
HALVINGS = 10


@compiled
def raised_heads(
    order: Ints,
    before_start: Ints,
    before: Ints,
    after_start: Ints,
    after: Ints,
    item_of: Ints,
    option_start: Ints,
    option_s: Floats,
    option_work_s: Floats,
    duration_s: Floats,
    work_s: Floats,
    uninterrupted: bool,
) -> Floats:
    """Earliest start of every task [s]: paths into it, and the work of its nearest ancestors.

    For a set S of ancestors of a task: head >= min head over S + least time of S. The sets are the k nearest ancestors
    in the order, k = 1 ... 64; their least time is the work of each resource, and for the nearest sets that are closed
    (whatever comes before has ended when they begin) also `least_time_of_set`, where no task is interrupted: one
    that is may mix options, and be fast on average only. With order and edges reversed, the result is the tails.

    Args:
        order: tasks in a topological order.
        before_start: edges, CSR in both directions, with `before`, `after_start` and `after`.
        before: see before_start.
        after_start: see before_start.
        after: see before_start.
        item_of: [N] items of tasks.
        option_start: [U + 1] options of items.
        option_s: [O] duration [s].
        option_work_s: [O, 3] time of each resource at full capacity [s].
        duration_s: [N] least duration of a task [s].
        work_s: [N, 3] least time of each resource of a task [s].
        uninterrupted: every task takes one option.
    """
    n = len(order)
    position = np.empty(n, np.int64)
    ancestors = np.zeros(n, np.uint64)  # of the task at a position: bit j says that the one j + 1 before it is one
    heads = np.zeros(n)
    one = np.uint64(1)
    members = np.empty(WINDOW, np.int64)
    for at in range(n):
        task = order[at]
        position[task] = at
        head = 0.0
        flags = np.uint64(0)
        parents = before_start[task + 1] - before_start[task]
        for edge in range(before_start[task], before_start[task + 1]):
            other = before[edge]
            head = max(head, heads[other] + duration_s[other])
            back = at - position[other]
            if back <= WINDOW:
                flags |= one << np.uint64(back - 1)
                if back < WINDOW:
                    flags |= ancestors[position[other]] << np.uint64(back)
        ancestors[at] = flags
        count = 0
        while flags:
            back = 1
            while not flags & one:
                flags >>= one
                back += 1
            flags >>= one
            members[count] = back if count == 0 else members[count - 1] + back
            count += 1
        for k in range(count):
            members[k] = order[at - members[k]]
        for resource in range(work_s.shape[1]):
            earliest, total = np.inf, 0.0
            for k in range(count):
                work = work_s[members[k], resource]
                if work > 0.0:
                    earliest = min(earliest, heads[members[k]])
                    total += work
                    head = max(head, earliest + total)
        if parents > 1 and uninterrupted:
            earliest = np.inf
            for k in range(count):
                earliest = min(earliest, heads[members[k]])
                closed = k + 1 == count or heads[members[k + 1]] + duration_s[members[k + 1]] <= earliest
                if closed and k > 0:
                    least = least_time_of_set(
                        members[: k + 1],
                        task,
                        head - earliest,
                        earliest,
                        heads,
                        after_start,
                        after,
                        item_of,
                        option_start,
                        option_s,
                        option_work_s,
                        duration_s,
                    )
                    head = max(head, earliest + least)
                    break
        heads[task] = head
    return heads


@compiled
def least_time_of_set(
    members: Ints,
    target: int,
    known_s: float,
    earliest_s: float,
    heads: Floats,
    after_start: Ints,
    after: Ints,
    item_of: Ints,
    option_start: Ints,
    option_s: Floats,
    option_work_s: Floats,
    duration_s: Floats,
) -> float:
    """Least time [s] from the earliest head of a set of ancestors to the target; at least `known_s`.

    In time T a task has T less its head and less the path from it to the target, so only its options that are as fast
    can be used; the least work that these leave must fit T on every resource. Too short a T is refuted; halving finds
    the longest T that is.
    """
    count = len(members)
    room_s = np.empty(count)  # by how much the task's time falls short of T
    longest = 0.0
    for k in range(count):
        path = 0.0
        for edge in range(after_start[members[k]], after_start[members[k] + 1]):
            for other in range(k):
                if members[other] == after[edge]:
                    path = max(path, room_s[other] + duration_s[members[other]])
        room_s[k] = path
        longest += duration_s[members[k]]
    for k in range(count):
        room_s[k] += heads[members[k]] - earliest_s
    low, high = known_s, max(known_s, longest)
    for halving in range(HALVINGS + 1):
        middle = low if halving == 0 else (low + high) / 2
        need = np.zeros(option_work_s.shape[1])
        possible = True
        for k in range(count):
            item = item_of[members[k]]
            allowed = (middle - room_s[k]) * (1.0 + 1e-12)
            for resource in range(len(need)):
                least = np.inf
                for option in range(option_start[item], option_start[item + 1]):
                    if option_s[option] <= allowed:
                        least = min(least, option_work_s[option, resource])
                need[resource] += least
        for resource in range(len(need)):
            possible = possible and need[resource] <= middle * (1.0 + 1e-12)
        if possible and halving == 0:
            return low
        if possible:
            high = middle
        else:
            low = middle
    return low
