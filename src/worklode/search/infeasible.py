"""Why no design of a space keeps the limits, and the cheapest changes that would let one. See docs/models/exact.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import area_parts
from worklode.hardware.design_arrays import SEARCHED_FIELDS
from worklode.hardware.power import tdp_parts
from worklode.hardware.space import DesignSpace
from worklode.hardware.technology import Technology
from worklode.search.evaluate import silicon
from worklode.search.evaluation import accelerator_dict
from worklode.search.objective import Limits

CONSTRAINTS = ("area_mm2", "tdp_w", "hbm_bytes")
# Designs judged at a time [count]: arrays of them take 32 MB each.
MOST_AT_ONCE = 4_000_000
# Ways out whose costs differ by less are the same [1].
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Infeasible:
    """A limit that has to change, in one way out.

    Attributes:
        constraint: `area_mm2`, `tdp_w` or `hbm_bytes`.
        demand: what the design of this way out asks for: the least, the limits outside the way being kept. For HBM what
            the training step needs.
        limit: what was allowed; for HBM what the design has.
        change: by which share the limit has to rise (for HBM, how much more the step needs than the design has) [1].
        way: number of the way out, the cheapest first. What has the same number must change together.
        design: the design that keeps the limits then; searching again finds the best of all that do.
        technology: constants of its area and power.
        remedy: all changes of this way out and the design, a sentence.
    """

    constraint: str
    demand: float
    limit: float
    change: float
    way: int
    design: Accelerator
    technology: Technology
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "constraint": self.constraint,
            "demand": self.demand,
            "limit": self.limit,
            "change": self.change,
            "way": self.way,
            "accelerator": accelerator_dict(self.design, silicon(self.design, self.technology)),
            "remedy": self.remedy,
        }


def explain_infeasible(space: DesignSpace, technology: Technology, limits: Limits) -> tuple[Infeasible, ...]:
    """Every way out, the cheapest first; empty where some design keeps the limits.

    A way out changes one limit or several together. It costs the sum of their relative changes, and is the cheapest of
    all that change these limits and no others. Ways in which some limit changes for nothing are left out: where fewer
    changes cost no more.
    """
    ways: dict[tuple[str, ...], _Way] = {}
    for part in _slabs(space):
        slab = _Slab.of(part, technology, limits)
        if slab.keeps_all().any():
            return ()
        for changed in _subsets():
            found = slab.cheapest(changed)
            if found is not None and (changed not in ways or found < ways[changed]):
                ways[changed] = found
    kept = {
        changed: way
        for changed, way in ways.items()
        if not any(set(fewer) < set(changed) and ways[fewer].cost <= way.cost * (1 + ROUNDING) for fewer in ways)
    }
    ordered = sorted(kept.items(), key=lambda item: (item[1], len(item[0])))
    return tuple(
        reason
        for number, (changed, way) in enumerate(ordered, start=1)
        for reason in _reasons(number, changed, way, space, technology, limits)
    )


@dataclass(frozen=True, slots=True, order=True)
class _Way:
    """The cheapest design that asks for changes of some limits alone; equal costs go to the smaller numbers."""

    cost: float
    values: tuple[int, ...]
    area_mm2: float
    tdp_w: float
    hbm_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Slab:
    """Designs of a part of the space: figures, and by which share they exceed each limit (0 where they keep it)."""

    space: DesignSpace
    figures: tuple[np.ndarray[Any, np.dtype[np.float64]], ...]
    excess: tuple[np.ndarray[Any, np.dtype[np.float64]], ...]

    @classmethod
    def of(cls, space: DesignSpace, technology: Technology, limits: Limits) -> _Slab:
        mesh = space.mesh()
        area = np.broadcast_to(np.asarray(area_parts(mesh, technology).total, np.float64), space.shape)
        power = np.broadcast_to(np.asarray(tdp_parts(mesh, technology).total, np.float64), space.shape)
        capacity = np.broadcast_to(mesh.hbm_stacks * float(space.hbm_stack_bytes), space.shape)
        excess = (
            _excess(area, np.float64(limits.area_mm2)),
            _excess(power, np.float64(limits.tdp_w)),
            _excess(np.float64(limits.hbm_bytes), capacity),
        )
        return cls(space=space, figures=(area, power, capacity), excess=excess)

    def keeps_all(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which designs keep every limit."""
        return np.asarray((self.excess[0] <= 0) & (self.excess[1] <= 0) & (self.excess[2] <= 0))

    def cheapest(self, changed: tuple[str, ...]) -> _Way | None:
        """The design of least cost among those that exceed these limits alone; None where there is none."""
        cost = np.zeros(self.space.shape)
        for name, excess in zip(CONSTRAINTS, self.excess, strict=True):
            if name in changed:
                cost += excess
            else:
                cost[excess > 0] = np.inf
        place = np.unravel_index(int(cost.argmin()), self.space.shape)
        if not np.isfinite(cost[place]):
            return None
        values = tuple(getattr(self.space, name)[index] for name, index in zip(SEARCHED_FIELDS, place, strict=True))
        return _Way(float(cost[place]), values, *(float(figure[place]) for figure in self.figures))


