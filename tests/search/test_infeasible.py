"""Ways out of impossible limits: against a loop over every design and every set of limits."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, groupby

import numpy as np
import pytest
from tests.search.strategies import small_space, technology

from worklode.hardware.presets import load_preset
from worklode.hardware.space import DesignSpace, default_space
from worklode.search import infeasible
from worklode.search.evaluate import silicon
from worklode.search.infeasible import CONSTRAINTS, Infeasible, explain_infeasible
from worklode.search.objective import Limits

DRAWS = 60


def drawn_limits(seed: int, space: DesignSpace) -> Limits:
    """Around the least figures of the space, so that some limits and combinations of them cannot be kept."""
    random = np.random.default_rng([seed, 6])
    found = [silicon(space.accelerator(space.indices(position)), technology()) for position in range(space.size)]
    area = min(parts.area_mm2 for parts in found) * random.uniform(0.7, 1.3)
    power = min(parts.tdp_w for parts in found) * random.uniform(0.7, 1.3)
    needed = float(max(space.hbm_stacks) * space.hbm_stack_bytes * random.choice((0.0, 0.6, 1.0, 1.2)))
    return Limits(area_mm2=float(area), tdp_w=float(power), hbm_bytes=needed)


def by_hand(space: DesignSpace, limits: Limits) -> dict[tuple[str, ...], float]:
    """Least cost for every set of limits that some design exceeds and no others; empty where a design keeps all."""
    costs: dict[tuple[str, ...], float] = {}
    for position in range(space.size):
        design = space.accelerator(space.indices(position))
        parts = silicon(design, technology())
        shares = (
            parts.area_mm2 / limits.area_mm2 - 1,
            parts.tdp_w / limits.tdp_w - 1,
            limits.hbm_bytes / design.hbm_bytes - 1,
        )
        exceeded = {name: share for name, share in zip(CONSTRAINTS, shares, strict=True) if share > 0}
        if not exceeded:
            return {}
        names, cost = tuple(exceeded), sum(exceeded.values())
        costs[names] = min(cost, costs.get(names, float("inf")))
    # With more limits changed than exceeded the cost is no higher.
    subsets = [s for size in (1, 2, 3) for s in combinations(CONSTRAINTS, size)]
    least = {s: min((c for n, c in costs.items() if set(n) <= set(s)), default=float("inf")) for s in subsets}
    return {
        s: cost
        for s, cost in least.items()
        if cost < float("inf") and not any(set(t) < set(s) and least[t] <= cost * (1 + 1e-9) for t in subsets)
    }


def ways(reasons: tuple[Infeasible, ...]) -> list[list[Infeasible]]:
    return [list(group) for _, group in groupby(reasons, key=lambda reason: reason.way)]


def changed(limits: Limits, way: list[Infeasible]) -> Limits:
    return replace(limits, **{r.constraint: r.limit if r.constraint == "hbm_bytes" else r.demand for r in way})


def test_ways_out_are_those_of_a_loop_over_all_designs() -> None:
    seen: set[tuple[str, ...]] = set()
    for seed in range(DRAWS):
        space = small_space(seed)
        limits = drawn_limits(seed, space)
        expected = by_hand(space, limits)
        found = ways(explain_infeasible(space, technology(), limits))
        assert {tuple(r.constraint for r in way) for way in found} == set(expected), seed
        costs = []
        for way in found:
            names = tuple(reason.constraint for reason in way)
            seen.add(names)
            # Limits are rounded up to four digits.
            cost = sum(reason.change for reason in way)
            assert expected[names] * (1 - 1e-9) <= cost <= expected[names] + 2e-3 * len(way), seed
            costs.append(expected[names])
            design = way[0].design
            parts, after = silicon(design, technology()), changed(limits, way)
            assert after.allow(area_mm2=parts.area_mm2, tdp_w=parts.tdp_w, hbm_bytes=design.hbm_bytes), seed
            assert explain_infeasible(space, technology(), after) == (), seed
            if len(way) > 1:
                for left_out in way:
                    others = [reason for reason in way if reason is not left_out]
                    assert explain_infeasible(space, technology(), changed(limits, others)) != (), seed
        assert costs == sorted(costs), seed
    assert len(seen) >= 5, "draws are expected to reach most combinations of limits"


def test_slightly_less_than_the_demand_is_not_enough() -> None:
    for seed in range(10):
        space = small_space(seed)
        limits = drawn_limits(seed, space)
        for way in ways(explain_infeasible(space, technology(), limits)):
            if len(way) == 1 and way[0].constraint != "hbm_bytes":
                less = replace(limits, **{way[0].constraint: way[0].demand * 0.998})
                assert explain_infeasible(space, technology(), less) != ()


def test_a_large_space_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    space = replace(default_space(load_preset("tpuv2")), tensor_core_rows=(32, 64, 128))
    limits = Limits(area_mm2=40.0, tdp_w=25.0, hbm_bytes=2.0**36)
    whole = explain_infeasible(space, technology(), limits)
    monkeypatch.setattr(infeasible, "MOST_AT_ONCE", 5000)
    assert len(list(infeasible._slabs(space))) > 10
    assert sum(part.size for part in infeasible._slabs(space)) == space.size
    assert explain_infeasible(space, technology(), limits) == whole
    assert len(whole) >= 2


def test_the_remedy_says_all_that_has_to_change() -> None:
    space = default_space(load_preset("tpuv2"))
    limits = Limits(area_mm2=50.0, tdp_w=20.0)
    reasons = explain_infeasible(space, technology(), limits)
    assert [reason.constraint for reason in reasons] == ["area_mm2", "tdp_w"]
    assert {reason.way for reason in reasons} == {1}
    remedy = reasons[0].remedy
    assert remedy == reasons[1].remedy
    assert remedy.startswith("raise the area limit to ")
    assert f"{reasons[0].demand:.4g} mm2" in remedy
    assert f"and the power limit to {reasons[1].demand:.4g} W" in remedy
    assert "a design of 1 x 8x8 tensor core, 1 x 64 lanes, 2 MiB SRAM, 1 HBM stack keeps the limits" in remedy
    document = reasons[0].to_dict()
    assert document["accelerator"]["num_tensor_cores"] == 1
    assert document["accelerator"]["area_mm2"] <= document["demand"]


def test_too_little_memory_names_what_the_best_equipped_design_has() -> None:
    space = default_space(load_preset("tpuv2"))
    most = float(max(space.hbm_stacks) * space.hbm_stack_bytes)
    (reason,) = explain_infeasible(space, technology(), Limits(hbm_bytes=2.0 * most))
    assert (reason.constraint, reason.demand, reason.limit, reason.change) == ("hbm_bytes", 2 * most, most, 1.0)
    assert "50 % of the step's memory" in reason.remedy
    assert "smaller batch" in reason.remedy
