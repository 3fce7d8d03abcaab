"""Suite of memory: activations and model state of Megatron-LM's pipelines, as published, against captured GPTs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worklode.frontend import CaptureOptions, capture
from worklode.graph.training_graph import TrainingGraph
from worklode.partition.plan import tensor_plan_for
from worklode.partition.recompute import RecomputePolicy, recompute
from worklode.partition.segments import segments
from worklode.partition.stage_memory import MemoryModel, StateOptions, StateRule
from worklode.partition.tensor_parallel import shard
from worklode.schedule.pipeline import PipelineProblem, PipelineTimeline, simulate
from worklode.schedule.pipeline_orders import parse_schedule
from worklode.validation.score import Group, Point, SuiteResult
from worklode.validation.tables import Row, Sieve, read_table

ACTIVATIONS, MEASURED = "activation_memory.csv", "megatron.csv"
GIB = 2**30
TARGET = 0.05
# Weights and gradients in 16 and 32 bits, Adam in 32: Megatron-LM in bf16 (docs/models/stage_memory.md).
STATE = StateOptions(rule=StateRule.MIXED_18)
# Layers of a model are equal segments: of three captured ones, the middle one stands for all.
CAPTURED_LAYERS, LAYER = 3, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A training run of arXiv 2205.05198, table 3; sequences of 2048 tokens, vocabulary 51200, A100-80GB.

    Attributes:
        layers, hidden, heads: of the GPT.
        tensor, pipeline, chunks: tensor-parallel width, stages, chunks a stage.
        batch, microbatch: samples.
    """

    layers: int
    hidden: int
    heads: int
    tensor: int
    pipeline: int
    chunks: int
    batch: int
    microbatch: int


TRAININGS: Mapping[str, Training] = {
    "megatron-22B": Training(layers=48, hidden=6144, heads=64, tensor=8, pipeline=1, chunks=1, batch=4, microbatch=4),
    "gpt3-175B": Training(layers=96, hidden=12288, heads=96, tensor=8, pipeline=8, chunks=3, batch=64, microbatch=1),
    "turing-530B": Training(
        layers=105, hidden=20480, heads=128, tensor=8, pipeline=35, chunks=3, batch=280, microbatch=1
    ),
    "megatron-1T": Training(
        layers=128, hidden=25600, heads=160, tensor=8, pipeline=64, chunks=1, batch=512, microbatch=1
    ),
}
# Modes of the table: (sequence parallel, recomputation).
MODES: Mapping[str, tuple[bool, RecomputePolicy]] = {
    "none": (False, RecomputePolicy.NONE),
    "none(TP)": (False, RecomputePolicy.NONE),
    "seq": (True, RecomputePolicy.NONE),
    "sel": (False, RecomputePolicy.SELECTIVE),
    "seqsel": (True, RecomputePolicy.SELECTIVE),
    "full": (False, RecomputePolicy.FULL),
}
SCHEDULES: Mapping[str, str] = {"1F1B": "1f1b", "1F1B-I": "interleaved", "ZB-1p": "zb-h1"}


def memory(data: Path) -> SuiteResult:
    """Compare with the tables of a folder."""
    sieve = Sieve()
    rows = read_table(data, ACTIVATIONS, ("fig", "model", "mode", "param_opt_GiB", "activation_GiB", "activation_pct"))
    layers = {model: _Layers(training) for model, training in TRAININGS.items()}
    groups = (
        Group(
            name="activations of the layers of a first stage (arXiv 2205.05198, figure 1)",
            unit="GiB",
            points=tuple(
                Point(
                    name=f"{row['model']}, {row['mode']}",
                    measured=float(row["activation_GiB"]),
                    predicted=layers[row["model"]].first_stage_bytes(row["mode"]) / GIB,
                )
                for row in rows
                if row["fig"] == "Fig1"
            ),
            target=TARGET,
            note="The figure shows what the authors' formula gives for layers, not what a profiler found.",
        ),
        Group(
            name="weights, gradients and optimizer state of the layers of a stage (figure 1)",
            unit="GiB",
            points=tuple(
                Point(
                    name=row["model"],
                    measured=float(row["param_opt_GiB"]),
                    predicted=layers[row["model"]].state_bytes() / GIB,
                )
                for row in rows
                if row["fig"] == "Fig1" and row["mode"] == "none"
            ),
            target=TARGET,
            note="18 bytes a parameter; embedding and head are in neither figure.",
        ),
        Group(
            name="activations of a layer, in per cent of tensor parallelism alone (figure 7)",
            unit="%",
            points=tuple(
                Point(
                    name=f"{row['model']}, {row['mode']}",
                    measured=float(row["activation_pct"]),
                    predicted=100.0 * layers[row["model"]].kept(row["mode"]) / layers[row["model"]].kept("none(TP)"),
                )
                for row in rows
                if row["fig"] == "Fig7" and row["mode"] != "none(TP)"
            ),
            target=TARGET,
        ),
        _measured_pipelines(read_table(data, MEASURED, ("set", "model", "schedule", "mem_GB")), sieve),
    )
    for row in rows:
        if row["fig"] == "Fig7" and row["mode"] == "none(TP)":
            sieve.out("100 % by definition")
    return SuiteResult(suite="memory", title="Memory of pipeline stages", groups=groups, skipped=sieve.skipped())


