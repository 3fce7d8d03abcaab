"""Pipelines against what the zero-bubble paper computed and measured (arXiv 2401.10241v1, tables 4, 5 and 9)."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from worklode.schedule.pipeline import PipelineProblem, PipelineTimeline, simulate
from worklode.schedule.pipeline_orders import PipelineSchedule, parse_schedule

# Table 9: (model, stages, microbatches) -> profiled T_F, T_B, T_W, T_comm of a stage [ms], A100.
PROFILED_MS = {
    ("1.5B", 8, 24): (18.522, 18.086, 9.337, 0.601),
    ("1.5B", 8, 32): (18.513, 18.086, 9.331, 0.626),
    ("1.5B", 8, 64): (18.546, 18.097, 9.321, 0.762),
    ("6.2B", 8, 24): (29.718, 29.444, 19.927, 0.527),
    ("6.2B", 8, 32): (29.802, 29.428, 19.530, 0.577),
    ("6.2B", 8, 64): (29.935, 29.621, 19.388, 0.535),
    ("14.6B", 16, 48): (11.347, 11.248, 8.132, 0.377),
    ("14.6B", 16, 64): (11.307, 11.254, 8.101, 0.379),
    ("14.6B", 16, 128): (11.325, 11.308, 8.109, 0.378),
    ("28.3B", 32, 96): (10.419, 10.207, 7.715, 0.408),
    ("28.3B", 32, 128): (10.408, 10.204, 7.703, 0.408),
    ("28.3B", 32, 256): (10.402, 10.248, 7.698, 0.460),
}
# Table 3: transformer layers; first and last stage hold one fewer, and in 1F1B-I every layer is a chunk.
LAYERS = {"1.5B": 22, "6.2B": 30, "14.6B": 46, "28.3B": 62}
# Table 5: bubble rates of 1F1B, 1F1B-I, ZB-1p, computed by the authors from table 9.
BUBBLE_RATES = {
    ("1.5B", 8, 24): (0.2431, 0.1055, 0.1585),
    ("1.5B", 8, 32): (0.1985, 0.0818, 0.1242),
    ("1.5B", 8, 64): (0.1240, 0.0443, 0.0674),
    ("6.2B", 8, 24): (0.2347, 0.0808, 0.1323),
    ("6.2B", 8, 32): (0.1898, 0.0628, 0.1045),
    ("6.2B", 8, 64): (0.1091, 0.0320, 0.0554),
    ("14.6B", 16, 48): (0.2552, 0.1104, 0.1397),
    ("14.6B", 16, 64): (0.2082, 0.0852, 0.1088),
    ("14.6B", 16, 128): (0.1251, 0.0445, 0.0576),
    ("28.3B", 32, 96): (0.2646, 0.1493, 0.1421),
    ("28.3B", 32, 128): (0.2168, 0.1164, 0.1106),
    ("28.3B", 32, 256): (0.1352, 0.0624, 0.0594),
}
Setting = tuple[str, int, int]


def schedule_of(name: str, setting: Setting) -> PipelineSchedule:
    model, stages, _ = setting
    chunks_per_stage = (LAYERS[model] + 2) // stages
    return parse_schedule({"1F1B": "1f1b", "1F1B-I": f"interleaved:{chunks_per_stage}", "ZB-1p": "zb-h1"}[name])


def timeline_of(name: str, setting: Setting, *, overlap: bool = True) -> PipelineTimeline:
    """The schedule with the profiled times: equal stages, a send at every boundary, overlapped."""
    _, stages, microbatches = setting
    schedule = schedule_of(name, setting)
    forward, backward, weight, send = (time / 1e3 for time in PROFILED_MS[setting])
    v = schedule.chunks_per_stage
    chunks = stages * v
    return simulate(
        PipelineProblem(
            num_stages=stages,
            num_microbatches=microbatches,
            schedule=schedule,
            forward_s=(forward / v,) * chunks,
            input_gradient_s=(backward / v,) * chunks,
            weight_gradient_s=(weight / v,) * chunks,
            send_forward_s=(send,) * (chunks - 1),
            send_backward_s=(send,) * (chunks - 1),
            overlap=overlap,
        )
    )


def bubble_rate(timeline: PipelineTimeline, setting: Setting) -> float:
    """The paper's: (cost - m (T_F + T_B + T_W)) / cost, with the longest time a stage takes from first to last pass."""
    stages = timeline.problem.num_stages
    spans = [
        timeline.end_s[:, stage::stages].max() - timeline.start_s[0, stage::stages].min() for stage in range(stages)
    ]
    work_s = timeline.problem.num_microbatches * sum(PROFILED_MS[setting][:3]) / 1e3
    return float(1 - work_s / max(spans))


@pytest.mark.parametrize("setting", list(PROFILED_MS), ids=str)
def test_bubble_rates_are_the_published_ones(setting: Setting) -> None:
    one_f_one_b, interleaved, zero_bubble = BUBBLE_RATES[setting]
    # To the last digit printed.
    assert bubble_rate(timeline_of("1F1B", setting), setting) == pytest.approx(one_f_one_b, abs=6e-5)
    assert bubble_rate(timeline_of("ZB-1p", setting), setting) == pytest.approx(zero_bubble, abs=6e-5)
    # The paper does not say how sends count in 1F1B-I. Without any the rates are 0.005 to 0.017 below it, with one per
    # chunk 0.0008 to 0.0036 above.
    assert interleaved < bubble_rate(timeline_of("1F1B-I", setting), setting) < interleaved + 0.004


def measured() -> list[tuple[Setting, str, float]]:
    """Rows of table 4 in the reference data: setting, schedule, measured time of an iteration [s]."""
    folder = Path(os.environ.get("WORKLODE_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data")
    if not (folder / "megatron.csv").is_file():
        pytest.skip("reference table megatron.csv is absent: set WORKLODE_DATA")
    rows = []
    with (folder / "megatron.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["set"] == "ZeroBubble_Table4" and row["schedule"] in {"1F1B", "1F1B-I", "ZB-1p"}:
                setting = (row["model"].removeprefix("GPT "), int(row["PP"]), int(row["GBS"]) // int(row["MBS"]))
                rows.append((setting, row["schedule"], float(row["iter_time_s"])))
    return rows


def test_measured_iterations_from_profiled_passes() -> None:
    """Blocking sends explain all three schedules alike; what is missing is the optimizer and its synchronisation.

    Means of prediction over measurement (2026-11): 1F1B 0.940, 1F1B-I 0.928, ZB-1p 0.946; with overlapped sends 0.939,
    0.889, 0.931.
    """
    ratios: dict[str, list[float]] = {}
    for setting, name, time_s in measured():
        ratios.setdefault(name, []).append(timeline_of(name, setting, overlap=False).makespan_s / time_s)
    assert sum(len(values) for values in ratios.values()) >= 10
    means = [sum(values) / len(values) for values in ratios.values()]
    assert all(0.9 < mean < 1.0 for mean in means), ratios
    assert max(means) - min(means) < 0.03, ratios
    assert all(0.88 < value < 1.0 for values in ratios.values() for value in values), ratios


def test_measured_order_of_schedules() -> None:
    """Wherever two schedules measured in one setting differ by more than 3 %, the faster one is predicted as faster."""
    rows = measured()
    compared = 0
    for setting, name, time_s in rows:
        for other_setting, other, other_s in rows:
            if setting == other_setting and time_s * 1.03 < other_s:
                compared += 1
                faster, slower = (timeline_of(which, setting, overlap=False) for which in (name, other))
                assert faster.makespan_s < slower.makespan_s, (setting, name, other)
    assert compared >= 3
