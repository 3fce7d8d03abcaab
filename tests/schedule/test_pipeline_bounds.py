"""Bounds of pipelines: always on their side, exact where they should be, below what any order reaches."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.errors import SpecError
from worklode.schedule.pipeline import PipelineProblem, candidates_of, simulate, simulate_batch
from worklode.schedule.pipeline_bounds import best_possible_s, pipeline_time_bound, zb_h1_time_s
from worklode.schedule.pipeline_orders import PassOrder, parse_schedule, pass_order

from .pipeline_oracle import Pass, equal_problem, longest_path, order_of, problems

TIMES = st.floats(0.01, 10.0)
ROUNDING = 2e-10  # the bounds are moved apart by 1e-10


@settings(deadline=None, max_examples=300)
@given(problem=problems(largest=7))
def test_the_makespan_lies_between_its_bounds(problem: PipelineProblem) -> None:
    makespan_s = simulate(problem).makespan_s
    candidates = candidates_of(problem)
    bounds = pipeline_time_bound(candidates)
    assert best_possible_s(candidates)[0] <= bounds.lower_s[0] * (1 + 1e-12)
    assert bounds.lower_s[0] <= makespan_s <= bounds.upper_s[0]


@settings(deadline=None, max_examples=100)
@given(problem=problems(st.just(parse_schedule("gpipe"))))
def test_bounds_of_gpipe_are_exact(problem: PipelineProblem) -> None:
    bounds = pipeline_time_bound(candidates_of(problem))
    makespan_s = simulate(problem).makespan_s
    assert bounds.lower_s[0] == pytest.approx(makespan_s, rel=ROUNDING)
    assert bounds.upper_s[0] == pytest.approx(makespan_s, rel=ROUNDING)


@settings(deadline=None, max_examples=60)
@given(p=st.integers(1, 8), m=st.integers(1, 20), f=TIMES, b=TIMES, w=TIMES)
def test_bounds_meet_where_stages_are_equal(p: int, m: int, f: float, b: float, w: float) -> None:
    for text in ("gpipe", "1f1b", "zb-h1"):
        problem = equal_problem(parse_schedule(text), p, m, f, b, w)
        makespan_s = simulate(problem).makespan_s
        bounds = pipeline_time_bound(candidates_of(problem))
        assert bounds.lower_s[0] == pytest.approx(makespan_s, rel=ROUNDING), text
        assert bounds.upper_s[0] == pytest.approx(makespan_s, rel=ROUNDING), text


@settings(deadline=None, max_examples=100)
@given(p=st.integers(1, 9), m=st.integers(1, 24), times=st.tuples(*[st.integers(0, 12)] * 3))
def test_the_closed_form_of_zb_h1_holds_for_all_times(p: int, m: int, times: tuple[int, int, int]) -> None:
    f, b, w = (float(time) for time in times)
    problem = equal_problem(parse_schedule("zb-h1"), p, m, f, b, w)
    expected = zb_h1_time_s(p, m, *(np.array([time]) for time in (f, b, w)))[0]
    assert simulate(problem).makespan_s == pytest.approx(expected, rel=1e-12)
    # The upper bound rests on the handcrafted order alone.
    handcrafted = longest_path(problem, order_of(problem, pass_order(problem.schedule, p, m)))
    assert max(end for _, end in handcrafted.values()) == pytest.approx(expected, rel=1e-12)


@settings(deadline=None, max_examples=40)
@given(p=st.integers(2, 6), groups=st.integers(1, 3), v=st.integers(1, 4), f=TIMES, b=TIMES, w=TIMES)
def test_no_order_beats_1f1b_and_interleaving_of_equal_stages(
    p: int, groups: int, v: int, f: float, b: float, w: float
) -> None:
    problem = equal_problem(parse_schedule(f"interleaved:{v}"), p, p * groups, f, b, w)
    assert best_possible_s(candidates_of(problem))[0] == pytest.approx(simulate(problem).makespan_s, rel=ROUNDING)


def test_sum_and_slowest_stage_bound_1f1b_from_neither_side() -> None:
    """`sum t + (m - 1) max t`, often quoted for uneven stages, is exact for GPipe with equal ratios, not for 1F1B."""

    def quoted(problem: PipelineProblem) -> float:
        times = candidates_of(problem).forward_s + candidates_of(problem).input_gradient_s
        return float(times.sum() + (problem.num_microbatches - 1) * times.max())

    base = equal_problem(parse_schedule("1f1b"), 3, 8, 1.0, 1.0, 0.0)
    early = replace(base, forward_s=(5.0, 0.5, 0.5), input_gradient_s=(5.0, 0.5, 0.5))
    assert simulate(early).makespan_s == pytest.approx(80.0)
    assert quoted(early) == pytest.approx(82.0)
    late = replace(base, num_microbatches=3, forward_s=(10.0, 0.0, 0.0), input_gradient_s=(0.0, 10.0, 0.0))
    assert simulate(late).makespan_s == pytest.approx(50.0)
    assert quoted(late) == pytest.approx(40.0)


@settings(deadline=None, max_examples=100)
@given(problem=problems(st.just(parse_schedule("1f1b"))), ratio=st.floats(0.0, 3.0))
def test_sum_and_slowest_stage_bound_1f1b_from_above_where_backward_is_a_multiple_of_forward(
    problem: PipelineProblem, ratio: float
) -> None:
    problem = replace(
        problem,
        input_gradient_s=tuple(ratio * time for time in problem.forward_s),
        weight_gradient_s=(0.0,) * problem.num_stages,
        send_forward_s=(),
        send_backward_s=(),
    )
    times = (1 + ratio) * np.array(problem.forward_s)
    quoted = times.sum() + (problem.num_microbatches - 1) * times.max()
    assert simulate(problem).makespan_s <= quoted * (1 + 1e-12) + 1e-12


@settings(deadline=None, max_examples=25)
@given(
    problem=problems(st.sampled_from([parse_schedule("1f1b"), parse_schedule("zb-h1")]), largest=2),
    seed=st.integers(0, 1000),
)
def test_no_order_at_all_is_below_the_best_possible(problem: PipelineProblem, seed: int) -> None:
    """Random orders of the passes of every stage that respect dependences, all of them for the smallest."""
    problem = replace(problem, num_microbatches=min(problem.num_microbatches, 2 if seed % 2 else 4))
    bound = best_possible_s(candidates_of(problem))[0]
    order = order_of(problem, pass_order(problem.schedule, problem.num_stages, problem.num_microbatches))
    random = np.random.default_rng(seed)
    for _ in range(10):
        rows = random_order(problem, order, random)
        assert max(end for _, end in longest_path(problem, rows).values()) >= bound


def random_order(problem: PipelineProblem, order: list[list[Pass]], random: np.random.Generator) -> list[list[Pass]]:
    """Passes in a random order: a random topological sort of the dependences, stage by stage."""
    left = [item for row in order for item in row]
    done: set[Pass] = set()
    rows: list[list[Pass]] = [[] for _ in order]
    last = problem.num_chunks - 1

    def ready(item: Pass) -> bool:
        kind, chunk, microbatch = item
        if kind == "F":
            return chunk == 0 or ("F", chunk - 1, microbatch) in done
        if kind == "W":
            return ("B", chunk, microbatch) in done
        return (("F", chunk, microbatch) if chunk == last else ("B", chunk + 1, microbatch)) in done

    while left:
        choices = [item for item in left if ready(item)]
        item = choices[int(random.integers(len(choices)))]
        left.remove(item)
        done.add(item)
        rows[item[1] % problem.num_stages].append(item)
    return rows


@pytest.mark.parametrize("times", list(permutations((1.0, 2.0, 4.0))))
def test_best_possible_of_one_stage_is_its_work(times: tuple[float, float, float]) -> None:
    for text in ("gpipe", "interleaved:2", "zb-h1"):
        problem = equal_problem(parse_schedule(text), 1, 5, *times)
        assert best_possible_s(candidates_of(problem))[0] == pytest.approx(35.0)


def test_best_possible_of_a_slow_link_is_its_sends() -> None:
    problem = replace(equal_problem(parse_schedule("gpipe"), 2, 10, 1.0, 1.0, 0.0), send_forward_s=(5.0,))
    assert best_possible_s(candidates_of(problem))[0] == pytest.approx(1 + 10 * 5 + 1 + 1 + 1)


def test_bounds_of_many_candidates_are_those_of_each() -> None:
    random = np.random.default_rng(3)
    problem = equal_problem(parse_schedule("1f1b"), 5, 12, 1.0, 1.0, 1.0)
    base = candidates_of(problem)
    candidates = replace(
        base,
        forward_s=random.uniform(1, 2, (50, 5)),
        input_gradient_s=random.uniform(1, 2, (50, 5)),
        weight_gradient_s=random.uniform(1, 2, (50, 5)),
        send_forward_s=random.uniform(0, 0.2, (1, 4)),
        send_backward_s=random.uniform(0, 0.2, (50, 4)),
    )
    bounds = pipeline_time_bound(candidates)
    makespan_s = simulate_batch(candidates).max(axis=1)
    assert (bounds.lower_s <= makespan_s).all()
    assert (makespan_s <= bounds.upper_s).all()
    assert (makespan_s / bounds.lower_s).mean() < 1.02, "of use to prune with"
    for row in (0, 17, 49):
        one = replace(
            candidates,
            **{
                name: getattr(candidates, name)[row : row + 1]
                for name in ("forward_s", "input_gradient_s", "weight_gradient_s", "send_backward_s")
            },
        )
        assert pipeline_time_bound(one).lower_s[0] == bounds.lower_s[row]
        assert pipeline_time_bound(one).upper_s[0] == bounds.upper_s[row]


def test_bounds_refuse_what_the_simulation_refuses() -> None:
    candidates = candidates_of(equal_problem(parse_schedule("interleaved:2"), 3, 6, 1.0, 1.0, 1.0))
    for function in (best_possible_s, pipeline_time_bound):
        with pytest.raises(SpecError, match="multiple of its 3 stages"):
            function(replace(candidates, num_microbatches=4))


def test_order_is_shared_and_cannot_be_written() -> None:
    order: PassOrder = pass_order(parse_schedule("1f1b"), 2, 3)
    with pytest.raises(ValueError, match="read-only"):
        order.by_stage[0, 0] = 1
