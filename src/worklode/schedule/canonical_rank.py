"""A rank of tasks that does not depend on the order in which they are listed (docs/models/schedule.md, section 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worklode.schedule.compiled import Ints, compiled
from worklode.schedule.critical_path import topological_order
from worklode.schedule.problem import ScheduleProblem

Hashes = NDArray[np.uint64]

# Times the labels of tasks are made from those of all ancestors and all descendants [count]. Once sees what leads to a
# task and what follows it; twice also what else its ancestors lead to, such as its siblings and their descendants.
ROUNDS = 2
# Mixed into the label of a task that is singled out, and of one that comes before another; any two numbers.
SINGLED_OUT = np.uint64(2)
BEFORE = np.uint64(1)


def canonical_rank(problem: ScheduleProblem) -> Ints:
    """[N] rank of every task, all different, by hashes of its options, of all its ancestors and of all its descendants.

    The same graph in another order of tasks and of items gets the same ranks, except that tasks that look alike in both
    directions may be exchanged, together with all that depends on which is which: the first of such a set is singled
    out, and hashes are made again, until none are left (individualisation and refinement, McKay and Piperno 2014,
    "Practical graph isomorphism, II", without its backtracking). Depends on the options and so on the design; a caller
    that wants one rank for many designs takes it from any of them.

    Raises:
        InternalError: the dependences have a cycle.
    """
    order = topological_order(problem)
    reverse = order[::-1].copy()
    labels = _item_hashes(problem)[problem.item_of]
    while True:
        for _ in range(ROUNDS):
            up = swept(order, problem.predecessor_start, problem.predecessor, labels)
            down = swept(reverse, problem.successor_start, problem.successor, labels)
            labels = mixed(up, down)
        ascending = np.argsort(labels, kind="stable")
        alike = np.flatnonzero(labels[ascending][1:] == labels[ascending][:-1])
        if not len(alike):
            break
        first = ascending[alike[0]]
        labels[first] = mix(labels[first], SINGLED_OUT)
    rank = np.empty(len(order), np.int64)
    rank[ascending] = np.arange(len(order))
    return rank


def _item_hashes(problem: ScheduleProblem) -> Hashes:
    """[U] hash of the options of each item, bit for bit."""
    columns = (
        problem.tensor_cores.astype(np.uint64),
        problem.vector_cores.astype(np.uint64),
        np.ascontiguousarray(problem.compute_s, np.float64).view(np.uint64),
        np.ascontiguousarray(problem.hbm_bytes, np.float64).view(np.uint64),
    )
    options = np.zeros(len(problem.compute_s), np.uint64)
    for column in columns:
        options = mixed(options, column)
    return folded(problem.option_start, options)


@compiled
def mix(a: np.uint64, b: np.uint64) -> np.uint64:
    """Hash of two numbers, order-dependent: the finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    x = a * np.uint64(0x9E3779B97F4A7C15) + b + np.uint64(0x632BE59BD9B4E019)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def mixed(a: Hashes, b: Hashes) -> Hashes:
    """Hashes of pairs."""
    found = np.empty(len(a), np.uint64)
    for place in range(len(a)):
        found[place] = mix(a[place], b[place])
    return found


@compiled
def folded(starts: Ints, values: Hashes) -> Hashes:
    """Hash of each stretch of values."""
    found = np.zeros(len(starts) - 1, np.uint64)
    for item in range(len(found)):
        for place in range(starts[item], starts[item + 1]):
            found[item] = mix(found[item], values[place])
    return found


@compiled
def swept(order: Ints, before_start: Ints, before: Ints, labels: Hashes) -> Hashes:
    """Hash of the label of each task and of the hashes of those before it, whatever their order."""
    found = np.empty(len(order), np.uint64)
    for task in order:
        total = np.uint64(0)
        for edge in range(before_start[task], before_start[task + 1]):
            total += mix(found[before[edge]], BEFORE)
        found[task] = mix(labels[task], total)
    return found