def _excess(
    demand: np.float64 | np.ndarray[Any, np.dtype[np.float64]],
    limit: np.float64 | np.ndarray[Any, np.dtype[np.float64]],
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """By which share a demand is above a limit [1]; 0 only where it is not."""
    least = np.finfo(np.float64).eps
    return np.where(demand > limit, np.maximum(demand / limit - 1.0, least), 0.0)


def _subsets() -> Iterator[tuple[str, ...]]:
    for size in range(1, len(CONSTRAINTS) + 1):
        yield from combinations(CONSTRAINTS, size)


def _slabs(space: DesignSpace) -> Iterator[DesignSpace]:
    """The space in parts small enough to be judged at once: halves along the longest axis."""
    if space.size <= MOST_AT_ONCE:
        yield space
        return
    axis = max(SEARCHED_FIELDS, key=lambda name: len(getattr(space, name)))
    values = getattr(space, axis)
    for half in (values[: len(values) // 2], values[len(values) // 2 :]):
        sets: dict[str, Any] = {axis: half}
        yield from _slabs(replace(space, **sets))


def _reasons(
    number: int, changed: tuple[str, ...], way: _Way, space: DesignSpace, technology: Technology, limits: Limits
) -> list[Infeasible]:
    """One entry for every limit that a way out changes."""
    sets: dict[str, Any] = dict(zip(SEARCHED_FIELDS, way.values, strict=True))
    design = Accelerator(**sets, **space.shared)
    figures = {
        "area_mm2": (_round_up(way.area_mm2), limits.area_mm2),
        "tdp_w": (_round_up(way.tdp_w), limits.tdp_w),
        "hbm_bytes": (limits.hbm_bytes, way.hbm_bytes),
    }
    remedy = _remedy({name: figures[name] for name in changed}, design)
    return [
        Infeasible(
            constraint=name,
            demand=figures[name][0],
            limit=figures[name][1],
            change=figures[name][0] / figures[name][1] - 1.0,
            way=number,
            design=design,
            technology=technology,
            remedy=remedy,
        )
        for name in changed
    ]


def _remedy(changes: dict[str, tuple[float, float]], design: Accelerator) -> str:
    """A sentence: what to change, all of it together, and the design that keeps the limits then."""
    raised = []
    for name, text in (("area_mm2", "the area limit to {:.4g} mm2"), ("tdp_w", "the power limit to {:.4g} W")):
        if name in changes:
            demand, limit = changes[name]
            raised.append(f"{text.format(demand)} ({_more(demand / limit - 1.0)})")
    sentence = "raise " + " and ".join(raised) if raised else ""
    if "hbm_bytes" in changes:
        demand, limit = changes["hbm_bytes"]
        saved = 100 * (1.0 - limit / demand)
        smaller = (
            f"save {saved:.2g} % of the step's memory, to {limit / 2**30:.4g} GiB (a smaller batch, recomputation), or "
            "search a space with more HBM"
        )
        sentence = f"{sentence}, and {smaller}" if sentence else smaller
    return f"{sentence}; then a design of {_size(design)} keeps the limits"


def _more(share: float) -> str:
    return f"{100 * share:.2g} % more" if share < 1 else f"{1 + share:.3g} times as much"


def _size(design: Accelerator) -> str:
    """A design in words."""
    cores = "tensor core" if design.num_tensor_cores == 1 else "tensor cores"
    stacks = "HBM stack" if design.hbm_stacks == 1 else "HBM stacks"
    return (
        f"{design.num_tensor_cores} x {design.tensor_core_rows}x{design.tensor_core_cols} {cores}, "
        f"{design.num_vector_cores} x {design.vector_lanes} lanes, {design.sram_bytes / 2**20:.4g} MiB SRAM, "
        f"{design.hbm_stacks} {stacks}"
    )


def _round_up(value: float) -> float:
    """Four significant digits, never below the value: what a user can type and find feasible."""
    step = 10.0 ** (np.floor(np.log10(value)) - 3)
    rounded = float(f"{np.ceil(value / step) * step:.4g}")
    return rounded if rounded >= value else float(f"{rounded + step:.4g}")
