"""Options of `mine` as they were typed, and what they mean once every fault of them was looked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from worklode.cli.faults import Faults
from worklode.cli.options import MemoryRule, ModeName
from worklode.errors import Fault, SpecError

if TYPE_CHECKING:
    from worklode.hardware.accelerator import Accelerator
    from worklode.hardware.space import DesignSpace
    from worklode.hardware.technology import Technology
    from worklode.search.objective import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class MineRequest:
    """Options of `mine` as they were typed."""

    budget: str | None
    area: str | None
    tdp: str | None
    memory: MemoryRule
    objective: str
    top_k: int
    space: Path | None
    max_time: str | None
    evaluations: int | None
    workers: int
    mode: ModeName
    technology: Path | None
    out: Path | None
    uncertain: bool = False
    weights: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a request means; None where it was not given."""

    baseline: Accelerator | None
    area_mm2: float | None
    tdp_w: float | None
    max_time_s: float | None
    objective: str | Objective
    constants: Technology | None
    space: DesignSpace
    weights: tuple[float, ...] | None


def checked(request: MineRequest, workloads: int, faults: Faults) -> Checked:
    """Read the values and files of a request; faults are collected, and the caller ends where there are any."""
    from worklode.hardware.presets import load_accelerator
    from worklode.hardware.space import default_space, load_space
    from worklode.hardware.technology import load_technology
    from worklode.search.objective import Objective
    from worklode.study.run_directory import check_destination
    from worklode.units import parse_area_mm2, parse_power_w, parse_time_s

    budget, area, tdp, space_file, max_time = (
        request.budget, request.area, request.tdp, request.space, request.max_time
    )  # fmt: skip
    baseline = None if budget is None else faults.collect(lambda: load_accelerator(budget, where="--budget"))
    area_mm2 = None if area is None else faults.collect(lambda: parse_area_mm2(area, where="--area"))
    tdp_w = None if tdp is None else faults.collect(lambda: parse_power_w(tdp, where="--tdp"))
    max_time_s = None if max_time is None else faults.collect(lambda: parse_time_s(max_time, where="--max-time"))
    objective = faults.collect(lambda: Objective.parse(request.objective))
    constants = faults.collect(lambda: load_technology(request.technology))
    if budget is None and area is None and tdp is None:
        faults.add("mine", "no silicon budget", "--budget PRESET, or --area and/or --tdp")
    faults.collect(lambda: check_destination(request.out))
    space = default_space(baseline)
    if space_file is not None:
        space = faults.collect(lambda: load_space(space_file, space)) or space
    weights = None if request.weights is None else faults.collect(lambda: _weights(request.weights or "", workloads))
    return Checked(
        baseline=baseline,
        area_mm2=area_mm2,
        tdp_w=tdp_w,
        max_time_s=max_time_s,
        objective=objective or request.objective,
        constants=constants,
        space=space,
        weights=weights,
    )


def _weights(text: str, workloads: int) -> tuple[float, ...]:
    """Numbers between commas, one for each workload.

    Raises:
        SpecError: a part that is no positive number, or too few or many.
    """
    from worklode.search.mining import check_weights

    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        allowed = "numbers between commas, such as 2,1"
        raise SpecError(Fault(where="--weights", value=repr(text), problem="is no list", allowed=allowed)) from None
    check_weights(found, workloads)
    return found
