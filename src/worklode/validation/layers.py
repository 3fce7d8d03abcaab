"""Suite `layer`: transformer layers timed on GPUs, operator by operator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from worklode.graph.work import WorkItem
from worklode.validation import measured_kernels, operators
from worklode.validation.gpu import (
    BASELINE,
    MICROSECOND,
    NO_PRESET,
    ROUNDED,
    VECTOR_COLUMNS,
    Measurement,
    groups,
    is_eager,
    least_s,
    rounded_away,
)
from worklode.validation.score import Group, Point, SuiteResult
from worklode.validation.tables import PRESET_OF_DEVICE, Row, Sieve, read_table

_LAYER_COLUMNS = ("device", "model", "phase", "operator", "time_us", "source")


def layer_measurements(folder: Path, sieve: Sieve) -> list[Measurement]:
    """Operators of transformer layers of layer_measured.csv."""
    floors = least_s(read_table(folder, "vector_measured.csv", VECTOR_COLUMNS))
    found = []
    for row in read_table(folder, "layer_measured.csv", _LAYER_COLUMNS):
        device, _, shards = row["device"].partition(" TP")
        device = re.sub(r"^\d+x", "", device)
        preset = PRESET_OF_DEVICE.get(device)
        kernels = layer_kernels(row, int(shards or 1))
        measured = float(row["time_us"]) * MICROSECOND
        if preset is None:
            sieve.out(NO_PRESET)
            continue
        if kernels is None:
            sieve.out("communication between chips, or an operator the suite does not know")
            continue
        if rounded_away(row):
            sieve.out(ROUNDED)
            continue
        operator, items = kernels
        eager = is_eager(row)
        floor = floors.get((device, operator), 0.0) if eager else 0.0
        harness = len(items) * measured_kernels.STATED_HARNESS_S.get(operator, EAGER_PRODUCT_S) if eager else 0.0
        if measured <= max(floor, harness):
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
                harness_s=harness,
                least_s=floor,
            )
        )
    return found


# What the eager program of LLMCompass spends on a product [s]: the middle of 21 to 25 us, as gemm_measured.csv states.
EAGER_PRODUCT_S = 23e-6
Kernels = tuple[str, tuple[WorkItem, ...]]


def layer_kernels(row: Row, shards: int) -> Kernels | None:
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
        "Softmax": ("softmax", (measured_kernels.eager_softmax(groups * queries, keys),)),
        "LayerNorm_MHA": ("layernorm", (operators.layer_norm(tokens, hidden),)),
        "LayerNorm_FFN": ("layernorm", (operators.layer_norm(tokens, hidden),)),
        "GeLU": ("gelu", (measured_kernels.tanh_gelu(tokens * 4 * width),)),
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
