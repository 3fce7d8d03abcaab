"""What may run beside each part of a path: the design-free half of the beside-path bound.

A path is cut into *phases*: one while each of its tasks runs, one for the gap before each of them. Every other task
runs in phases between its last ancestor and its first descendant on the path. Phases of one item form a *class*, gaps
of one part of the path too, and tasks of one item with the same classes to choose from form a *group*. Derivation:
docs/models/schedule.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worklode.schedule.compiled import Floats, Ints, compiled
from worklode.schedule.problem import ScheduleProblem

# Parts of a path, equal in number of tasks, whose gaps are told apart [count]. Measured (docs/models/schedule.md): with
# 16 or 48, or gaps told apart by the item that follows, the bound changes by less than 0.1 % at up to twice the time.
GAP_PARTS = 4


# Parts of a path, equal in number of tasks, whose tasks are told apart though they are of one item [count]: a task that
# is free only late in the iteration then has no part in the phases before. Measured (docs/models/schedule.md): 4.8 %
# (mixtral-8x7b, tpuv2) and 2.4 % (dlrm, tpuv2) more than with one part, elsewhere up to 0.2 %; more parts nothing.
PATH_PARTS = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PathStructure:
    """A path, the classes of its phases, and what may run in them. C classes: those of path tasks, then those of gaps.

    Attributes:
        path: [K] tasks, in order.
        path_classes: how many of the classes are of path tasks.
        classes: C.
        row_class, row_item, row_count: [A] path tasks, by class and item.
        group_item, group_count: [B] tasks off the path.
        group_start, group_class: CSR of the classes a group may run in.
    """

    path: Ints
    path_classes: int
    classes: int
    row_class: Ints
    row_item: Ints
    row_count: Floats
    group_item: Ints
    group_count: Floats
    group_start: Ints
    group_class: Ints


def path_structure(problem: ScheduleProblem, order: Ints, path: Ints) -> PathStructure:
    """Structure of a path; which path it is, and which phases share a class, changes the quality of a bound only.

    Args:
        problem: dependences and items; its options do not matter.
        order: tasks in a topological order.
        path: [K] tasks of a path, in order.
    """
    items = problem.item_of[path]
    part = np.arange(len(path)) * PATH_PARTS // max(len(path), 1)
    distinct, found = np.unique(items * PATH_PARTS + part, return_inverse=True)
    class_of = found.reshape(-1).astype(np.int64)
    path_classes = len(distinct)
    # There is a gap before every path task, and one after the last.
    gap_of = path_classes + np.arange(len(path) + 1) * GAP_PARTS // (len(path) + 1)
    classes = path_classes + GAP_PARTS
    rows, row_count = np.unique(np.stack((class_of, items), axis=1), axis=0, return_counts=True)
    before, after = path_neighbours(
        order, problem.predecessor_start, problem.predecessor, problem.successor_start, problem.successor, path
    )
    others = np.setdiff1d(np.arange(len(order)), path)
    windows, count = np.unique(
        np.stack((problem.item_of[others], before[others], after[others]), axis=1), axis=0, return_counts=True
    )
    group_of: dict[tuple[int, bytes], float] = {}
    for start in range(0, len(windows), 1024):
        part = windows[start : start + 1024]
        allowed = _classes_between(class_of, gap_of, classes, part[:, 1], part[:, 2])
        for item, row, times in zip(part[:, 0], np.packbits(allowed, axis=1), count[start : start + 1024], strict=True):
            key = (int(item), row.tobytes())
            group_of[key] = group_of.get(key, 0.0) + float(times)
    masks = np.frombuffer(b"".join(mask for _, mask in group_of), np.uint8).reshape(len(group_of), (classes + 7) // 8)
    sets = np.unpackbits(masks, axis=1, count=classes)
    return PathStructure(
        path=path,
        path_classes=path_classes,
        classes=classes,
        row_class=rows[:, 0].copy(),
        row_item=rows[:, 1].copy(),
        row_count=row_count.astype(np.float64),
        group_item=np.array([item for item, _ in group_of], np.int64),
        group_count=np.array(list(group_of.values()), np.float64),
        group_start=np.concatenate(([0], np.cumsum(sets.sum(axis=1)))).astype(np.int64),
        group_class=np.nonzero(sets)[1].astype(np.int64),
    )


def _classes_between(class_of: Ints, gap_of: Ints, classes: int, before: Ints, after: Ints) -> NDArray[np.bool_]:
    """[W, C] whether a phase of a class lies between two places of the path: path tasks strictly, gaps also beside."""
    length = len(class_of)
    # The next place from k on of every class; `length + 1` where there is none.
    following = np.full((length + 2, classes), length + 1, np.int64)
    for place in range(length, -1, -1):
        following[place] = following[place + 1]
        following[place, gap_of[place]] = place
        if place < length:
            following[place, class_of[place]] = place
    # The gap before path task k is k: gaps from before + 1 to after, tasks from before + 1 to after - 1.
    is_gap = np.arange(classes) >= classes - GAP_PARTS
    return np.asarray(following[before + 1] < np.where(is_gap, (after + 1)[:, None], after[:, None]))


@compiled
def path_neighbours(
    order: Ints, predecessor_start: Ints, predecessor: Ints, successor_start: Ints, successor: Ints, path: Ints
) -> tuple[Ints, Ints]:
    """Per task its last ancestor and its first descendant on the path, as places in it; -1 and len(path) if none."""
    n = len(order)
    place = np.full(n, -1, np.int64)
    for k in range(len(path)):
        place[path[k]] = k
    before = np.full(n, -1, np.int64)
    after = np.full(n, len(path), np.int64)
    for task in order:
        for edge in range(predecessor_start[task], predecessor_start[task + 1]):
            other = predecessor[edge]
            before[task] = max(before[task], place[other] if place[other] >= 0 else before[other])
    for position in range(n - 1, -1, -1):
        task = order[position]
        for edge in range(successor_start[task], successor_start[task + 1]):
            other = successor[edge]
            after[task] = min(after[task], place[other] if place[other] >= 0 else after[other])
    return before, after
