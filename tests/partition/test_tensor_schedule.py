"""A shard on a chip with a network: it is costed, scheduled and verified like any graph, collectives beside compute."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worklode.cost.collective import communication_times
from worklode.cost.model import operator_costs
from worklode.frontend import CaptureOptions, capture
from worklode.graph.fusion import fuse
from worklode.graph.operator import OperatorKind
from worklode.graph.training_graph import TrainingGraph, graph_arrays
from worklode.hardware.network import group_of
from worklode.hardware.network_file import load_network
from worklode.hardware.presets import load_preset
from worklode.partition.plan import tensor_plan_for
from worklode.partition.tensor_parallel import shard
from worklode.schedule.list_scheduler import schedule
from worklode.schedule.problem import Schedule, ScheduleProblem
from worklode.schedule.verify import verify

NAME = "gpt:layers=4,hidden=2048,heads=16,vocab=4096,context=1024"


@cache
def captured() -> TrainingGraph:
    return capture(NAME, CaptureOptions(batch=4, seq_len=1024))


def scheduled(graph: TrainingGraph, devices: int) -> tuple[TrainingGraph, ScheduleProblem, Schedule]:
    fused = fuse(graph).graph
    arrays = graph_arrays(fused)
    chip = load_preset("a100-80gb")
    network = load_network("dgx-a100")
    times = communication_times({"tensor": group_of(network, {"tensor": devices}, "tensor")}) if devices > 1 else None
    costs = operator_costs(arrays.items, chip, communication_s=times)
    problem = ScheduleProblem(
        predecessor_start=arrays.predecessor_start,
        predecessor=arrays.predecessor,
        successor_start=arrays.successor_start,
        successor=arrays.successor,
        item_of=arrays.item_of,
        option_start=costs.option_start,
        tensor_cores=costs.tensor_cores,
        vector_cores=costs.vector_cores,
        compute_s=costs.compute_s,
        hbm_bytes=costs.hbm_bytes,
        num_tensor_cores=chip.num_tensor_cores,
        num_vector_cores=chip.num_vector_cores,
        hbm_bytes_per_s=chip.sustained_hbm_bytes_per_s,
    )
    return fused, problem, schedule(problem, segments=True)


@pytest.mark.parametrize("sequence", [False, True])
def test_a_shard_schedules(sequence: bool) -> None:
    _, _, alone = scheduled(captured(), 1)
    before = float(alone.end_s.max())
    for devices in (2, 4, 8):
        made = shard(captured(), tensor_plan_for(NAME), devices=devices, sequence_parallel=sequence)
        fused, problem, found = scheduled(made.graph, devices)
        verify(problem, found)
        places = [i for i, o in enumerate(fused.operators) if o.kind is OperatorKind.COLLECTIVE]
        starts, ends = found.start_s[places], found.end_s[places]
        assert np.all(starts[1:] >= ends[:-1] * (1 - 1e-9))  # one after another
        communicating = float((ends - starts).sum())
        total = float(found.end_s.max())
        assert before / devices < total < before  # faster than one device, never more than by their number
        assert total > communicating > 0
        computing = before / devices
        assert total < 2.0 * (computing + communicating)


# --------------------------------------------------------------------------------- properties of divided counts


@settings(max_examples=25, deadline=None)
@given(
    heads=st.sampled_from([2, 4, 8, 16]),
    head_width=st.sampled_from([4, 8]),
    layers=st.integers(1, 2),
    batch=st.integers(1, 3),
    length=st.sampled_from([8, 16, 24]),
    vocabulary=st.integers(17, 300),
    written_out=st.booleans(),
    sequence=st.booleans(),
    devices=st.sampled_from([2, 4, 8]),
)
def test_any_gpt_adds_up(
    heads: int,
    head_width: int,
    layers: int,
    batch: int,
    length: int,
    vocabulary: int,
    written_out: bool,
    sequence: bool,
    devices: int,
) -> None:
    if heads % devices or length % devices:
        return
    hidden = heads * head_width
    form = "written-out" if written_out else "flash"
    name = f"gpt:layers={layers},hidden={hidden},heads={heads},vocab={vocabulary},context={length},attention={form}"
    graph = capture(name, CaptureOptions(batch=batch, seq_len=length))
    made = shard(graph, tensor_plan_for(name), devices=devices, sequence_parallel=sequence)
    report = made.report
    padded = -(-vocabulary // (128 * devices)) * 128 * devices if vocabulary % devices else vocabulary
    assert report.padding_parameters == (padded - vocabulary) * hidden
    # forward, input gradient and weight gradient of the head alone see the padding
    assert report.padding_matrix_flops == 3 * 2 * batch * length * hidden * (padded - vocabulary)
    assert report.replicated_matrix_flops == 0
    assert made.graph.saved_bytes() <= graph.saved_bytes() + 4 * (padded - vocabulary) * batch * length
    assert len(fuse(made.graph).graph.operators) <= len(made.graph.operators)
