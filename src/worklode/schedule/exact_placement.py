"""Placements of the exact models: from schedules, and back to schedules. See docs/models/exact.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worklode.schedule.compiled import Floats, Ints
from worklode.schedule.critical_path import topological_order
from worklode.schedule.exact_model import (
    BANDWIDTH_PARTS,
    ExactModel,
    Mode,
    Modes,
    Placement,
    Variant,
    dominates,
    mode_of_option,
)
from worklode.schedule.options import option_table
from worklode.schedule.problem import Schedule


def options_of(modes: Modes, placement: Placement) -> Ints:
    """[N] the option of the placement's variant that each task runs on."""
    return np.array(
        [modes.offers[task][mode][placement.variant].option for task, mode in enumerate(placement.modes)], np.int64
    )


def floored(model: ExactModel, variant: int, found: Schedule) -> Placement:
    """A schedule in the ticks of a relaxed model: starts rounded down keep every constraint of it."""
    weight = model.variants[variant].weight
    modes = []
    for task, option in enumerate(found.option):
        whole = mode_of_option(model.variants[variant], int(option), model.coupling, model.tick)
        offered = [mode for mode, offering in model.modes.offers[task].items() if variant in offering]
        # What is not in the model needs no less of anything than a mode that is.
        modes.append(whole if whole in offered else next((m for m in offered if dominates(m, whole)), offered[0]))
    starts = tuple(int(start * weight / model.tick) for start in found.start_s)
    return Placement(variant=variant, modes=tuple(modes), start_ticks=starts)


def place_in_order(
    modes: Modes,
    variants: Sequence[Variant],
    variant: int,
    option: Ints,
    start: Floats | Ints,
) -> Placement:
    """Every task at its earliest moment, in the order of starts, on its option where that is a mode: a valid placement.

    Serial schedule generation (Kolisch 1996): tasks are placed one by one where all resources have room throughout.
    """
    problem = variants[variant].problem
    capacity = (problem.num_tensor_cores, problem.num_vector_cores, BANDWIDTH_PARTS)
    order = topological_order(problem)
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    chosen = [_mode_of(modes, task, variant, int(number)) for task, number in enumerate(option)]
    begin, end = [0] * len(chosen), [0] * len(chosen)
    placed: list[int] = []
    for task in np.lexsort((position, start)):
        mode = chosen[task]
        before = problem.predecessor[problem.predecessor_start[task] : problem.predecessor_start[task + 1]]
        earliest = max((end[p] for p in before), default=0)
        moments = sorted({earliest, *(end[other] for other in placed if end[other] > earliest)})
        begin[task] = next(
            moment
            for moment in moments
            if _fits(moment, mode, [(begin[o], end[o], chosen[o]) for o in placed], capacity)
        )
        end[task] = begin[task] + mode.ticks
        placed.append(int(task))
    return Placement(variant=variant, modes=tuple(chosen), start_ticks=tuple(begin))


def _mode_of(modes: Modes, task: int, variant: int, option: int) -> Mode:
    """The mode of an option at the full rate; where it was left out, the shortest there is."""
    offered = {mode: offers[variant] for mode, offers in modes.offers[task].items() if variant in offers}
    same = [mode for mode, offer in offered.items() if offer.option == option and offer.rate == 1.0]
    return same[0] if same else min(offered, key=lambda mode: mode.ticks)


def _fits(moment: int, mode: Mode, running: list[tuple[int, int, Mode]], capacity: tuple[int, int, int]) -> bool:
    """Whether a mode fits beside others throughout: use only rises where something starts."""
    until = moment + mode.ticks
    overlapping = [(begin, end, other) for begin, end, other in running if begin < until and end > moment]
    for at in {moment, *(begin for begin, _, _ in overlapping if begin > moment)}:
        beside = [other for begin, end, other in overlapping if begin <= at < end]
        used = (
            mode.tensor_cores + sum(other.tensor_cores for other in beside),
            mode.vector_cores + sum(other.vector_cores for other in beside),
            mode.bandwidth + sum(other.bandwidth for other in beside),
        )
        if any(amount > most for amount, most in zip(used, capacity, strict=True)):
            return False
    return True


def schedule_of(modes: Modes, variants: Sequence[Variant], placement: Placement, tick: float) -> Schedule:
    """A placement of a rigid or malleable model as a schedule of its variant's problem, with segments."""
    variant = variants[placement.variant]
    tick_s = tick / variant.weight
    offers = [modes.offers[task][mode][placement.variant] for task, mode in enumerate(placement.modes)]
    option = np.array([offer.option for offer in offers], np.int64)
    rate = np.array([offer.rate for offer in offers])
    start_s = np.array(placement.start_ticks) * tick_s
    last_s = np.array([s + m.ticks for s, m in zip(placement.start_ticks, placement.modes, strict=True)]) * tick_s
    # Not past its last tick, which rounding of the sum could be.
    end_s = np.minimum(start_s + option_table(variant.problem).duration_s[option] / rate, last_s)
    moving = np.flatnonzero(end_s > start_s)
    return Schedule(
        start_s=start_s,
        end_s=end_s,
        option=option,
        segment_task=moving,
        segment_start_s=start_s[moving],
        segment_end_s=end_s[moving],
        segment_rate=rate[moving],
    )
