"""Measured passes of layers and stages: what the iterations of suite `training` are made of."""

from __future__ import annotations

import re
from pathlib import Path

from worklode.cost.collective import communication_times
from worklode.hardware.network_file import load_network
from worklode.hardware.presets import load_preset
from worklode.partition.recompute import RecomputePolicy
from worklode.search.parallel import ParallelSetting, groups
from worklode.search.segment_costs import SegmentCosts
from worklode.validation.measured_gpt import PRESET, divided_gpt
from worklode.validation.score import Group, Point
from worklode.validation.tables import Row, read_table

PUBLISHED = "megatron.csv"
LAYER_SET = "Korthikanti22_Table4_per_layer_ms"
LAYER = "one layer of 22B, forward and backward (arXiv 2205.05198, table 4)"
STAGE = "passes of a stage of the zero-bubble models, as their authors profiled them"
_STATED = re.compile(r"forward ([\d.]+) ms, backward ([\d.]+) ms")
# (name, hidden size, heads, microbatch, layers of a stage, forward, input gradients, weight gradients [ms]):
# github.com/sail-sg/zero-bubble-pipeline-parallelism@f68d3879, megatron/core/pipeline_parallel/efficiency.py,
# iclr_bubble_rates: sizes, sequences of 1024, and means of the passes at three numbers of microbatches, which differ
# by 2 % at most. The microbatch is the paper's (arXiv 2401.10241, table 3), seen only second hand; with it weight
# gradients run at 249 to 258 TFLOP/s in all four models.
PROFILED = (
    ("1.5B", 2304, 24, 6, 3, 18.527, 18.090, 9.330),
    ("6.2B", 4096, 32, 3, 4, 29.818, 29.498, 19.615),
    ("14.6B", 5120, 40, 1, 3, 11.326, 11.270, 8.114),
    ("28.3B", 6144, 48, 1, 2, 10.410, 10.220, 7.705),
)
PROFILED_SEQ_LEN = 1024


def pass_groups(data: Path) -> tuple[Group, Group]:
    """Passes of layers and of stages."""
    rows = [
        row for row in read_table(data, PUBLISHED, ("set", "TP", "MBS", "recompute", "note")) if row["set"] == LAYER_SET
    ]
    layer = Group(
        name=LAYER,
        unit="s",
        points=tuple(point for row in rows for point in _of_a_layer(row)),
        note="Stated in steps of 0.1 ms. Without what adds gradients to those of other microbatches.",
    )
    return layer, Group(name=STAGE, unit="s", points=_of_stages(), note="Stages of layers alone.")


def _of_a_layer(row: Row) -> list[Point]:
    stated = _STATED.search(row["note"])
    assert stated is not None, "rows of the set state both"
    text, tensor, microbatch = row["recompute"], int(row["TP"]), int(row["MBS"])
    policy = next((one for one in RecomputePolicy if text.startswith(f"{one} ")), RecomputePolicy.NONE)
    sequence_parallel = "sequence parallel" in text
    hidden, heads, seq_len = int(row["hidden"]), int(row["heads"]), int(row["seq"])
    model = divided_gpt(hidden, heads, seq_len, microbatch, tensor, sequence_parallel, policy)
    network = load_network("selene")
    setting = ParallelSetting(tensor=tensor, sequence_parallel=sequence_parallel)
    times = communication_times(dict(groups(setting, network)))
    chip = load_preset(PRESET)
    costs = SegmentCosts(model, chip, times, "streams", collective_cores=network.collective_cores)
    place = model.units[1]
    predicted = (costs.forward(place).time_s, costs.backward(place).time_s)
    return [
        Point(name=f"{text}, {name}", measured=float(measured_ms) / 1e3, predicted=time_s)
        for name, measured_ms, time_s in zip(("forward", "backward"), stated.groups(), predicted, strict=True)
    ]


def _of_stages() -> tuple[Point, ...]:
    points = []
    for name, hidden, heads, microbatch, layers, *measured_ms in PROFILED:
        model = divided_gpt(hidden, heads, PROFILED_SEQ_LEN, microbatch, 1, False, RecomputePolicy.NONE, True)
        costs = SegmentCosts(model, load_preset(PRESET), communication_times({}), "streams", sums="")
        place = model.units[1]
        passes = (costs.forward(place), costs.input_gradient(place), costs.weight_gradient(place))
        points += [
            Point(name=f"{name}, {what}", measured=found_ms / 1e3, predicted=layers * cost.time_s)
            for what, found_ms, cost in zip(
                ("forward", "input gradients", "weight gradients"), measured_ms, passes, strict=True
            )
        ]
    return tuple(points)
