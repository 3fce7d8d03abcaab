"""Why no design of a space keeps the limits, and the smallest change that would let one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from worklode.hardware.area import area_parts
from worklode.hardware.power import tdp_parts
from worklode.hardware.space import DesignSpace
from worklode.hardware.technology import Technology
from worklode.search.objective import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Infeasible:
    """One limit that no design keeps together with the others.

    Attributes:
        constraint: `area_mm2`, `tdp_w` or `hbm_bytes`.
        demand: the least (for HBM: what the training step needs) that any design asks for, the other limits kept.
        limit: what was allowed (for HBM: the most that any design within the other limits has).
        remedy: the change that makes it feasible, a sentence.
    """

    constraint: str
    demand: float
    limit: float
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"constraint": self.constraint, "demand": self.demand, "limit": self.limit, "remedy": self.remedy}


def explain_infeasible(space: DesignSpace, technology: Technology, limits: Limits) -> tuple[Infeasible, ...]:
    """Every way out by changing one limit alone, or both together where no single one helps; empty where feasible."""
    mesh = space.mesh()
    area = np.broadcast_to(np.asarray(area_parts(mesh, technology).total, np.float64), space.shape)
    power = np.broadcast_to(np.asarray(tdp_parts(mesh, technology).total, np.float64), space.shape)
    capacity = np.broadcast_to(mesh.hbm_stacks * float(space.hbm_stack_bytes), space.shape)
    keeps = {
        "area_mm2": area <= limits.area_mm2,
        "tdp_w": power <= limits.tdp_w,
        "hbm_bytes": capacity >= limits.hbm_bytes,
    }
    if np.logical_and.reduce(list(keeps.values())).any():
        return ()
    found = []
    for name, values, limit, text in (
        ("area_mm2", area, limits.area_mm2, "raise the area limit to {:.4g} mm2"),
        ("tdp_w", power, limits.tdp_w, "raise the power limit to {:.4g} W"),
    ):
        others = np.logical_and.reduce([kept for other, kept in keeps.items() if other != name])
        if others.any():
            least = _round_up(float(values[others].min()))
            found.append(Infeasible(constraint=name, demand=least, limit=limit, remedy=text.format(least)))
    within = keeps["area_mm2"] & keeps["tdp_w"]
    if within.any():
        most = float(capacity[within].max())
        remedy = (
            f"a smaller batch, recomputation or a space with more HBM: {limits.hbm_bytes / 2**30:.4g} GiB are needed"
        )
        found.append(Infeasible(constraint="hbm_bytes", demand=limits.hbm_bytes, limit=most, remedy=remedy))
    if found:
        return tuple(found)
    enough = keeps["hbm_bytes"]
    if not enough.any():
        remedy = "a smaller batch, recomputation or a space with more HBM, and then higher limits of area and power"
        return (
            Infeasible(constraint="hbm_bytes", demand=limits.hbm_bytes, limit=float(capacity.max()), remedy=remedy),
        )
    excess = np.where(enough, np.maximum(area / limits.area_mm2, power / limits.tdp_w), np.inf)
    nearest = np.unravel_index(int(excess.argmin()), space.shape)
    least_area, least_power = _round_up(float(area[nearest])), _round_up(float(power[nearest]))
    remedy = f"raise the limits together to {least_area:.4g} mm2 and {least_power:.4g} W"
    return (
        Infeasible(constraint="area_mm2", demand=least_area, limit=limits.area_mm2, remedy=remedy),
        Infeasible(constraint="tdp_w", demand=least_power, limit=limits.tdp_w, remedy=remedy),
    )


def _round_up(value: float) -> float:
    """Four significant digits, never below the value: what a user can type and find feasible."""
    step = 10.0 ** (np.floor(np.log10(value)) - 3)
    return float(f"{np.ceil(value / step) * step:.4g}")
