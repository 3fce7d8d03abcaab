"""Suites of operators timed on GPUs: products, vector operators, attention, and layers operator by operator."""

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
from worklode.validation import operators
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
        harness_s: part of it that the measuring program spent, by its own smallest row or statement [s].
        fitted: a fit may see it.
    """

    group: str
    name: str
    preset: str
    items: tuple[WorkItem, ...]
    measured_s: float
    harness_s: float = 0.0
    fitted: bool = False


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
        """Predicted time of every measurement [s], harness included; a harness includes the starts of its kernels."""
        found = [0.0] * len(self.measurements)
        for preset, (indices, model) in self._of_preset.items():
            accelerator = accelerators[preset]
            times = alone_with(model, accelerator)
            at = 0
            for i in indices:
                m = self.measurements[i]
                total = float(times[at : at + len(m.items)].sum())
                at += len(m.items)
                if m.harness_s:
                    total += m.harness_s - len(m.items) * accelerator.operator_start_s
                found[i] = total
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
    total = sum(roofline_s(item, accelerator) for item in m.items)
    return total + m.harness_s - len(m.items) * ROOFLINE_START_S if m.harness_s else total


def _rounded_away(row: Row) -> bool:
    steps = [step for word, step in RESOLUTION_S.items() if word in row["source"]]
    return bool(steps) and float(row["time_us"]) * MICROSECOND < MOST_ROUNDING * max(steps)


_ROUNDED = "shorter than ten steps of the resolution its source states times in"
_NO_PRESET = "a device without a preset"
_HARNESS = "the smallest row of its operator, which tells what the measuring program spends"


# ------------------------------------------------------------------------------------------------------ products


def product_measurements(folder: Path, sieve: Sieve) -> list[Measurement]:
    """Matrix products of gemm_measured.csv."""
    needed = ("device", "op", "dtype", "batch", "M", "N", "K", "time_us", "launch_overhead", "source")
    found = []
    for row in read_table(folder, "gemm_measured.csv", needed):
        preset = PRESET_OF_DEVICE.get(row["device"])
        if preset is None:
            sieve.out(_NO_PRESET)
        elif row["op"] not in PRODUCT_OPERATORS or row["dtype"] not in DTYPES:
            sieve.out("not a plain product of 16-bit operands, or the best of many shapes")
        elif _rounded_away(row):
            sieve.out(_ROUNDED)
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


_VECTOR: Mapping[str, Callable[[int, int], WorkItem]] = {
    "softmax": operators.softmax,
    "layernorm": operators.layer_norm,
    "rmsnorm": operators.rms_norm,
    "gelu": lambda m, n: operators.gelu(m * n),
    "residual_add": lambda m, n: operators.add(m * n),
    "silu_and_mul": lambda m, n: operators.silu_and_multiply(m * n),
    "rope": lambda m, n: operators.rotary(m * n),
}
# Operators the target is for; the others are serving kernels, reported beside them.
_VECTOR_TARGET = ("softmax", "layernorm", "gelu", "rmsnorm")


def harness_s(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """What the measuring program spends per (device, operator) where launches are included: its smallest row [s]."""
    floors: dict[tuple[str, str], float] = {}
    for row in rows:
        if _eager(row):
            key, time_s = (row["device"], row["op"]), float(row["time_us"]) * MICROSECOND
            floors[key] = min(floors.get(key, time_s), time_s)
    return floors


def _eager(row: Row) -> bool:
    return "LLMCompass" in row["source"]


_VECTOR_COLUMNS = ("device", "op", "dtype", "M", "N", "time_us", "source")


def vector_measurements(folder: Path, sieve: Sieve, *, least_multiple: float = 1.0) -> list[Measurement]:
    """Vector operators of vector_measured.csv.

    Args:
        folder: of the tables.
        sieve: counts what is left out.
        least_multiple: rows of at most this many times what the measuring program spends are left out.
    """
    rows = read_table(folder, "vector_measured.csv", _VECTOR_COLUMNS)
    floors = harness_s(rows)
    found = []
    for row in rows:
        preset, operator = PRESET_OF_DEVICE.get(row["device"]), row["op"]
        measured = float(row["time_us"]) * MICROSECOND
        floor = floors.get((row["device"], operator), 0.0) if _eager(row) else 0.0
        if preset is None:
            sieve.out(_NO_PRESET)
        elif operator not in _VECTOR or row["dtype"] not in DTYPES:
            sieve.out("an operator or element type the suite does not know")
        elif _rounded_away(row):
            sieve.out(_ROUNDED)
        elif floor and measured <= least_multiple * floor:
            sieve.out(_HARNESS)
        else:
            kind = "softmax, norms, GELU" if operator in _VECTOR_TARGET else "serving kernels (no target)"
            found.append(
                Measurement(
                    group=f"{row['device']}, {kind}",
                    name=f"{operator} {row['M']}x{row['N']}",
                    preset=preset,
                    items=(_VECTOR[operator](int(row["M"]), int(row["N"])),),
                    measured_s=measured,
                    harness_s=floor,
                    fitted=fitted_half(row),
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
            sieve.out(_NO_PRESET)
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


# ---------------------------------------------------------------------------------------------------------- layers

_LAYER_COLUMNS = ("device", "model", "phase", "operator", "time_us", "source")


def layer_measurements(folder: Path, sieve: Sieve) -> list[Measurement]:
    """Operators of transformer layers of layer_measured.csv."""
    floors = harness_s(read_table(folder, "vector_measured.csv", _VECTOR_COLUMNS))
    found = []
    for row in read_table(folder, "layer_measured.csv", _LAYER_COLUMNS):
        device, _, shards = row["device"].partition(" TP")
        device = re.sub(r"^\d+x", "", device)
        preset = PRESET_OF_DEVICE.get(device)
        kernels = _layer_kernels(row, int(shards or 1))
        measured = float(row["time_us"]) * MICROSECOND
        if preset is None:
            sieve.out(_NO_PRESET)
            continue
        if kernels is None:
            sieve.out("communication between chips, or an operator the suite does not know")
            continue
        if _rounded_away(row):
            sieve.out(_ROUNDED)
            continue
        operator, items = kernels
        eager = _eager(row)
        floor = len(items) * floors.get((device, operator), EAGER_PRODUCT_S) if eager else 0.0
        if measured <= floor:
            sieve.out("the measuring program takes all of the time")
            continue
        group = f"{row['device']}, {row['model'].split(' (')[0]}, {row['phase'].split(' ')[0]}"
        found.append(
            Measurement(
                group=group,
                name=row["operator"],
                preset=preset,
                items=items,
                measured_s=measured,
                harness_s=floor,
            )
        )
    return found


# What the eager program of LLMCompass spends on a product [s]: the middle of 21 to 25 us, as gemm_measured.csv states.
EAGER_PRODUCT_S = 23e-6
Kernels = tuple[str, tuple[WorkItem, ...]]


def _layer_kernels(row: Row, shards: int) -> Kernels | None:
    """Kernels of one operator of a layer by its name, with the name of the vector operator or "product"."""
    sizes = {key: int(value) for key, value in re.findall(r"\b([a-z]+)=(\d+)", row["model"] + "," + row["phase"])}
    operator = row["operator"]
    if "a" in sizes and "h" in sizes and " " not in operator:
        return _named_kernels(operator, row["phase"], sizes, shards)
    return _spelled_kernels(operator)


def _named_kernels(operator: str, phase: str, sizes: Mapping[str, int], shards: int) -> Kernels | None:
    """GPT-3's layer as LLMCompass measured it: Q, K and V apart, attention written out, `shards` of tensor parallel."""
    hidden, heads, batch = sizes["h"], sizes["a"] // shards, sizes.get("b", 1)
    context = re.search(r"context (\d+)", phase)
    queries, keys = (1, int(context.group(1))) if context else (sizes["s"], sizes["s"])
    tokens, dim, width = batch * queries, hidden // sizes["a"], hidden // shards
    groups = batch * heads
    product = operators.product
    kernels: Mapping[str, Kernels] = {
        "Q_K_V": ("product", (product(tokens, width, hidden),) * 3),
        "Q_mul_K": ("product", (product(queries, keys, dim, groups),)),
        "A_mul_V": ("product", (product(queries, dim, keys, groups),)),
        "Wo_proj": ("product", (product(tokens, hidden, width),)),
        "W1_proj": ("product", (product(tokens, 4 * width, hidden),)),
        "W2_proj": ("product", (product(tokens, hidden, 4 * width),)),
        "Softmax": ("softmax", (operators.softmax(groups * queries, keys),)),
        "LayerNorm_MHA": ("layernorm", (operators.layer_norm(tokens, hidden),)),
        "LayerNorm_FFN": ("layernorm", (operators.layer_norm(tokens, hidden),)),
        "GeLU": ("gelu", (operators.gelu(tokens * 4 * width),)),
    }
    return kernels.get(operator)


