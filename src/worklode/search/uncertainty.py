"""How far figures could be off: constants drawn from their ranges, carried to area, TDP, energy, time and ranks.

Every technology constant has a range `low` to `high` with its source. A draw takes all of them at once, independently,
each from the triangular distribution over its range with the peak at its value; area, TDP and energies of events are
then computed for all draws together. What has no range stays as it is: the schedule, the counts of events, the
formulas. Method and what it leaves out: docs/models/uncertainty.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import area_parts
from worklode.hardware.energy import event_energies
from worklode.hardware.power import tdp_parts
from worklode.hardware.technology import Technology
from worklode.search.evaluate import Evaluator

Floats = NDArray[np.float64]

# Draws of constants [count], and of efficiency, each of which takes a schedule: 5 % and 95 % are then known to about a
# twentieth and a fifth of the spread.
DRAWS = 2000
SCHEDULE_DRAWS = 48
SEED = 20261123
# Half ranges of fitted efficiency constants, relative [1]. Sources of one measured product disagree by about 7 %
# (docs/validation.md); starts of A100 and H100 differ by a quarter, of libraries by more.
EFFICIENCY_RANGES: Mapping[str, float] = {
    "clock_share": 0.07,
    "hbm_share": 0.07,
    "operator_start_s": 0.5,
    "operator_fill_s": 0.5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Where a figure lies in 5, 50 and 95 % of the draws."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, draws: Floats) -> Spread:
        """Of draws."""
        low, median, high = (float(value) for value in np.quantile(draws, (0.05, 0.5, 0.95)))
        return cls(low=low, median=median, high=high)

    def to_dict(self) -> dict[str, float]:
        """JSON form."""
        return {"p5": self.low, "p50": self.median, "p95": self.high}


def drawn_technology(technology: Technology, draws: int = DRAWS, seed: int = SEED) -> Technology:
    """The technology with an array of draws for every constant that has a range.

    A constant's draws depend on its name and the seed alone, so that two designs are compared under the same draws.
    """
    values: dict[str, Any] = {}
    for index, constant in enumerate(technology.constants):
        # The rates that tell HBM generations apart are borders of a rule, not figures of a chip.
        if constant.low < constant.high and not constant.name.endswith("_stack_rate"):
            generator = np.random.default_rng([seed, index])
            values[constant.name] = generator.triangular(constant.low, constant.value, constant.high, draws)
    return technology.with_values(values)


def silicon_draws(accelerator: Accelerator, drawn: Technology, draws: int = DRAWS) -> tuple[Floats, Floats]:
    """[draws] area [mm2] and [draws] TDP [W]."""
    none = np.zeros(draws)
    return none + area_parts(accelerator, drawn).total, none + tdp_parts(accelerator, drawn).total


def uncertainty(evaluator: Evaluator, accelerator: Accelerator, draws: int = DRAWS) -> dict[str, Any]:
    """Spreads of area, TDP, energy and time of a design on a workload, as the document of `evaluate` has them.

    Time is that of the efficiency constants; null where they are ideal: nothing was measured, so no range is known.
    """
    drawn = drawn_technology(evaluator.technology, draws)
    area, power = silicon_draws(accelerator, drawn, draws)
    step = evaluator.reported_step(accelerator)
    energies = event_energies(accelerator, drawn)
    energy = np.zeros(draws)
    for _, count, event in evaluator.event_counts(step):
        energy = energy + count * energies[event]
    time = time_draws(evaluator, accelerator)
    return {
        "draws": draws,
        "seed": SEED,
        "area_mm2": Spread.of(area).to_dict(),
        "tdp_w": Spread.of(power).to_dict(),
        "energy_j": Spread.of(energy).to_dict(),
        "iteration_time_s": None if time is None else Spread.of(time).to_dict(),
    }


def fitted_efficiency(accelerator: Accelerator) -> tuple[str, ...]:
    """Efficiency constants of a chip that are not ideal: those that were fitted to measurements."""
    ideal = {"clock_share": 1.0, "hbm_share": 1.0, "operator_start_s": 0.0, "operator_fill_s": 0.0}
    return tuple(name for name, value in ideal.items() if getattr(accelerator, name) != value)


def time_draws(evaluator: Evaluator, accelerator: Accelerator, draws: int = SCHEDULE_DRAWS) -> Floats | None:
    """[draws] iteration times [s] under drawn efficiency constants; None where they are ideal."""
    fitted = fitted_efficiency(accelerator)
    if not fitted:
        return None
    # By name: two designs are compared under the same draws, whichever constants either has.
    factors = {
        name: np.random.default_rng([SEED, index]).triangular(1.0 - half, 1.0, 1.0 + half, draws)
        for index, (name, half) in enumerate(EFFICIENCY_RANGES.items())
    }
    times = np.empty(draws)
    # Drawn designs are scheduled quickly, and their times scaled as the thorough schedule of the design itself is.
    quick_s = evaluator.step(accelerator).schedule.makespan_s
    scale = evaluator.reported_step(accelerator).schedule.makespan_s / quick_s
    for index in range(draws):
        changes: dict[str, Any] = {}
        for name in fitted:
            most = 1.0 if name.endswith("_share") else np.inf
            changes[name] = min(most, getattr(accelerator, name) * float(factors[name][index]))
        times[index] = scale * evaluator.step(replace(accelerator, **changes)).schedule.makespan_s
    return times


def confidence(best: Accelerator, baseline: Accelerator, technology: Technology, draws: int = DRAWS) -> dict[str, Any]:
    """In which share of the draws a design keeps the area and TDP of its budget, both under the same draws.

    A design that is smaller by a hair under nominal constants may be larger in half of the draws.
    """
    drawn = drawn_technology(technology, draws)
    area, power = silicon_draws(best, drawn, draws)
    most_area, most_power = silicon_draws(baseline, drawn, draws)
    smaller, cooler = area <= most_area, power <= most_power
    return {
        "draws": draws,
        "seed": SEED,
        "keeps_area": float(smaller.mean()),
        "keeps_tdp": float(cooler.mean()),
        "keeps_both": float((smaller & cooler).mean()),
        "area_ratio": Spread.of(area / most_area).to_dict(),
        "tdp_ratio": Spread.of(power / most_power).to_dict(),
    }
