"""Kernels in line and collectives on a stream of their own: order, waiting, and what one takes from the other."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest

pytest.importorskip("torch", reason="workloads are captured with torch")

from worklode import api
from worklode.cost.collective import communication_times
from worklode.graph.fusion import FusionOptions
from worklode.graph.operator import TensorRole
from worklode.hardware.network_file import load_network
from worklode.hardware.presets import load_preset
from worklode.hardware.technology import load_technology
from worklode.partition.recompute import RecomputePolicy
from worklode.partition.segments import BACKWARD
from worklode.search.evaluate import Evaluator, ScheduledStep
from worklode.search.parallel import ParallelSetting, groups
from worklode.search.streams import _ends_s, in_streams_s, issue_order, predecessors
from worklode.search.training_step import divided_model

KERNELS = FusionOptions(attention=False, epilogues=False, prologues=False)
CORES = 24


@cache
def backward(sequence_parallel: bool, recompute: str) -> tuple[Evaluator, ScheduledStep]:
    """Backward of one layer of a GPT on four devices."""
    graph = api.capture("gpt:layers=3,hidden=1024,heads=8,vocab=1024,context=512", batch=2, seq_len=512)
    setting = ParallelSetting(
        tensor=4, sequence_parallel=sequence_parallel, recompute=RecomputePolicy(recompute), recompute_early_stop=False
    )
    setting = replace(setting, microbatch=2, global_batch=2)
    model = divided_model(graph, setting, load_technology(None), fusion=KERNELS)
    evaluator = model.evaluator(model.units[1], BACKWARD, "")
    assert evaluator is not None
    times = communication_times(dict(groups(setting, load_network("dgx-a100"))))
    return evaluator, evaluator.step(load_preset("a100-80gb"), communication_s=times)


SETTINGS = [(False, "none"), (True, "none"), (True, "selective"), (False, "full")]


@pytest.mark.parametrize(("sequence_parallel", "recompute"), SETTINGS)
def test_the_order_is_all_kernels_and_respects_what_they_wait_for(sequence_parallel: bool, recompute: str) -> None:
    evaluator, step = backward(sequence_parallel, recompute)
    operators, problem = evaluator.fused.operators, step.problem
    order = issue_order(operators, evaluator.fused.tensors, problem)
    kernels = [index for index, operator in enumerate(operators) if operator.work.communication is None]
    assert sorted(order) == kernels
    place = {kernel: at for at, kernel in enumerate(order)}
    for kernel in order:
        assert all(place[other] < place[kernel] for other in predecessors(problem, kernel).tolist() if other in place)


@pytest.mark.parametrize(("sequence_parallel", "recompute"), SETTINGS)
def test_gradients_of_weights_come_behind_those_of_inputs(sequence_parallel: bool, recompute: str) -> None:
    """Between the two products of a linear layer's backward, the one whose result is added to a sum is the second."""
    evaluator, step = backward(sequence_parallel, recompute)
    operators, tensors = evaluator.fused.operators, evaluator.fused.tensors
    order = issue_order(operators, tensors, step.problem)
    added = {access.tensor for operator in operators if operator.name == "accumulate" for access in operator.reads}
    products = [kernel for kernel in order if operators[kernel].name == "aten.mm"]
    assert len(products) == 8  # two for each of four linear layers
    of_weights = [any(access.tensor in added for access in operators[kernel].writes) for kernel in products]
    assert of_weights == [False, True] * 4
    for first, second in pairwise(products):
        if operators[second].name == operators[first].name:
            assert not any(tensors[access.tensor].role is TensorRole.GRADIENT for access in operators[first].writes)


@pytest.mark.parametrize(("sequence_parallel", "recompute"), SETTINGS)
def test_collectives_beside_kernels_hide_but_are_not_free(sequence_parallel: bool, recompute: str) -> None:
    evaluator, step = backward(sequence_parallel, recompute)
    in_line_s, kernels_s = in_streams_s(evaluator, step, blocking=True)
    free_s, same_s = in_streams_s(evaluator, step, blocking=False)
    held_s, _ = in_streams_s(evaluator, step, blocking=False, collective_cores=CORES)
    most_s, _ = in_streams_s(evaluator, step, blocking=False, collective_cores=2 * CORES)
    assert kernels_s == pytest.approx(same_s)
    assert kernels_s < free_s < in_line_s
    # What is slowed down may end before the collective does, which hides it.
    assert free_s <= held_s <= most_s
    if sequence_parallel:
        assert free_s < held_s < most_s


def test_a_kernel_beside_a_collective_shares_cores_and_bandwidth() -> None:
    # Bound by its cores: a quarter of them is taken from 1 s to 2 s, in which 0.75 s of its work are done.
    assert _ends_s(0.0, 3.0, 1.0, 0.75, [(1.0, 2.0, 0.5)]) == pytest.approx(3.25)
    # Bound by HBM: the collective asks for half of the bandwidth, so 1/1.5 s are done in that second.
    assert _ends_s(0.0, 1.0, 3.0, 0.75, [(1.0, 2.0, 0.5)]) == pytest.approx(4.0 - 1.0 / 1.5)
    # Done before it starts, and begun after it ended.
    assert _ends_s(0.0, 1.0, 0.5, 0.75, [(1.0, 2.0, 0.5)]) == 1.0
    assert _ends_s(2.0, 1.0, 0.5, 0.75, [(1.0, 2.0, 0.5)]) == 3.0
    # All of it beside the collective.
    assert _ends_s(1.0, 0.6, 0.1, 0.75, [(0.0, 2.0, 0.5)]) == pytest.approx(1.8)