class _Layers:
    """What a layer of a training run holds on one device, by mode."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._captured = _captured(
            f"gpt:layers={CAPTURED_LAYERS},hidden={training.hidden},heads={training.heads},attention=written-out",
            training.microbatch,
        )
        self._models: dict[tuple[bool, RecomputePolicy], MemoryModel] = {}

    def kept(self, mode: str) -> int:
        """Activations that a layer keeps of one microbatch [bytes]."""
        return self._model(mode).activations.kept_bytes(LAYER, LAYER + 1)

    def first_stage_bytes(self, mode: str) -> float:
        """Activations of the layers of the first stage at its peak [bytes]."""
        run = self._training
        schedule = "1f1b" if run.chunks == 1 else f"interleaved:{run.chunks}"
        timeline = _simulated(schedule, run.pipeline, run.chunks, run.batch // run.microbatch)
        return float(timeline.peak_in_flight[0]) * run.layers / (run.pipeline * run.chunks) * self.kept(mode)

    def state_bytes(self) -> float:
        """Model state of the layers of a stage [bytes]."""
        state = self._model("none").model_state([LAYER], STATE.rule)
        return (state.weights + state.gradients + state.optimizer) * self._training.layers / self._training.pipeline

    def _model(self, mode: str) -> MemoryModel:
        chosen = sequence_parallel, policy = MODES[mode]
        if chosen not in self._models:
            part = shard(
                self._captured,
                tensor_plan_for(self._captured.info.name),
                devices=self._training.tensor,
                sequence_parallel=sequence_parallel,
            )
            self._models[chosen] = MemoryModel(segments(recompute(part.graph, policy).graph))
        return self._models[chosen]


def _captured(text: str, batch: int, seq_len: int | None = None) -> TrainingGraph:
    return capture(text, CaptureOptions(batch=batch, seq_len=seq_len))


def _simulated(
    schedule: str,
    stages: int,
    chunks: int,
    microbatches: int,
    kept: tuple[int, ...] = (),
    kept_for_weights: tuple[int, ...] = (),
) -> PipelineTimeline:
    """A pipeline of equal chunks, whose backward takes twice as long as forward."""
    count = stages * chunks
    return simulate(
        PipelineProblem(
            num_stages=stages,
            num_microbatches=microbatches,
            schedule=parse_schedule(schedule),
            forward_s=(1.0,) * count,
            input_gradient_s=(1.0,) * count,
            weight_gradient_s=(1.0,) * count,
            activation_bytes=kept,
            weight_activation_bytes=kept_for_weights,
        )
    )


# ------------------------------------------------------------------------------------------- measured pipelines


def _measured_pipelines(rows: list[Row], sieve: Sieve) -> Group:
    """Memory of the Zero Bubble runs: no tensor parallelism, embedding and head take the place of a layer each."""
    models: dict[str, MemoryModel] = {}
    points: dict[str, Point] = {}
    for row in rows:
        name = f"{row['model']}, {row['PP']} stages, {row['schedule']}"
        if row["set"] != "ZeroBubble_Table4" or name in points:
            continue
        if row["schedule"] not in SCHEDULES:
            sieve.out(f"schedule {row['schedule']} is not there")
            continue
        if row["model"] not in models:
            text = (
                f"gpt:layers={row['layers']},hidden={row['hidden']},heads={row['heads']},context={row['seq']},"
                "attention=written-out"
            )
            models[row["model"]] = MemoryModel(segments(_captured(text, int(row["MBS"]))))
        model = models[row["model"]]
        stages = int(row["PP"])
        points[name] = Point(
            name=name,
            measured=float(row["mem_GB"]),
            predicted=_peak_bytes(model, row) / GIB,
            baseline=18 * model.divided.graph.info.parameters / stages / GIB,
        )
    return Group(
        name="most memory of any device of a measured pipeline (arXiv 2401.10241, table 4)",
        unit="GiB",
        points=tuple(points.values()),
        baseline="18 bytes a parameter, no activations",
        note=(
            "That the table's GB are 2^30 bytes was assumed when the rows had been seen. Rows of one model and "
            "schedule differ in microbatches alone and count once."
        ),
    )


def _peak_bytes(model: MemoryModel, row: Row) -> float:
    """Most bytes of any stage; as many segments a stage as divide evenly, embedding and head among them."""
    stages, microbatches = int(row["PP"]), int(row["GBS"]) // int(row["MBS"])
    count = len(model.divided.segments)
    schedule = SCHEDULES[row["schedule"]]
    chunks = count // stages if schedule == "interleaved" else 1
    if chunks > 1:
        schedule = f"interleaved:{chunks}"
    size = count // (stages * chunks)
    runs = [(c * size, (c + 1) * size) for c in range(stages * chunks)]
    kept = tuple(model.activations.kept_bytes(*run) for run in runs)
    for_weights = tuple(model.activations.kept_for_weights_bytes(*run) for run in runs)
    timeline = _simulated(schedule, stages, chunks, microbatches, kept, for_weights)
    peaks = timeline.peak_activation_bytes
    return max(
        model.stage(runs[p::stages], [0] * chunks, STATE, activation_bytes=float(peaks[p])).total for p in range(stages)
    )
