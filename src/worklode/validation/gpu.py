"""Suites of operators timed on GPUs: products, vector operators, attention. Layers are in `validation.layers`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worklode.cost.model import CostModel
from worklode.graph.work import WorkItem
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.presets import load_preset
from worklode.validation import measured_kernels, operators
from worklode.validation.operators import ROOFLINE_START_S, alone_with, roofline_s
from worklode.validation.score import Group, Point, SuiteResult
from worklode.validation.tables import PRESET_OF_DEVICE, Row, Sieve, fitted_half, read_table

BASELINE = "roofline + 5 us"
MICROSECOND = 1e-6
DTYPES = {"fp16": "float16", "bf16": "bfloat16"}
# Products below this are dominated by what starts a kernel; the published comparisons leave them out [FLOP].
LARGE_PRODUCT_FLOPS = 1e9
LARGE, SMALL = "from 1 GFLOP", "below 1 GFLOP (no target)"
# Steps in which some sources state times [s], by a word of their source; below ten steps nothing is compared.
RESOLUTION_S = {"vidur": 1e-6, "transformer.out": 1e-4}
MOST_ROUNDING = 10
# What measures takes longer than what is measured where a time is below this many times the harness [1].
LEAST_HARNESS_MULTIPLE = 2.0
PRODUCT_OPERATORS = {"gemm", "bmm", "attn_out_proj", "mlp_down", "mlp_gate_up", "qkv_proj"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A timed operator.

    Attributes:
        group: what it is reported with.
        preset: the accelerator it ran on.
        items: its kernels, one after the other.
        measured_s: as stated [s].
        harness_s: part of it that the measuring program spends beyond its kernels, by its own statement [s]. It holds
            the starts of the kernels.
        least_s: what it takes at least, by its smallest row [s]: what a program does after it has started a kernel
            hides behind a long one and shows behind a short one.
        fitted: a fit may see it.
    """

    group: str
    name: str
    preset: str
    items: tuple[WorkItem, ...]
    measured_s: float
    harness_s: float = 0.0
    least_s: float = 0.0
    fitted: bool = False

    def stated_s(self, kernels_s: float, start_s: float) -> float:
        """What the measuring program would state for kernels that take `kernels_s` with starts of `start_s` [s]."""
        if self.harness_s:
            kernels_s += self.harness_s - len(self.items) * start_s
        return max(self.least_s, kernels_s)