def _spelled_kernels(operator: str) -> Kernels | None:
    """Operators whose sizes are in their name: `mlp_h_to_4h 4x4096x16384, b=2048`."""
    name, _, rest = operator.partition(" ")
    numbers = [int(number) for number in re.findall(r"\d+", rest)]
    if name in {"attention_score", "attention_over_value"} and len(numbers) == 4:
        batch, m, k, n = numbers
        return "product", (operators.product(m, n, k, batch),)
    if name == "logit_block" and len(numbers) == 4:
        batch, n, k, seq = numbers
        return "product", (operators.product(batch * seq, n, k),)
    if "b=" in rest and len(numbers) == 4:
        batch, k, n, seq = numbers
        return "product", (operators.product(batch * seq, n, k),)
    elements = int(np.prod(numbers)) if numbers else 0
    if name == "attention_softmax" and elements:
        return "softmax", (operators.softmax(elements // numbers[-1], numbers[-1]),)
    return None


def layer(folder: Path) -> SuiteResult:
    """Suite `layer`: operators one by one, and the sum of each layer."""
    sieve = Sieve()
    found = groups(layer_measurements(folder, sieve), target=0.15)
    totals = [
        Point(
            name=group.name,
            measured=sum(p.measured for p in group.points),
            predicted=sum(p.predicted for p in group.points),
            baseline=sum(p.baseline or 0.0 for p in group.points),
        )
        for group in found
    ]
    whole = Group(name="whole layers", unit="s", points=tuple(totals), baseline=BASELINE, target=0.15)
    return SuiteResult(
        suite="layer",
        title="Transformer layers timed on GPUs, operator by operator",
        groups=(*found, whole) if found else (),
        skipped=sieve.skipped(),
    )


def _sorted(found: Sequence[Group]) -> tuple[Group, ...]:
    return tuple(sorted(found, key=lambda group: ("(no target)" in group.name, group.name)))
