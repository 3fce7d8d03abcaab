"""Suite of training: measured iterations of GPTs on hundreds of A100, in their parallel settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worklode.hardware.network_file import load_network
from worklode.hardware.presets import load_preset
from worklode.partition.recompute import RecomputePolicy
from worklode.partition.stage_memory import StateRule
from worklode.schedule.pipeline_orders import parse_schedule
from worklode.search.parallel import ParallelSetting
from worklode.search.segment_costs import Execution
from worklode.search.training_step import ParallelEvaluation, evaluate_divided
from worklode.validation.measured_gpt import PRESET, divided_gpt
from worklode.validation.passes import LAYER_SET, pass_groups
from worklode.validation.score import Group, Point, SuiteResult
from worklode.validation.tables import Row, Sieve, read_table

PUBLISHED, VTRAIN = "megatron.csv", "vtrain_measured.csv"
BASELINE = "constant share of the peak, the median of the group"
PEAK_FLOPS_PER_S = 312e12  # A100, dense 16-bit: NVIDIA A100 white paper, 2020
# Microbatch and chunks of the 530B model: arXiv 2205.05198, table 3.
MICROBATCH_530B, CHUNKS_530B = 1, 3
MODEL_530B = "530B (MT-NLG)"
KORTHIKANTI_TARGET, TARGET = 0.04, 0.10
SCHEDULES = {"1F1B": "1f1b", "1F1B-I": "interleaved", "interleaved 1F1B": "interleaved", "ZB-1p": "zb-h1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """A measured training run.

    Attributes:
        group, name: where it is reported, and as what.
        layers, hidden, heads, seq_len: of the GPT; its vocabulary is 51,200.
        setting: parallel setting.
        network: preset.
        measured_s: time of an iteration [s].
        ends_are_layers: embedding and head are counted as a layer each when layers are dealt out to stages.
    """

    group: str
    name: str
    layers: int
    hidden: int
    heads: int
    seq_len: int
    setting: ParallelSetting
    network: str
    measured_s: float
    ends_are_layers: bool = False

    @property
    def flops(self) -> float:
        """Matrix FLOPs of an iteration with what is recomputed: 72 (full recomputation: 96) B L s h^2 (...) of arXiv
        2104.04473 and 2205.05198, appendix A.
        """
        s, h, count = self.seq_len, self.hidden, self.layers
        scores, head = s / (6 * h), 51_200 / (12 * h * count)
        once = self.setting.global_batch * count * s * h**2
        match self.setting.recompute:
            case RecomputePolicy.FULL:
                return 96 * once * (1 + scores + 0.75 * head)
            case RecomputePolicy.SELECTIVE:
                return 72 * once * (1 + 2 * scores + head)
            case RecomputePolicy.NONE:
                return 72 * once * (1 + scores + head)


KORTHIKANTI = "Korthikanti et al. (arXiv 2205.05198), table 5"
KORTHIKANTI_530B = "Korthikanti et al., 530B on 2240 GPUs"
SC21 = "Narayanan et al. (arXiv 2104.04473), table 1"
ZERO_BUBBLE = "zero bubble (arXiv 2401.10241), table 4"
MULTI_NODE = "vTrain (MICRO 2024), several nodes"
GROUPS = {
    "Korthikanti22_Table5": KORTHIKANTI,
    "Korthikanti22_abstract": KORTHIKANTI_530B,
    "SC21_Table1": SC21,
    "ZeroBubble_Table4": ZERO_BUBBLE,
}
TARGETS = {
    KORTHIKANTI: KORTHIKANTI_TARGET,
    KORTHIKANTI_530B: KORTHIKANTI_TARGET,
    ZERO_BUBBLE: TARGET,
    MULTI_NODE: TARGET,
}


def training(data: Path) -> SuiteResult:
    """Suite `training`."""
    sieve = Sieve()
    runs = measured_runs(data, sieve)
    predicted = [predict(run).iteration_time_s for run in runs]
    found = []
    for name in dict.fromkeys(run.group for run in runs):
        chosen = [(run, time_s) for run, time_s in zip(runs, predicted, strict=True) if run.group == name]
        shares = [run.flops / (run.measured_s * run.setting.devices * PEAK_FLOPS_PER_S) for run, _ in chosen]
        usual = float(np.median(shares))
        points = tuple(
            Point(
                name=run.name,
                measured=run.measured_s,
                predicted=time_s,
                baseline=run.flops / (usual * run.setting.devices * PEAK_FLOPS_PER_S),
            )
            for run, time_s in chosen
        )
        note = ""
        if name == ZERO_BUBBLE:
            right, pairs = right_order(runs, predicted)
            note = f"Of {pairs} pairs of schedules of one model and batch, {right} are in the measured order."
        found.append(Group(name=name, unit="s", points=points, baseline=BASELINE, target=TARGETS.get(name), note=note))
    return SuiteResult(
        suite="training",
        title="Training iterations on many GPUs",
        groups=(*found, *pass_groups(data)),
        skipped=sieve.skipped(),
    )


def measured_runs(data: Path, sieve: Sieve) -> list[MeasuredRun]:
    """Rows of both tables that can be compared."""
    runs = []
    for row in read_table(data, PUBLISHED, ("set", "TP", "PP", "DP", "VP", "GBS", "MBS", "iter_time_s", "MFU")):
        if row["set"] == LAYER_SET:
            continue  # passes of one layer: `pass_groups`
        if row["set"] not in GROUPS:
            sieve.out("other hardware or programs, or a setting that is not stated in full")
        elif row["schedule"] and row["schedule"] not in SCHEDULES:
            sieve.out("schedule ZB-2p: no schedule of the model")
        else:
            runs.append(_published(row))
    for row in read_table(data, VTRAIN, ("testbed", "TP", "PP", "DP", "GBS", "MBS", "iter_time_ms")):
        if row["testbed"].startswith("multi"):
            runs.append(_vtrain(row))
        else:
            sieve.out("vTrain on a single node")
    return runs


def _published(row: Row) -> MeasuredRun:
    group = GROUPS[row["set"]]
    layers, stages = int(row["layers"]), int(row["PP"])
    chunks, microbatch = int(row["VP"] or 1), int(row["MBS"] or MICROBATCH_530B)
    schedule = SCHEDULES.get(row["schedule"], "interleaved")
    if row["model"] == MODEL_530B and group == KORTHIKANTI_530B:
        chunks = CHUNKS_530B
    if group == ZERO_BUBBLE:
        chunks = (layers + 2) // stages
    sequence_parallel = row["seq_par"] == "yes" or "seq par" in row["recompute"]
    execution: Execution = "one-stream" if group == SC21 else "streams"
    setting = ParallelSetting(
        pipeline=stages,
        tensor=int(row["TP"]),
        data=int(row["DP"]),
        global_batch=int(row["GBS"]),
        microbatch=microbatch,
        schedule=parse_schedule(f"interleaved:{chunks}" if schedule == "interleaved" else schedule),
        recompute=RecomputePolicy(row["recompute"].split(" ")[0]),
        recompute_early_stop=False,
        sequence_parallel=sequence_parallel,
        state=StateRule.MIXED_16,
        overlap_data=False,
        execution=execution,
        add_first=group != ZERO_BUBBLE,
    )
    run = MeasuredRun(
        group=group,
        name=f"{row['model']}, {setting.schedule}, {setting.recompute}, {setting.microbatches} microbatches",
        layers=layers,
        hidden=int(row["hidden"]),
        heads=int(row["heads"]),
        seq_len=int(row["seq"]),
        setting=setting,
        network="selene" if group != ZERO_BUBBLE else "dgx-a100",
        measured_s=float(row["iter_time_s"] or 0.0),
        ends_are_layers=group == ZERO_BUBBLE,
    )
    return run if row["iter_time_s"] else _timed(run, float(row["MFU"]))


def _timed(run: MeasuredRun, utilization: float) -> MeasuredRun:
    """The run with its time from the share of the peak that model FLOPs, nothing recomputed, take."""
    plain = replace(run, setting=replace(run.setting, recompute=RecomputePolicy.NONE))
    return replace(run, measured_s=plain.flops / (utilization * run.setting.devices * PEAK_FLOPS_PER_S))


def _vtrain(row: Row) -> MeasuredRun:
    number = {key: int(float(row[key])) for key in ("TP", "PP", "DP", "GBS", "MBS", "hidden", "heads", "layers", "seq")}
    setting = ParallelSetting(
        pipeline=number["PP"],
        tensor=number["TP"],
        data=number["DP"],
        global_batch=number["GBS"],
        microbatch=number["MBS"],
        schedule=parse_schedule("1f1b"),
        recompute=RecomputePolicy.FULL,
        recompute_early_stop=False,
        state=StateRule.MIXED_16,
        overlap_data=False,
        execution="one-stream",
        add_first=True,
    )
    shape = f"t{number['TP']} d{number['DP']} p{number['PP']}, microbatch {number['MBS']}"
    return MeasuredRun(
        group=MULTI_NODE,
        name=f"{row['params_B']}B, {shape}",
        layers=number["layers"],
        hidden=number["hidden"],
        heads=number["heads"],
        seq_len=number["seq"],
        setting=setting,
        network="vtrain-testbed",
        measured_s=float(row["iter_time_ms"]) / 1e3,
    )


def right_order(runs: Sequence[MeasuredRun], predicted: Sequence[float]) -> tuple[int, int]:
    """Pairs of schedules of one model and batch that are ranked as measured, and all such pairs that differ."""
    found = [(run, time_s) for run, time_s in zip(runs, predicted, strict=True) if run.group == ZERO_BUBBLE]
    right = pairs = 0
    for at, (run, time_s) in enumerate(found):
        for other, other_s in found[at + 1 :]:
            same = (run.hidden, run.setting.global_batch) == (other.hidden, other.setting.global_batch)
            if same and run.measured_s != other.measured_s:
                pairs += 1
                right += (run.measured_s < other.measured_s) == (time_s < other_s)
    return right, pairs


def predict(run: MeasuredRun) -> ParallelEvaluation:
    """The iteration as the model sees it."""
    setting = run.setting
    model = divided_gpt(
        run.hidden,
        run.heads,
        run.seq_len,
        setting.microbatch,
        setting.tensor,
        setting.sequence_parallel,
        setting.recompute,
        adding_products=run.group == ZERO_BUBBLE,
    )
    first, last = model.units[0], model.units[-1]
    layer = model.units[1]
    places = [*range(first), *[layer] * run.layers, *range(last + 1, len(model.divided.segments))]
    chunks: tuple[tuple[int, int], ...] = ()
    if run.ends_are_layers:
        each = len(places) // (setting.pipeline * setting.schedule.chunks_per_stage)
        chunks = tuple((start, start + each) for start in range(0, len(places), each))
    return evaluate_divided(
        model, load_preset(PRESET), setting, load_network(run.network), places=places, chunks=chunks
    )
