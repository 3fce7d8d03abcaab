"""How surely the best design is the best: the objective of it and of its rivals under the same drawn constants.

Method and what it leaves out: docs/models/uncertainty.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.energy import event_energies
from worklode.hardware.power import tdp_parts
from worklode.hardware.technology import Technology
from worklode.search.evaluate import Evaluator
from worklode.search.objective import Objective
from worklode.search.uncertainty import (
    DRAWS,
    SCHEDULE_DRAWS,
    SEED,
    Floats,
    Spread,
    drawn_technology,
    fitted_efficiency,
    time_draws,
)


def ranking(
    evaluators: Sequence[Evaluator],
    objective: Objective,
    top_k: Sequence[Accelerator],
    baseline: Accelerator | None,
    weights: Sequence[float] | None = None,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """In which share of the draws the first of `top_k` beats each other one, and the baseline, in the objective.

    Both are computed under the same draws, so that what they share cancels. Shares are None where nothing that
    is drawn moves the objective of either: the order rests on the schedule alone then, and 100 % would be no evidence.

    Args:
        evaluators: one for each workload.
        objective: what was minimised.
        top_k: designs, best first.
        baseline: the budget's own design, None without one.
        weights: of the workloads; equal where None.
        draws: sets of constants.
    """
    drawn = drawn_technology(evaluators[0].technology, draws)
    known: dict[Accelerator, Floats] = {}

    def figures(accelerator: Accelerator) -> Floats:
        if accelerator not in known:
            known[accelerator] = objective_draws(evaluators, objective, accelerator, drawn, weights, draws)
        return known[accelerator]

    rivals: list[tuple[int | None, Accelerator]] = [(rank, other) for rank, other in enumerate(top_k[1:], start=2)]
    if baseline is not None and baseline != top_k[0]:
        rivals.append((None, baseline))
    best = figures(top_k[0])
    against = []
    for rank, rival in rivals:
        other = figures(rival)
        moves = bool(np.ptp(best) > 0 or np.ptp(other) > 0)
        against.append(
            {
                "rank": rank,
                "beats": float((best < other).mean()) if moves else None,
                "ties": float((best == other).mean()) if moves else None,
                "improvement": Spread.of(other / best).to_dict() if moves else None,
            }
        )
    timed = any(fitted_efficiency(accelerator) for accelerator in known)
    return {"draws": draws, "schedule_draws": SCHEDULE_DRAWS if timed else 0, "seed": SEED, "against": against}


def objective_draws(
    evaluators: Sequence[Evaluator],
    objective: Objective,
    accelerator: Accelerator,
    drawn: Technology,
    weights: Sequence[float] | None = None,
    draws: int = DRAWS,
) -> Floats:
    """[draws] the figure a search minimises: the weighted geometric mean of the objective over the workloads.

    Draws of the schedule are fewer than draws of constants and taken in turn: they are independent of one another.
    """
    parts = np.ones(len(evaluators)) if weights is None else np.asarray(weights, dtype=np.float64)
    power = np.zeros(draws) + tdp_parts(accelerator, drawn).total
    energies = event_energies(accelerator, drawn)
    logarithm = np.zeros(draws)
    for evaluator, share in zip(evaluators, parts / parts.sum(), strict=True):
        step = evaluator.reported_step(accelerator)
        times = time_draws(evaluator, accelerator)
        time = np.full(draws, step.schedule.makespan_s) if times is None else np.resize(times, draws)
        energy = np.zeros(draws)
        for part, count, event in evaluator.event_counts(step):
            energy = energy + (time if part == "static" else count) * energies[event]
        logarithm += share * np.log(objective.figure(time_s=time, tdp_w=power, energy_j=energy))
    return np.asarray(np.exp(logarithm))
