"""One design for every distinct stage: the fastest mix, the mix of least power at its pace, and what bounds both.

Method: docs/models/global_search.md, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worklode.hardware.accelerator import Accelerator
from worklode.schedule.pipeline_orders import ScheduleKind
from worklode.search.aggregate import Iterations, MaxPlus
from worklode.search.bounder import Bounder
from worklode.search.candidate import Candidate
from worklode.search.certificate import PROMISING
from worklode.search.division import Division
from worklode.search.frontier import designs_within
from worklode.search.iteration_model import IterationModel, Row, StagePasses, iteration_time, last_reduction_s
from worklode.search.local import point_of
from worklode.search.objective import Objective
from worklode.search.stage_search import Searched, Searches, StageDesigns, narrowed_to

# Designs that are scheduled at most to find a cheaper one for a stage [count].
MOST_CHEAPER = 200
# Designs whose options are bounded at a time, least power first [count].
PORTION = 2000
# What rounding may add to a stage's time [1].
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mix:
    """One design for each class of stages.

    Attributes:
        designs: one for each class.
        time_s: of the iteration, as the search counts it [s].
        power_w: TDP of one device of every stage together [W].
    """

    designs: tuple[Candidate, ...]
    time_s: float
    power_w: float


class Mixer:
    """Mixes of designs of the classes of stages of one division."""

    def __init__(self, model: IterationModel, classes: Sequence[StageDesigns]) -> None:
        self.model = model
        self.classes = tuple(classes)
        self.numbers = np.array([len(found.stages) for found in classes])
        self._all = [narrowed_to(model.evaluators, MaxPlus.of([_everything(model, c.stages[0])])) for c in classes]
        self._index = {id(evaluator): k for k, evaluator in enumerate(model.evaluators)}
        self.time = self._time()
        self._times: dict[tuple[int, object], tuple[float, ...]] = {}

    def _time(self) -> MaxPlus:
        """The iteration as a function of the times of every evaluator of every class."""
        width = len(self.model.evaluators)
        stages: list[StagePasses] = list(self.model.stages)
        for number, found in enumerate(self.classes):
            for stage in found.stages:
                stages[stage] = _moved(self.model.stages[stage], number * width, len(self.classes) * width)
        return iteration_time(self.model.division, stages)

    def times_s(self, number: int, candidate: Candidate) -> tuple[float, ...]:
        """[K] times of all evaluators that a class has on a design; 0 for others [s]."""
        key = (number, candidate.accelerator)
        if key not in self._times:
            evaluators, _ = self._all[number]
            found = [0.0] * len(self.model.evaluators)
            for evaluator in evaluators:
                step = evaluator.figures(candidate.accelerator, effort=candidate.effort)
                found[self._index[id(evaluator)]] = step.time_s
            self._times[key] = tuple(found)
        return self._times[key]

    def mix(self, designs: Sequence[Candidate]) -> Mix:
        """The figures of a mix."""
        times = [time_s for number, design in enumerate(designs) for time_s in self.times_s(number, design)]
        power_w = float(np.dot(self.numbers, [design.figures[0].tdp_w for design in designs]))
        return Mix(designs=tuple(designs), time_s=float(self.time.time_s(times)), power_w=power_w)

    def best(
        self, choices: Sequence[Sequence[Candidate]], objective: Objective, starts: Sequence[Sequence[Candidate]]
    ) -> Mix:
        """The best mix that changing one class at a time leads to from the starts.

        Args:
            choices: designs of each class.
            objective: throughput: least time, then least power; else least time x power.
            starts: mixes to begin with.
        """
        found = [self._descend(self.mix(start), choices, objective) for start in starts]
        return min(found, key=lambda mix: _order(mix, objective))

    def _descend(self, mix: Mix, choices: Sequence[Sequence[Candidate]], objective: Objective) -> Mix:
        improved = True
        while improved:
            improved = False
            for number, choice in enumerate(choices):
                for candidate in choice:
                    changed = self.mix((*mix.designs[:number], candidate, *mix.designs[number + 1 :]))
                    if _order(changed, objective) < _order(mix, objective):
                        mix, improved = changed, True
        return mix


def _order(mix: Mix, objective: Objective) -> tuple[float, float]:
    if objective is Objective.THROUGHPUT:
        return (mix.time_s, mix.power_w)
    return (mix.time_s * mix.power_w, mix.time_s)


def _everything(model: IterationModel, stage: int) -> Row:
    """A row that counts every pass and the update of a stage."""
    return np.asarray(model.stages[stage].own + model.stages[stage].update)


def _moved(passes: StagePasses, offset: int, width: int) -> StagePasses:
    """The passes of a stage over the times of all classes: its own begin at `offset`."""

    def row(given: Row) -> Row:
        made = np.zeros(width + 1)
        made[offset : offset + len(given) - 1] = given[:-1]
        made[-1] = given[-1]
        return made

    return StagePasses(
        forward=tuple(row(each) for each in passes.forward),
        backward=tuple(row(each) for each in passes.backward),
        weight=tuple(row(each) for each in passes.weight),
        update=row(passes.update),
    )


def trade_offs(candidates: Sequence[Candidate], stage: StageDesigns) -> list[Candidate]:
    """The candidates no other is both faster and of less power than, fastest first."""
    ranked = sorted(candidates, key=lambda found: (stage.own_s(found), found.figures[0].tdp_w, found.order()))
    kept: list[Candidate] = []
    for candidate in ranked:
        if not kept or candidate.figures[0].tdp_w < kept[-1].figures[0].tdp_w:
            kept.append(candidate)
    return kept


# ------------------------------------------------------------------------------------------------- least power


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cheapest:
    """The design of least power that keeps a pace.

    Attributes:
        candidate: the design.
        undecided: designs of less power that no bound rules out: not scheduled, or slower on the schedules found.
    """

    candidate: Candidate
    undecided: int


def cheapest_at_pace(searches: Searches, stage: StageDesigns, pace_s: float, known: Candidate) -> Cheapest:
    """The design of least TDP on which a stage keeps a pace by its schedule; every design of less is bounded.

    Designs whose bound would let them keep the pace are scheduled, least power first, and thoroughly where their quick
    schedule is not far above it.

    Args:
        searches: tables.
        stage: the stage, and its limits.
        pace_s: what all passes of one microbatch may take [s].
        known: a design that keeps the pace.
    """
    search = stage.fastest.search
    grid = search.grid
    points, power = designs_within(grid, stage.limits)
    aggregate = Iterations(parts=(stage.own,))
    bounder = Bounder(search.estimator.tables, aggregate, grid, Objective.THROUGHPUT, workers=searches.proof.workers)
    less = power < known.figures[0].tdp_w
    mesh = np.broadcast_to(bounder.work_bounds(np.ones(1)), grid.space.shape)
    less &= mesh[tuple(points.T)] <= pace_s
    points, power = points[less], power[less]
    for guide in dict.fromkeys((stage.fastest.best.accelerator, known.accelerator)):
        bounder.add_guide(guide)
    keeps = bounder.bounds(points, power) <= pace_s
    points, power = points[keeps], power[keeps]
    order = np.argsort(power, kind="stable")
    points, power = points[order], power[order]
    scheduled = undecided = 0
    for first in range(0, len(points), PORTION):
        some = points[first : first + PORTION]
        bound = bounder.bounds(some, power[first : first + PORTION], by_options=True)
        for index in np.flatnonzero(bound <= pace_s):
            accelerator = grid.accelerator(point_of(some[index]))
            if accelerator not in search.seen and scheduled == MOST_CHEAPER:
                undecided += 1
                continue
            scheduled += accelerator not in search.seen
            candidate = search.seen.get(accelerator) or search.schedule(accelerator, "pace")
            if pace_s < stage.own_s(candidate) <= pace_s * (1 + PROMISING):
                candidate = search.refine(candidate)
            if stage.own_s(candidate) <= pace_s * (1 + ROUNDING):
                return Cheapest(candidate=candidate, undecided=undecided)
            undecided += 1
    return Cheapest(candidate=known, undecided=undecided)


# ------------------------------------------------------------------------------------------------- bounds


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnRows:
    """The iteration is at least every row: factors of the own times of the classes, and a constant [s].

    Attributes:
        rows: [stages, classes + 1]: all microbatches of a stage, and one way through those before it.
    """

    rows: Row

    def time_s(self, least_s: Sequence[float]) -> float:
        """The iteration where every class takes at least so long for all passes of one microbatch [s]."""
        return float((self.rows[:, :-1] @ np.asarray(least_s) + self.rows[:, -1]).max())


def own_rows(division: Division, classes: Sequence[tuple[int, ...]]) -> OwnRows:
    """Bounds that need no more than how long a stage takes for one microbatch, all passes together.

    All microbatches of stage s, and before and after them one way through the stages before: (3) of
    docs/models/pipeline.md where a stage is one chunk and backward is not split; for GPipe (4) from below.
    """
    setting = division.setting
    class_of = {stage: number for number, stages in enumerate(classes) for stage in stages}
    simple = setting.schedule.chunks_per_stage == 1 and not setting.schedule.splits_backward
    on, back = (found if setting.pipeline > 1 else () for found in division.sends_s)
    after_s = division.tied_s + last_reduction_s(division)
    rows = []
    for stage in range(setting.pipeline):
        row = np.zeros(len(classes) + 1)
        row[class_of[stage]] += setting.microbatches
        row[-1] = after_s
        if simple:
            for other in range(setting.pipeline) if setting.schedule.kind is ScheduleKind.GPIPE else range(stage):
                row[class_of[other]] += other != stage
            row[-1] += sum(on[:stage]) + sum(back[:stage])
        if not setting.overlap_sends and simple:
            # The sender waits: of the messages back that of the stage itself is one of its own.
            own = sum(on[stage : stage + 1]) + sum(back[max(stage - 1, 0) : stage])
            row[-1] += setting.microbatches * own - sum(back[max(stage - 1, 0) : stage])
        rows.append(row)
    return OwnRows(rows=np.array(rows))


def least_time_power(
    searches: Searches,
    model: IterationModel,
    classes: Sequence[StageDesigns],
    rows: OwnRows,
    outside: Sequence[Accelerator],
) -> tuple[float, tuple[Searched, ...]]:
    """Bound of time x mean TDP of any mix, and the search of every class that gave it.

    T P = sum over stages of T P_s, and T is at least each row of `rows` with the least times of all stages but s: a
    function of the own time of s alone, whose product with P_s is minimised over the space for each class. The claim
    covers the designs `outside` it too.
    """
    least = [found.least_s for found in classes]
    total, ran = 0.0, []
    for number, found in enumerate(classes):
        # Whichever of its stages has the least way in and out: that row holds for all of the class.
        others = [0.0 if k == number else least_s for k, least_s in enumerate(least)]
        through = rows.rows[list(found.stages)]
        more = through[:, number] - model.division.setting.microbatches
        constant_s = float((through[:, :-1] @ np.array(others) + more * least[number] + through[:, -1]).min())
        own = model.stages[found.stages[0]].own * model.division.setting.microbatches
        alone = np.zeros_like(own)
        alone[-1] = rows.time_s(least)
        own[-1] += constant_s
        evaluators, time = narrowed_to(model.evaluators, MaxPlus.of([own, alone]))
        searched = searches.run(
            evaluators,
            Iterations(parts=(time,)),
            found.limits,
            objective=Objective.THROUGHPUT_PER_TDP,
            seeds=[*dict.fromkeys([found.fastest.best.accelerator, *outside])],
            outside=outside,
        )
        ran.append(searched)
        assert searched.certificate is not None, "the fastest design of the class keeps the limits"
        total += len(found.stages) * searched.certificate.bound
    return total / model.division.setting.pipeline, tuple(ran)
