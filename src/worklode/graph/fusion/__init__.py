"""Fusion: operators that hand data on become one, and what they hand on stays on chip (docs/models/fusion.md).

Legality is data flow: shapes of accesses, kinds of flow, order of writes; names of operators play no part.
"""

from __future__ import annotations

from collections import Counter

from worklode.graph.collector import garbage_collector_paused
from worklode.graph.fusion.facts import graph_facts
from worklode.graph.fusion.grouping import Grouping
from worklode.graph.fusion.legality import Legality
from worklode.graph.fusion.options import FusionOptions, FusionPattern, FusionReport, FusionResult, PatternCount
from worklode.graph.fusion.passes import fuse_along_data, fuse_attention, fuse_prologues, fuse_updates
from worklode.graph.fusion.rewrite import Rewritten, rewrite
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.work import Work

__all__ = ["FusionOptions", "FusionPattern", "FusionReport", "FusionResult", "PatternCount", "fuse"]

DEFAULT_OPTIONS = FusionOptions()


def fuse(graph: TrainingGraph, options: FusionOptions = DEFAULT_OPTIONS) -> FusionResult:
    """Fuse operators of a graph.

    Kept exactly: FLOPs of products and lanes, all tensors that outlive their group, every dependence between what is
    left. HBM bytes never grow, neither of a group nor in all. A fused operator (`members` not empty) is never fused
    again, so fusing twice changes nothing.

    Args:
        graph: a sound graph.
        options: which fusions to try.

    Returns:
        A sound graph, operators in a topological order near the given one, and the report.
    """
    with garbage_collector_paused():
        return _fused(graph, options)


def _fused(graph: TrainingGraph, options: FusionOptions) -> FusionResult:
    facts = graph_facts(graph)
    grouping = Grouping(facts.predecessors)
    legality = Legality(facts, grouping, options)
    if options.streaming or options.epilogues:
        fuse_along_data(legality)
    if options.attention:
        fuse_attention(legality)
    if options.prologues:
        fuse_prologues(legality)
    if options.multi_tensor_updates:
        fuse_updates(legality)
    rewritten = rewrite(facts, grouping, legality.group)
    return FusionResult(graph=rewritten.graph, report=_report(graph, rewritten))


def _report(before: TrainingGraph, rewritten: Rewritten) -> FusionReport:
    after = rewritten.graph
    groups: Counter[FusionPattern] = Counter(pattern for pattern, _ in rewritten.fused)
    operators: Counter[FusionPattern] = Counter()
    for pattern, size in rewritten.fused:
        operators[pattern] += size
    patterns = sorted(groups, key=lambda pattern: (-operators[pattern], pattern))
    distinct_before, bytes_before = _items(before)
    distinct_after, bytes_after = _items(after)
    return FusionReport(
        operators_before=len(before.operators),
        operators_after=len(after.operators),
        distinct_before=distinct_before,
        distinct_after=distinct_after,
        hbm_bytes_before=bytes_before,
        hbm_bytes_after=bytes_after,
        tensors_eliminated=len(before.tensors) - len(after.tensors),
        patterns=tuple(
            PatternCount(pattern=pattern, groups=groups[pattern], operators=operators[pattern]) for pattern in patterns
        ),
    )


def _items(graph: TrainingGraph) -> tuple[int, int]:
    """Distinct work items and HBM bytes of a graph; each work object is hashed once, since operators share them."""
    number: dict[Work, int] = {}
    number_of_object: dict[int, int] = {}
    found = set()
    moved = 0
    for operator in graph.operators:
        key = id(operator.work)
        if key not in number_of_object:
            number_of_object[key] = number.setdefault(operator.work, len(number))
        read, written = operator.read_bytes, operator.write_bytes
        found.add((number_of_object[key], read, written))
        moved += read + written
    return len(found), moved
