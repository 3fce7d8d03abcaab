"""Cuts into stages against every possible cut, and memory of ranges against memory of stages one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.errors import SpecError
from worklode.frontend import CaptureOptions, capture
from worklode.partition.memory_ranges import memory_ranges, union_ranges
from worklode.partition.pipeline_cut import Cut, CutProblem, NoCut, cut
from worklode.partition.segments import segments
from worklode.partition.stage_memory import MemoryModel, StateOptions, StateRule

# Whole numbers of a small unit: sums are exact, so ties are ties.
TIMES = st.integers(0, 6).map(float)


def divisions(count: int, chunks: int) -> Iterator[tuple[tuple[int, int], ...]]:
    for inner in combinations(range(1, count), chunks - 1):
        edges = (0, *inner, count)
        yield tuple(pairwise(edges))


def chunk_time(problem: CutProblem, chunk: int, first: int, stop: int) -> float:
    """Time of a chunk by the definition: its segments on its stage, and both its edges."""
    times = np.atleast_2d(problem.segment_s)
    row = times[chunk % problem.stages if len(times) > 1 else 0]
    edges = [] if problem.boundary_s is None else list(problem.boundary_s)
    before = edges[first - 1] if first and edges else 0.0
    behind = edges[stop - 1] if stop < problem.segments and edges else 0.0
    return float(sum(row[first:stop]) + before + behind)


@st.composite
def problems(draw: st.DrawFn) -> CutProblem:
    count = draw(st.integers(1, 8))
    stages = draw(st.integers(1, count))
    chunks = draw(st.integers(1, count // stages))
    heterogeneous = draw(st.booleans())
    rows = stages if heterogeneous else 1
    times = np.array(draw(st.lists(TIMES, min_size=rows * count, max_size=rows * count))).reshape(rows, count)
    boundary = draw(st.none() | st.lists(TIMES, min_size=count - 1, max_size=count - 1))
    memory: np.ndarray | None = None
    capacity: tuple[float, ...] = ()
    if draw(st.booleans()):
        sizes = np.array(draw(st.lists(st.integers(0, 5), min_size=count, max_size=count)))
        prefix = np.concatenate(([0], np.cumsum(sizes)))
        in_flight = np.arange(stages, 0, -1)
        memory = np.maximum(in_flight[:, None, None] * (prefix[None, None, :] - prefix[None, :, None]), 0).astype(float)
        capacity = tuple(draw(st.lists(st.integers(1, 20).map(float), min_size=stages, max_size=stages)))
    return CutProblem(
        segment_s=times if heterogeneous else times[0],
        stages=stages,
        chunks_per_stage=chunks,
        boundary_s=None if boundary is None else np.array(boundary),
        memory_bytes=memory,
        capacity_bytes=capacity,
        microbatches=draw(st.none() | st.integers(1, 12)),
    )


def demands(problem: CutProblem, division: tuple[tuple[int, int], ...]) -> list[float]:
    assert problem.memory_bytes is not None
    found = [0.0] * problem.stages
    for chunk, (first, stop) in enumerate(division):
        found[chunk % problem.stages] += float(problem.memory_bytes[chunk % problem.stages, first, stop])
    return found


def value(problem: CutProblem, division: tuple[tuple[int, int], ...]) -> tuple[float, ...]:
    """What is minimised, of one division."""
    times = [chunk_time(problem, c, first, stop) for c, (first, stop) in enumerate(division)]
    if problem.microbatches is None:
        return max(times), math.fsum(times)
    return (math.fsum(times) + (problem.microbatches - 1) * max(times),)


@settings(max_examples=400, deadline=None)
@given(problems())
def test_the_cut_is_the_best_of_all(problem: CutProblem) -> None:
    every = list(divisions(problem.segments, problem.chunks))
    found = cut(problem)
    if problem.memory_bytes is None:
        fitting = every
    else:
        limits = problem.capacity_bytes
        fitting = [d for d in every if all(n <= c for n, c in zip(demands(problem, d), limits, strict=True))]
    if isinstance(found, NoCut):
        assert problem.memory_bytes is not None
        assert found.demand_bytes == demands(problem, found.chunks)[found.stage] > found.limit_bytes
        if problem.chunks_per_stage == 1:
            assert fitting == []
            worst = min(
                max(n / c for n, c in zip(demands(problem, d), problem.capacity_bytes, strict=True)) for d in every
            )
            assert found.demand_bytes / found.limit_bytes == pytest.approx(worst)
        return
    assert found.chunks in every
    allowed = fitting if problem.chunks_per_stage == 1 else every
    assert value(problem, found.chunks) == min(value(problem, division) for division in allowed)
    assert found.chunk_s == tuple(chunk_time(problem, c, *run) for c, run in enumerate(found.chunks))
    assert (found.bottleneck_s, found.total_s) == (max(found.chunk_s), math.fsum(found.chunk_s))
    assert found.chunks in fitting


def test_embedding_and_head_weigh_in() -> None:
    """A head as dear as three blocks gets a stage with fewer blocks."""
    found = cut(CutProblem(segment_s=np.array([0.1, *[1.0] * 12, 3.0]), stages=5))
    assert isinstance(found, Cut)
    assert found.chunks[-1] == (13, 14)
    assert found.bottleneck_s == pytest.approx(3.1)


def test_a_slow_stage_gets_less() -> None:
    times = np.ones((3, 12))
    times[1] *= 4
    found = cut(CutProblem(segment_s=times, stages=3))
    assert isinstance(found, Cut)
    first, middle, last = (stop - first for first, stop in found.chunks)
    assert middle == 1
    assert {first, last} == {5, 6}


def test_cuts_go_where_little_crosses() -> None:
    boundary = np.full(7, 5.0)
    boundary[2] = 0.0
    found = cut(CutProblem(segment_s=np.ones(8), stages=2, boundary_s=boundary))
    assert isinstance(found, Cut)
    assert found.chunks == ((0, 3), (3, 8))


def test_a_looser_bottleneck_pays_with_few_microbatches() -> None:
    times = np.array([[2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    balanced = cut(CutProblem(segment_s=times, stages=2))
    single = cut(CutProblem(segment_s=times, stages=2, microbatches=1))
    assert isinstance(balanced, Cut)
    assert isinstance(single, Cut)
    assert single.chunks == ((0, 1), (1, 4))
    assert balanced.bottleneck_s <= single.bottleneck_s
    assert single.total_s <= balanced.total_s


def test_gpt3_on_32_stages() -> None:
    """96 equal blocks, a head worth two: nobody can do with less than four blocks somewhere."""
    found = cut(CutProblem(segment_s=np.array([0.3, *[1.0] * 96, 1.9]), stages=32))
    assert isinstance(found, Cut)
    assert found.bottleneck_s == pytest.approx(4.0)
    first, stop = found.chunks[-1]
    assert stop - first <= 3


# --------------------------------------------------------------------------------------------------------- memory


@cache
def model(text: str) -> MemoryModel:
    return MemoryModel(segments(capture(text, CaptureOptions(batch=2))))


@pytest.mark.parametrize("text", ["gpt:layers=5,hidden=64,heads=4,vocab=128,context=32", "t5-base", "resnet18"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("rule", [StateRule.CAPTURED, StateRule.MIXED_18])
def test_ranges_are_stages_one_by_one(text: str, zero: int, rule: StateRule) -> None:
    found = model(text)
    options = StateOptions(rule=rule, zero=zero, data_parallel=3)
    ranges = memory_ranges(found, options)
    count = len(found.divided.segments)
    in_flight = (4.0, 1.0)
    table = ranges.bytes(in_flight)
    for first in range(count):
        for stop in range(first + 1, count + 1, 1 if count < 12 else 5):
            for place, microbatches in enumerate(in_flight):
                stage = found.stage([(first, stop)], [microbatches], options)
                assert table[place, first, stop] == stage.total
    assert np.all(table[:, ~np.triu(np.ones((count + 1, count + 1), bool), 1)] == 0)


@given(st.data())
def test_union_of_ranges_counts_each_once(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 7))
    places = st.sets(st.integers(0, count - 1)).map(lambda found: tuple(sorted(found)))
    items = data.draw(st.lists(st.tuples(st.integers(0, 9), places), max_size=6))
    table = union_ranges(count, items)
    for first in range(count + 1):
        for stop in range(count + 1):
            expected = sum(size for size, users in items if any(first <= user < stop for user in users))
            assert table[first, stop] == expected


def test_memory_moves_the_cut() -> None:
    """1F1B: the first stage keeps most microbatches, so it gets fewer layers where memory is short."""
    found = model("gpt:layers=5,hidden=64,heads=4,vocab=128,context=32")
    ranges = memory_ranges(found, StateOptions())
    table = ranges.bytes([2, 1])
    count = len(found.divided.segments)
    free = cut(CutProblem(segment_s=np.ones(count), stages=2))
    assert isinstance(free, Cut)
    first, stop = free.chunks[0]
    tight = float(table[0, first, stop]) - 1
    room = float(table.max())
    moved = cut(CutProblem(segment_s=np.ones(count), stages=2, memory_bytes=table, capacity_bytes=(tight, room)))
    assert isinstance(moved, Cut)
    assert moved.chunks[0][1] < stop
    none = cut(CutProblem(segment_s=np.ones(count), stages=2, memory_bytes=table, capacity_bytes=(1.0, 1.0)))
    assert isinstance(none, NoCut)
    assert none.demand_bytes > none.limit_bytes == 1.0


# --------------------------------------------------------------------------------------------------------- faults


def test_more_stages_than_segments_says_how_many_cuts_there_are() -> None:
    with pytest.raises(SpecError, match=r"at most 4: the model has 3 cut points, between its 4 segments"):
        cut(CutProblem(segment_s=np.ones(4), stages=5))
    with pytest.raises(SpecError, match=r"found 2 x 3"):
        cut(CutProblem(segment_s=np.ones(4), stages=2, chunks_per_stage=3))


def test_every_fault_is_reported() -> None:
    with pytest.raises(SpecError) as caught:
        cut(CutProblem(segment_s=np.ones(4), stages=0, chunks_per_stage=0, microbatches=0))
    assert [fault.path for fault in caught.value.faults] == ["stages", "chunks_per_stage", "microbatches"]
    with pytest.raises(SpecError) as caught:
        cut(
            CutProblem(
                segment_s=np.array([1.0, -1.0, math.nan]),
                stages=2,
                boundary_s=np.ones(3),
                memory_bytes=np.ones((2, 3, 3)),
                capacity_bytes=(1.0,),
            )
        )
    assert [fault.path for fault in caught.value.faults] == [
        "segment_s",
        "boundary_s",
        "memory_bytes",
        "capacity_bytes",
    ]
