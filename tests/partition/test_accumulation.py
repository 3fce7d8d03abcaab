"""Gradient accumulation against what torch records of a step of several microbatches, and by bytes."""

from __future__ import annotations

from functools import cache

import pytest

from worklode.frontend import CaptureOptions, capture
from worklode.graph.fusion import fuse
from worklode.graph.operator import Phase, TensorRole
from worklode.graph.training_graph import TrainingGraph
from worklode.graph.validate import graph_faults
from worklode.partition.accumulation import with_accumulation
from worklode.partition.segments import BACKWARD, pass_graph, segments

GPT = "gpt:layers=3,hidden=64,heads=4,vocab=128,context=32"


@cache
def captured(text: str, steps: int = 1) -> TrainingGraph:
    return capture(text, CaptureOptions(batch=2, accumulation_steps=steps))


@pytest.mark.parametrize("text", [GPT, "resnet18", "t5-base"])
def test_as_many_sums_as_torch_records_for_the_second_microbatch(text: str) -> None:
    made = with_accumulation(captured(text))
    assert graph_faults(made) == []
    oracle = captured(text, 2)
    ours = [o for o in made.operators if o.phase is Phase.ACCUMULATE]
    torchs = [o for o in oracle.operators if o.phase is Phase.ACCUMULATE]
    assert len(ours) == len(torchs)
    assert sum(o.read_bytes for o in ours) == sum(o.read_bytes for o in torchs)
    assert sum(o.write_bytes for o in ours) == sum(o.write_bytes for o in torchs)
    assert sum(o.work.flops for o in ours) == sum(o.work.flops for o in torchs)
    others = [o for o in made.operators if o.phase is not Phase.ACCUMULATE]
    assert [(o.name, o.work) for o in others] == [(o.name, o.work) for o in captured(text).operators]


def test_updates_read_the_sums() -> None:
    made = with_accumulation(captured(GPT), "float32")
    gradients = {i: t for i, t in enumerate(made.tensors) if t.role is TensorRole.GRADIENT}
    assert all(tensor.dtype == "float32" for tensor in gradients.values())
    for operator in made.operators:
        if operator.name == "aten._fused_adamw_":
            (read,) = (a for a in operator.reads if a.tensor in gradients)
            parameter = next(a for a in operator.reads if made.tensors[a.tensor].role is TensorRole.PARAMETER)
            assert read.bytes == 2 * parameter.bytes
            assert made.operators[gradients[read.tensor].producer].phase is Phase.ACCUMULATE


def test_fused_a_product_reads_the_sum_and_writes_it() -> None:
    """Two more bytes moved an element of 16-bit sums (the sum read), not six (gradient read and written as well)."""
    divided = segments(captured(GPT))
    plain = pass_graph(divided, [2], *BACKWARD)
    summed = with_accumulation(plain)
    gradients = sum(t.bytes for t in plain.tensors if t.role is TensorRole.GRADIENT)
    more = fuse(summed).graph.hbm_bytes() - fuse(plain).graph.hbm_bytes()
    matrices = sum(t.bytes for t in plain.tensors if t.role is TensorRole.GRADIENT and t.bytes > 1024)
    assert matrices <= more <= matrices + 3 * (gradients - matrices)
    assert summed.hbm_bytes() - plain.hbm_bytes() == 3 * gradients
