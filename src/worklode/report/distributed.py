"""What `mine` prints for many devices: the single design, mixes of designs, stages, settings, the proof."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from worklode.report.quantity import MISSING, bandwidth, count, percent, plain, power, ratio, seconds, size
from worklode.report.rows import Document, Row
from worklode.report.table import comparison_table, infeasible_lines, listing, notes, title, top_k_table

if TYPE_CHECKING:
    from rich.console import RenderableType


def distributed_report(document: Document) -> Iterator[RenderableType]:
    """The lines of a document of `mine` for many devices."""
    from rich.text import Text

    best = document["best"]
    yield title("Mining", document)
    for setting in document["pipeline"]:
        yield Text(setting_line(setting), style="dim")
    if best is None:
        yield from infeasible_lines(document)
        return
    yield comparison_table(best, document.get("budget_baseline"), _ROWS)
    yield from _workloads(best)
    yield from _verdict(document)
    yield from top_k_table(document["top_k"], heading="Best designs, one for all stages")
    yield from _mixes(document)
    yield from _stages(document)
    yield from _settings(document.get("settings"))
    yield from _search(document)
    yield from notes(document)


def setting_line(setting: Document) -> str:
    """A setting in one line."""
    axes = " x ".join(f"{axis} {setting[axis]}" for axis in ("pipeline", "tensor", "data"))
    parts = [
        f"{setting['workload']}: {count(setting['devices'])} devices = {axes}",
        f"{setting['microbatches']} microbatches of {setting['microbatch']}",
        str(setting["schedule"]),
        f"recompute {setting['recompute']}",
    ]
    if setting["sequence_parallel"]:
        parts.append("sequence parallel")
    if setting["zero"]:
        parts.append(f"ZeRO-{setting['zero']}")
    if setting["network"]:
        parts.append(f"network {setting['network']}")
    return ", ".join(parts)


def _part(name: str) -> Row:
    def text(document: Document) -> str:
        time_s = document["parallel"]["time_parts_s"][name]
        return f"{seconds(time_s)} ({percent(time_s / document['iteration_time_s'])})"

    return Row(label=name.replace("_", " "), text=text)


def _fullest(document: Document) -> str:
    needs = [stage["stage_memory_bytes"] for stage in document["stages"]]
    worst = max(needs, key=lambda need: need["total"] / need["limit"])
    return f"{size(worst['total'])} of {size(worst['limit'])}" + ("" if worst["fits"] else " (does not fit)")


_ROWS = (
    Row(
        label="iteration time",
        text=lambda d: seconds(d["iteration_time_s"]),
        value=lambda d: d["iteration_time_s"],
        better=-1,
    ),
    Row(
        label="throughput",
        text=lambda d: plain("samples/s")(d["samples_per_s"]),
        value=lambda d: d["samples_per_s"],
        better=1,
    ),
    Row(
        label="throughput / TDP",
        text=lambda d: plain("samples/s/W")(d["samples_per_s_per_w"]),
        value=lambda d: d["samples_per_s_per_w"],
        better=1,
    ),
    Row(label="matrix FLOPs of peak", text=lambda d: percent(d["parallel"]["flops_utilization"])),
    *(
        _part(name)
        for name in (
            "compute",
            "tensor_communication",
            "pipeline_bubble",
            "point_to_point",
            "data_parallel",
            "optimizer",
        )
    ),
    Row(label="fullest stage", text=_fullest),
)


def _workloads(best: Document) -> Iterator[RenderableType]:
    """Every workload of a set on the best design."""
    rows = [
        {
            "workload": each["workload"]["name"],
            "iteration": seconds(each["iteration_time_s"]),
            "samples/s": plain("")(each["samples_per_s"]),
            "FLOPs of peak": percent(each["parallel"]["flops_utilization"]),
            "fits": "yes" if each["fits"] else "no",
        }
        for each in best.get("evaluations", ())
    ]
    if rows:
        yield ""
        yield listing(rows, right=("iteration", "samples/s", "FLOPs of peak"))


def _verdict(document: Document) -> Iterator[RenderableType]:
    from rich.text import Text

    sentences = []
    baseline = (document.get("budget_baseline") or {}).get("accelerator") or {}
    if document["improvement"] is not None:
        sentences.append(
            f"{ratio(document['improvement'])} better than {baseline.get('name') or 'the budget'} in "
            f"{document['objective']}."
        )
    gap = document["optimality_gap"]
    by = "" if gap <= 0 else f" by more than {percent(gap)}"
    sentences.append(f"Proven: no single design of this space, however it is scheduled, is better{by}.")
    if document["regret"]:
        kept = f"The best of the designs kept for single stages is {percent(document['regret'])} behind it."
        sentences.append(kept)
    yield Text("\n" + " ".join(sentences), style="bold green")


def _mixes(document: Document) -> Iterator[RenderableType]:
    """One design a stage."""
    from rich.text import Text

    mixed = document["heterogeneous"]
    if mixed is None:
        return
    rows = []
    for label, found in (("best", mixed["best"]), ("least TDP", mixed["least_tdp"])):
        if found is None:
            continue
        for place, each in enumerate(found["accelerators"]):
            rows.append(
                {
                    "one design a stage": label if place == 0 else "",
                    "stages": runs(each["stages"]),
                    **design_cells(each["accelerator"]),
                    "W": f"{each['accelerator']['tdp_w']:.0f}",
                    "iteration": seconds(found["iteration_time_s"]) if place == 0 else "",
                    "mean W": f"{found['mean_tdp_w']:.0f}" if place == 0 else "",
                    "per W": plain("")(found["samples_per_s_per_w"]) if place == 0 else "",
                }
            )
    yield ""
    yield listing(rows, right=("W", "iteration", "mean W", "per W"))
    gain = mixed["improvement_over_one_design"]
    better = "No mix found is better than one design" if gain <= 1 else f"{ratio(gain)} better than one design"
    yield Text(
        f"{better} in {document['objective']}; proven: no mix of this space is better by more than "
        f"{percent(mixed['optimality_gap'])}."
        + (
            f" Of {count(mixed['undecided'])} designs of less TDP it is not known whether they keep the pace."
            * bool(mixed["undecided"])
        ),
        style="dim",
    )


def _stages(document: Document) -> Iterator[RenderableType]:
    """The best design of every distinct stage by itself."""
    rows = []
    for each in document["stages"]:
        best = each["top_k"][0] if each["top_k"] else None
        rows.append(
            {
                "local search": each["workload"],
                "stages": runs(each["stages"]),
                "segments": " ".join(f"{chunk['first']}-{chunk['stop'] - 1}" for chunk in each["chunks"]),
                **(design_cells(best["accelerator"]) if best else dict.fromkeys(_CELLS, MISSING)),
                "microbatch": seconds(best["microbatch_time_s"]) if best else MISSING,
                "gap": percent(each["optimality_gap"]) if each["optimality_gap"] is not None else MISSING,
            }
        )
    yield ""
    yield listing(rows, right=("microbatch", "gap"))


_CELLS = ("tensor cores", "vector", "SRAM", "HBM")


def design_cells(accelerator: Document) -> dict[str, str]:
    """A design in four cells."""
    a = accelerator
    return {
        "tensor cores": f"{a['num_tensor_cores']}x{a['tensor_core_rows']}x{a['tensor_core_cols']}",
        "vector": f"{a['num_vector_cores']}x{a['vector_lanes']}",
        "SRAM": size(a["sram_bytes"]),
        "HBM": bandwidth(a["hbm_bytes_per_s"]),
    }


def runs(places: Sequence[int]) -> str:
    """Ascending numbers with runs written as first-last."""
    found: list[list[int]] = []
    for place in places:
        if found and place == found[-1][1] + 1:
            found[-1][1] = place
        else:
            found.append([place, place])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def _settings(settings: Mapping[str, Any] | None) -> Iterator[RenderableType]:
    """The settings that were compared, best first on the best design."""
    from rich.text import Text

    if settings is None:
        return
    rows = [
        {
            "setting": str(rank),
            "pipeline": str(each["pipeline"]),
            "tensor": str(each["tensor"]),
            "data": str(each["data"]),
            "microbatch": str(each["microbatch"]),
            "recompute": each["recompute"],
            "iteration": seconds(each["iteration_time_s"]),
            "fits": "yes" if each["fits"] else "no",
            "mined": "yes" if each["mined"] else "",
        }
        for rank, each in enumerate(settings["best"], start=1)
    ]
    yield ""
    yield listing(rows, right=("setting", "pipeline", "tensor", "data", "microbatch", "iteration"))
    refused = "; ".join(f"{count(each['count'])} {each['problem']}" for each in settings["refused"])
    yield Text(
        f"{count(settings['simulated'])} settings simulated, the best {count(settings['compared'])} compared on the "
        f"designs found for {settings['mined']} of them"
        + (f"; {count(settings['dominated'])} with needless recomputation left out" * bool(settings["dominated"]))
        + (f"; refused: {refused}" * bool(refused)),
        style="dim",
    )


def _search(document: Document) -> Iterator[RenderableType]:
    from rich.text import Text

    search = document["search"]
    left = f"{count(search['undecided'])} left" if search["undecided"] else "none left"
    yield Text(
        f"\nSearched {count(search['space_size'])} designs for all stages: {count(search['within_limits'])} of them "
        f"within the limits, {count(search['pruned'])} ruled out by bounds, {left}; {count(search['evaluated'])} "
        f"scheduled for stages and the whole, in {seconds(search['wall_time_s'])}.",
        style="dim",
    )
    limits = document["constraints"]
    memory = "no limit" if limits["hbm_bytes"] is None else f"at least {size(limits['hbm_bytes'])}"
    limit = "" if limits["tdp_w"] is None else f"; TDP at most {power(limits['tdp_w'])}"
    yield Text(f"HBM of a design: {memory}{limit}.", style="dim")