class Predictor:
    """Predictions of a set of measurements for any efficiency constants; their costs are tabulated once."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self.measurements = tuple(measurements)
        self._of_preset: dict[str, tuple[list[int], CostModel]] = {}
        for preset in dict.fromkeys(m.preset for m in measurements):
            indices = [i for i, m in enumerate(measurements) if m.preset == preset]
            items = [item for i in indices for item in measurements[i].items]
            self._of_preset[preset] = (indices, CostModel(items))

    def predict_s(self, accelerators: Mapping[str, Accelerator]) -> list[float]:
        """Predicted time of every measurement [s], with what the measuring program adds."""
        found = [0.0] * len(self.measurements)
        for preset, (indices, model) in self._of_preset.items():
            accelerator = accelerators[preset]
            times = alone_with(model, accelerator)
            at = 0
            for i in indices:
                m = self.measurements[i]
                total = float(times[at : at + len(m.items)].sum())
                at += len(m.items)
                found[i] = m.stated_s(total, accelerator.operator_start_s)
        return found


def groups(
    measurements: Sequence[Measurement], *, target: float | None = None, notes: Mapping[str, str] | None = None
) -> tuple[Group, ...]:
    """Predictions of the presets beside the measurements, group by group."""
    accelerators = {m.preset: load_preset(m.preset) for m in measurements}
    predicted = Predictor(measurements).predict_s(accelerators)
    made = []
    for name in dict.fromkeys(m.group for m in measurements):
        points = tuple(
            Point(
                name=m.name,
                measured=m.measured_s,
                predicted=predicted[i],
                baseline=_baseline_s(m, accelerators[m.preset]),
                fitted=m.fitted,
            )
            for i, m in enumerate(measurements)
            if m.group == name
        )
        goal = None if "(no target)" in name or "not stated" in name else target
        note = (notes or {}).get(name, "")
        made.append(Group(name=name, unit="s", points=points, baseline=BASELINE, target=goal, note=note))
    return tuple(made)


def _baseline_s(m: Measurement, accelerator: Accelerator) -> float:
    return m.stated_s(sum(roofline_s(item, accelerator) for item in m.items), ROOFLINE_START_S)


def rounded_away(row: Row) -> bool:
    """Whether a source states times in steps that are too coarse for this row."""
    steps = [step for word, step in RESOLUTION_S.items() if word in row["source"]]
    return bool(steps) and float(row["time_us"]) * MICROSECOND < MOST_ROUNDING * max(steps)


ROUNDED = "shorter than ten steps of the resolution its source states times in"
NO_PRESET = "a device without a preset"
_HARNESS = "the smallest row of its operator, which tells what the measuring program spends"


# ------------------------------------------------------------------------------------------------------ products


def product_measurements(folder: Path, sieve: Sieve) -> list[Measurement]:
    """Matrix products of gemm_measured.csv."""
    needed = ("device", "op", "dtype", "batch", "M", "N", "K", "time_us", "launch_overhead", "source")
    found = []
    for row in read_table(folder, "gemm_measured.csv", needed):
        preset = PRESET_OF_DEVICE.get(row["device"])
        if preset is None:
            sieve.out(NO_PRESET)
        elif row["op"] not in PRODUCT_OPERATORS or row["dtype"] not in DTYPES:
            sieve.out("not a plain product of 16-bit operands, or the best of many shapes")
        elif rounded_away(row):
            sieve.out(ROUNDED)
        else:
            batch, m, n, k = (int(float(row[name])) for name in ("batch", "M", "N", "K"))
            large = 2.0 * batch * m * n * k >= LARGE_PRODUCT_FLOPS
            found.append(
                Measurement(
                    group=f"{row['device']}, {LARGE if large else SMALL}",
                    name=f"{batch}x{m}x{n}x{k} {row['dtype']}",
                    preset=preset,
                    items=(operators.product(m, n, k, batch, DTYPES[row["dtype"]]),),
                    measured_s=float(row["time_us"]) * MICROSECOND,
                    harness_s=_stated_harness_s(row["launch_overhead"]),
                    fitted=fitted_half(row),
                )
            )
    return found


def _stated_harness_s(text: str) -> float:
    """`included (~21-25 us framework)`: the middle [s]; 0 where it is excluded or not stated."""
    numbers = [float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)] if text.startswith("included") else []
    return float(np.mean(numbers)) * MICROSECOND if numbers else 0.0


def gemm(folder: Path) -> SuiteResult:
    """Suite `gemm`."""
    sieve = Sieve()
    found = groups(product_measurements(folder, sieve), target=0.10)
    return SuiteResult(
        suite="gemm", title="Matrix products timed on GPUs", groups=_sorted(found), skipped=sieve.skipped()
    )


# ----------------------------------------------------------------------------------------------- vector operators


Kernel = Callable[[int, int, Accelerator], WorkItem]
# What the program of LLMCompass runs, by its source: an eager softmax, and LayerNorm and GELU compiled by PyTorch.
_EAGER: Mapping[str, Kernel] = {
    "softmax": lambda m, n, _: measured_kernels.eager_softmax(m, n),
    "layernorm": lambda m, n, _: operators.layer_norm(m, n),
    "gelu": lambda m, n, _: measured_kernels.tanh_gelu(m * n),
}
# What that of Vidur runs: kernels of vLLM, one after the other, each on what the one before has just written.
_SERVING: Mapping[str, Kernel] = {
    "rmsnorm": measured_kernels.serving_rms_norm,
    "residual_add": measured_kernels.serving_add,
    "silu_and_mul": measured_kernels.serving_silu_and_multiply,
    "rope": measured_kernels.serving_rotary,
}
# Operators the target is for; the others are serving kernels, reported beside them.
_VECTOR_TARGET = ("softmax", "layernorm", "gelu", "rmsnorm")


def least_s(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """What an eager program takes at least for an operator on a device: its smallest row [s]."""
    floors: dict[tuple[str, str], float] = {}
    for row in rows:
        if is_eager(row):
            key, time_s = (row["device"], row["op"]), float(row["time_us"]) * MICROSECOND
            floors[key] = min(floors.get(key, time_s), time_s)
    return floors


def is_eager(row: Row) -> bool:
    """Whether a row is of LLMCompass, which times calls from a Python program."""
    return "LLMCompass" in row["source"]


VECTOR_COLUMNS = ("device", "op", "dtype", "M", "N", "time_us", "source")


def vector_measurements(folder: Path, sieve: Sieve, *, least_multiple: float = 1.0) -> list[Measurement]:
    """Vector operators of vector_measured.csv.

    Args:
        folder: of the tables.
        sieve: counts what is left out.
        least_multiple: rows of at most this many times what the measuring program spends are left out.
    """
    rows = read_table(folder, "vector_measured.csv", VECTOR_COLUMNS)
    floors = least_s(rows)
    found = []
    for row in rows:
        preset, operator = PRESET_OF_DEVICE.get(row["device"]), row["op"]
        measured = float(row["time_us"]) * MICROSECOND
        floor = floors.get((row["device"], operator), 0.0) if is_eager(row) else 0.0
        kernel = (_EAGER if is_eager(row) else _SERVING).get(operator)
        if preset is None:
            sieve.out(NO_PRESET)
        elif kernel is None or row["dtype"] not in DTYPES:
            sieve.out("an operator or element type the suite does not know")
        elif rounded_away(row):
            sieve.out(ROUNDED)
        elif floor and measured <= least_multiple * floor:
            sieve.out(_HARNESS)
        else:
            kind = "softmax, norms, GELU" if operator in _VECTOR_TARGET else "serving kernels (no target)"
            found.append(
                Measurement(
                    group=f"{row['device']}, {kind}",
                    name=f"{operator} {row['M']}x{row['N']}",
                    preset=preset,
                    items=(kernel(int(row["M"]), int(row["N"]), load_preset(preset)),),
                    measured_s=measured,
                    harness_s=measured_kernels.STATED_HARNESS_S[operator] if floor else 0.0,
                    least_s=floor,
                )
            )
    return found


def vector(folder: Path) -> SuiteResult:
    """Suite `vector`."""
    sieve = Sieve()
    found = groups(vector_measurements(folder, sieve), target=0.15)
    strict = groups(vector_measurements(folder, Sieve(), least_multiple=LEAST_HARNESS_MULTIPLE), target=0.15)
    renamed = [replace(group, name=f"{group.name}; at least half of it the chip's") for group in strict]
    only = [group for group in renamed if "softmax" in group.name and _differs(group, found)]
    return SuiteResult(
        suite="vector", title="Vector operators timed on GPUs", groups=_sorted([*found, *only]), skipped=sieve.skipped()
    )


def _differs(group: Group, others: Sequence[Group]) -> bool:
    return all(len(group.points) != len(other.points) for other in others)


# ------------------------------------------------------------------------------------------------------ attention


def attention_measurements(folder: Path, sieve: Sieve) -> list[Measurement]:
    """Fused causal attention of attention_measured.csv.

    The measuring program (collector/trtllm/collect_attn.py of ai-dynamo/aiconfigurator) times the attention operator of
    a serving engine with packed Q, K, V, rotary embedding and a key-value cache. That is three kernels: offsets of the
    sequences; rotary embedding and the cache, which moves six tensors where attention itself moves four; attention.
    """
    needed = ("device", "op", "dtype", "batch", "seq", "heads", "head_dim", "time_us", "source")
    found = []
    for row in read_table(folder, "attention_measured.csv", needed):
        preset = PRESET_OF_DEVICE.get(row["device"])
        if preset is None:
            sieve.out(NO_PRESET)
        elif row["op"] != "causal_flash_attention_fwd" or row["dtype"] not in DTYPES:
            sieve.out("not causal attention of 16-bit operands, forward")
        else:
            batch, seq, heads, dim = (int(float(row[name])) for name in ("batch", "seq", "heads", "head_dim"))
            large = 2.0 * batch * heads * seq * seq * dim >= LARGE_PRODUCT_FLOPS
            found.append(
                Measurement(
                    group=f"{row['device']}, {LARGE if large else SMALL}",
                    name=f"batch {batch}, {heads} heads of {dim}, sequence {seq}",
                    preset=preset,
                    items=(
                        operators.sequence_offsets(batch),
                        operators.rotary_into_cache(batch, heads, seq, dim, DTYPES[row["dtype"]]),
                        operators.causal_attention(batch, heads, seq, dim, DTYPES[row["dtype"]]),
                    ),
                    measured_s=float(row["time_us"]) * MICROSECOND,
                    fitted=fitted_half(row),
                )
            )
    return found


def attention(folder: Path) -> SuiteResult:
    """Suite `attention`."""
    sieve = Sieve()
    found = groups(attention_measurements(folder, sieve), target=0.15)
    return SuiteResult(
        suite="attention", title="Causal attention timed on GPUs", groups=_sorted(found), skipped=sieve.skipped()
    )


def _sorted(found: Sequence[Group]) -> tuple[Group, ...]:
    return tuple(sorted(found, key=lambda group: ("(no target)" in group.name, group.name)))
