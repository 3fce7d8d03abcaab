"""Why designs on many devices gain what they gain, in sentences computed from the rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from worklode.report.quantity import percent, plain, ratio, seconds, size

Document = Mapping[str, Any]

OBJECTIVES = ("throughput", "throughput/tdp")
INDIVIDUAL, COMMON, MIX, LEAST_TDP, ONE_DEVICE = (
    "individual",
    "common",
    "heterogeneous",
    "heterogeneous, least TDP",
    " of one device",
)
# Ratios that differ less from 1 are no gain worth a reason [1]; assumption: they are printed with three digits.
NOTHING = 5e-3
# Share of a limit from which on it is said to limit a design [1]; assumption: the next core would not fit any more.
NEAR = 0.98


def reasons(found: Document) -> Iterator[str]:
    """Sentences, each an item of a list."""
    rows = {(row["model"], row["objective"], row["design"]): row for row in found["designs"]}
    budgets = {row["model"]: row for row in reversed(found["designs"])}  # the budget's own comes first of a model
    models = [setting for setting in found["settings"] if (setting["model"], "throughput", INDIVIDUAL) in rows]
    if models:
        yield _over_paper(found, rows, budgets, [setting["model"] for setting in models])
    for setting in models:
        yield _gain(found, setting, rows, budgets[setting["model"]])
    for setting in models:
        yield from _mix(found, setting["model"], rows)
    yield from _common(found, rows, [setting["model"] for setting in models])
    yield from _one_device(found, rows)
    yield _memory(found, budgets)
    yield from _heuristic(found)


def _over_paper(found: Document, rows: Mapping[Any, Document], budgets: Document, models: Sequence[str]) -> str:
    peaks, shares = [], []
    for model in models:
        row, base = rows[model, "throughput", INDIVIDUAL], budgets[model]
        peaks.append(row["peak_matrix_flops_per_s"] / base["peak_matrix_flops_per_s"])
        shares.append(row["matrix_flops_utilization"] / base["matrix_flops_utilization"])
    headline = found["headlines"][0]
    mean = statistics.geometric_mean
    return (
        f"The paper's designs are {ratio(headline['paper'])} as fast as TPU, these {ratio(headline['ours'])} "
        f"(geometric mean): {ratio(mean(peaks))} the matrix peak of the budget's own design within the same area and "
        f"TDP, at {ratio(mean(shares))} its utilisation. How far the paper's space and constants let a design leave "
        "the proportions of TPU is not known here; in ours SRAM, lanes and HBM stacks may shrink as far as one model "
        "bears."
    )


def _gain(found: Document, setting: Document, rows: Mapping[Any, Document], base: Document) -> str:
    """Peak and utilisation, where watts go, what stages wait for, what the network takes."""
    model = setting["model"]
    row = rows[model, "throughput", INDIVIDUAL]
    ours, theirs = _stages(found, model, INDIVIDUAL)[0], _stages(found, model, base["design"])[0]
    tdp, area = row["mean_tdp_w"] / base["mean_tdp_w"], row["mean_area_mm2"] / base["mean_area_mm2"]
    binds = "TDP" if tdp >= area else "area"
    limit = f": {binds} is what limits it" if max(tdp, area) >= NEAR else ""
    watts = ", ".join(
        f"{label} {plain('')(ours[f'{part}_tdp_w'])} for {plain('')(theirs[f'{part}_tdp_w'])}"
        for part, label in _PARTS.items()
    )
    peak = row["peak_matrix_flops_per_s"] / base["peak_matrix_flops_per_s"]
    use = row["matrix_flops_utilization"] / base["matrix_flops_utilization"]
    return (
        f"{model}, {ratio(row['over_budget_throughput'])}: {ratio(peak)} the matrix peak at {ratio(use)} the "
        f"utilisation. It has {percent(tdp)} of the budget's TDP and {percent(area)} of its area{limit}. W, ours for "
        f"{base['design']}'s: {watts}. {_waits(setting, row)} The network, which no chip shortens, takes "
        f"{percent(_network(row))} of the iteration ({base['design']}: {percent(_network(base))})."
    )


_PARTS = {"tensor_cores": "tensor cores", "vector_cores": "vector cores", "sram": "SRAM", "hbm": "HBM"}


def _waits(setting: Document, row: Document) -> str:
    """Filling and draining, and the slowest stage."""
    depth, batches = setting["pipeline"], setting["microbatches"]
    least = (depth - 1) / (batches + depth - 1)
    bubble = row["pipeline_bubble_share"]
    text = (
        f"Stages wait for {percent(bubble)} of the iteration. Filling and draining would be {percent(least)} with "
        f"{depth} equal stages and {batches} microbatches, whatever the chip"
    )
    slow = row["slowest_over_median"]
    if slow <= 1.0 + NOTHING:
        return text + "."
    stage = row["slowest_stage"]
    place = {0: " (it has the embedding)", depth - 1: " (it has the head over the vocabulary)"}.get(stage, "")
    text += f"; the rest is waiting for stage {stage}{place}, which works {ratio(slow)} as long as the median stage"
    return text + ": stages have equally many blocks where these come out even."


def _mix(found: Document, model: str, rows: Mapping[Any, Document]) -> Iterator[str]:
    """What a design for each distinct stage adds, and why."""
    one, mix = rows[model, "throughput", INDIVIDUAL], rows.get((model, "throughput", MIX))
    if mix is None:
        return
    gain = one["iteration_time_s"] / mix["iteration_time_s"]
    text = f"{model}, a design for each distinct stage: {ratio(gain)} the throughput of one for all"
    slowest = next(row for row in _stages(found, model, MIX) if _holds(row["stages"], one["slowest_stage"]))
    alike = next(row for row in _stages(found, model, INDIVIDUAL) if row["stages"] == slowest["stages"])
    fullest = max(_stages(found, model, INDIVIDUAL), key=lambda row: row["memory_bytes"])
    if gain <= 1.0 + NOTHING:
        text += f". Stage {slowest['stages']} is the slowest and sets the pace, and one design for all is made for it"
    elif slowest["hbm_stacks"] < alike["hbm_stacks"] and fullest["memory_bytes"] > slowest["hbm_bytes"]:
        text += (
            f". One for all has {alike['hbm_stacks']} stacks of HBM, for stage {fullest['stages']} needs "
            f"{size(fullest['memory_bytes'])}; stage {slowest['stages']}, the slowest, needs "
            f"{size(slowest['memory_bytes'])}, has {slowest['hbm_stacks']}, and works {seconds(slowest['busy_s'])} "
            f"instead of {seconds(alike['busy_s'])}"
        )
    else:
        text += (
            f". Stage {slowest['stages']}, the slowest, works {seconds(slowest['busy_s'])} on its own design, "
            f"{seconds(alike['busy_s'])} on that for all"
        )
    cheap = rows.get((model, "throughput", LEAST_TDP))
    if cheap is not None and cheap["mean_tdp_w"] < one["mean_tdp_w"] * (1.0 - NOTHING):
        longer = cheap["iteration_time_s"] / one["iteration_time_s"]
        text += (
            f". With designs of least TDP at the pace of the slowest a device has {plain('W')(cheap['mean_tdp_w'])} in "
            f"the mean instead of {plain('W')(one['mean_tdp_w'])}, at {ratio(longer)} the iteration time"
        )
    saved = rows.get((model, "throughput/tdp", MIX))
    alone = rows.get((model, "throughput/tdp", INDIVIDUAL))
    if saved is not None and alone is not None:
        text += f". Per TDP mixes gain {ratio(saved['samples_per_s_per_w'] / alone['samples_per_s_per_w'])}"
    yield text + "."


def _common(found: Document, rows: Mapping[Any, Document], models: Sequence[str]) -> Iterator[str]:
    behind = {
        model: rows[model, "throughput", COMMON]["samples_per_s"]
        / rows[model, "throughput", INDIVIDUAL]["samples_per_s"]
        for model in models
        if (model, "throughput", COMMON) in rows
    }
    if not behind:
        return
    held = {tuple(each["models"]): each["hbm_bytes"] for each in found["searches"] if each["objective"] == "throughput"}
    most = max(held, key=len)
    needs = ", ".join(f"{model} {size(held[(model,)])}" for model in behind if held.get((model,)))
    text = f"One design for all models has {_list(behind, ratio)} the throughput of each one's own"
    if held[most] and needs:
        text += f". It holds the fullest stage of all, {size(held[most])}; alone they need: {needs}"
    yield text + "."


def _one_device(found: Document, rows: Mapping[Any, Document]) -> Iterator[str]:
    """Designs found without the pipeline."""
    shares = {
        model: row["samples_per_s"] / rows[model, objective, INDIVIDUAL]["samples_per_s"]
        for (model, objective, design), row in rows.items()
        if design == INDIVIDUAL + ONE_DEVICE and objective == "throughput" and (model, objective, INDIVIDUAL) in rows
    }
    if not shares:
        return
    seen = [row for row in found["designs"] if row["design"].endswith(ONE_DEVICE) and row["objective"] == "throughput"]
    short = [f"{row['design'].removesuffix(ONE_DEVICE)} on {row['model']}" for row in seen if not row["fits"]]
    text = (
        f"What `mine` finds on one device has {_list(shares, ratio)} the throughput of the design mined for the "
        "pipeline: it sees the whole model, not the slowest stage, nor what a stage must hold"
    )
    if short:
        text += (
            f". {len(short)} of {len(seen)} designs of one device do not hold every stage ({', '.join(short)}); their "
            "figures are as if they did"
        )
    yield text + "."


def _memory(found: Document, budgets: Mapping[str, Document]) -> str:
    short = [model for model, row in budgets.items() if not row["fits"]]
    name = next(iter(budgets.values()))["design"]
    if short:
        return (
            f"The HBM of {name} does not hold every stage of {', '.join(short)}: memory is no limit of a design there."
        )
    return f"The HBM of {name} holds every stage of every model, so every mined design has to, too."


def _heuristic(found: Document) -> Iterator[str]:
    known = [each for each in found["searches"] if each["regret"] is not None]
    if not known:
        return
    worst = max(known, key=lambda each: each["regret"])
    mixes = [each["mix_gap"] for each in found["searches"] if each["mix_gap"] is not None]
    where = f" ({', '.join(worst['models'])}, {worst['objective']})" if worst["regret"] > 0 else ""
    text = (
        f"Heuristic against exact: the best of the {worst['kept_per_stage']} designs kept for each distinct stage, "
        f"chosen for the whole iteration, is at most {percent(worst['regret'])} behind the search over the whole "
        f"space{where}, and that at most {percent(max(each['gap'] for each in known))} from the optimum"
    )
    if mixes:
        text += f"; mixes at most {percent(max(mixes))}"
    cpu_s = [each["cpu_s"] for each in known]
    yield (
        text + f". Searches with their proofs took {seconds(min(cpu_s))} to {seconds(max(cpu_s))} of CPU time. "
        "Spotlight searches for one device: the paper's ratio of search times has no counterpart here."
    )


def _network(row: Document) -> float:
    return float(row["tensor_communication_share"] + row["point_to_point_share"])


def _stages(found: Document, model: str, design: str) -> list[Document]:
    rows = [row for row in found["stages"] if row["model"] == model and row["objective"] == "throughput"]
    return [row for row in rows if row["design"] == design]


def _holds(stages: str, stage: int) -> bool:
    """Whether a text such as `0 3-6` names a stage."""
    for run in stages.split():
        first, _, last = run.partition("-")
        if int(first) <= stage <= int(last or first):
            return True
    return False


def _list(figures: Mapping[str, float], write: Any) -> str:
    return ", ".join(f"{write(value)} ({name})" for name, value in figures.items())
