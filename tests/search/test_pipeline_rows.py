"""Rows that bound pipelines, against the simulation: never above it, equal where stages are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.schedule.pipeline_oracle import equal_problem, problems

from worklode.schedule.pipeline import PipelineProblem, simulate
from worklode.schedule.pipeline_orders import parse_schedule
from worklode.search.aggregate import MaxPlus
from worklode.search.pipeline_rows import ChunkRows, pipeline_terms

TIMES = st.floats(0.01, 10.0)


def rows_of(problem: PipelineProblem) -> MaxPlus:
    """Rows over one variable for every pass of every chunk."""
    count = problem.num_chunks
    unit = np.eye(3 * count + 1)
    chunks = ChunkRows(
        forward=[unit[c] for c in range(count)],
        backward=[unit[count + c] for c in range(count)],
        weight=[unit[2 * count + c] for c in range(count)],
    )
    if not problem.schedule.splits_backward:
        chunks = replace(
            chunks,
            backward=[unit[count + c] + unit[2 * count + c] for c in range(count)],
            weight=[0.0 * unit[0]] * count,
        )
    sends = (problem.send_forward_s, problem.send_backward_s)
    sends = (sends[0] or (0.0,) * (count - 1), sends[1] or (0.0,) * (count - 1))
    return MaxPlus.of(
        *pipeline_terms(
            chunks,
            problem.schedule,
            problem.num_stages,
            problem.num_microbatches,
            sends,
            overlap=problem.overlap,
        )
    )


def times_of(problem: PipelineProblem) -> list[float]:
    return [*problem.forward_s, *problem.input_gradient_s, *problem.weight_gradient_s]


@settings(deadline=None, max_examples=300)
@given(problem=problems(largest=6))
def test_no_pipeline_is_shorter_than_its_rows(problem: PipelineProblem) -> None:
    bound = rows_of(problem).time_s(times_of(problem))
    assert bound <= simulate(problem).makespan_s * (1 + 1e-9)


@settings(deadline=None, max_examples=100)
@given(problem=problems(largest=5), factor=st.floats(1.0, 3.0), which=st.integers(0, 200))
def test_a_longer_pass_never_lowers_the_rows(problem: PipelineProblem, factor: float, which: int) -> None:
    """What lets bounds of times stand for the times."""
    rows = rows_of(problem)
    times = times_of(problem)
    before = rows.time_s(times)
    times[which % len(times)] *= factor
    assert rows.time_s(times) >= before * (1 - 1e-12)
    assert all((factors >= 0).all() for factors, _ in rows.terms)


@settings(deadline=None, max_examples=60)
@given(p=st.integers(1, 7), groups=st.integers(1, 4), f=TIMES, b=TIMES, w=TIMES)
def test_rows_are_exact_for_equal_stages(p: int, groups: int, f: float, b: float, w: float) -> None:
    for text in ("gpipe", "1f1b", "interleaved:2"):
        problem = equal_problem(parse_schedule(text), p, p * groups, f, b, w)
        # Equal stages share their times, so waits that two stages' times decide are counted too.
        exact = simulate(problem).makespan_s
        shared = _shared(problem).time_s([f, b, w])
        assert shared == pytest.approx(exact, rel=1e-9), text


def _shared(problem: PipelineProblem) -> MaxPlus:
    """Rows over one variable for each kind of pass, the same for every chunk; `equal_problem` divides by the chunks."""
    count, unit = problem.num_chunks, np.eye(4)
    share = 1.0 / problem.schedule.chunks_per_stage
    chunks = ChunkRows(
        forward=[share * unit[0]] * count,
        backward=[share * (unit[1] + unit[2])] * count,
        weight=[0.0 * unit[0]] * count,
    )
    none = (0.0,) * (count - 1)
    return MaxPlus.of(
        *pipeline_terms(
            chunks, problem.schedule, problem.num_stages, problem.num_microbatches, (none, none), overlap=True
        )
    )
