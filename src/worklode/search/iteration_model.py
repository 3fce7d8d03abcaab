"""The iteration of a divided model as a function of the times of its passes: what a search over designs minimises.

Passes of equal segments are one evaluator; the iteration is a sum of maxima of rows that are linear in their times
(`aggregate.MaxPlus`). It never exceeds what `training_step.evaluate_divided` says of the same times, so bounds of the
passes bound the iteration. Derivation: docs/models/global_search.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from worklode.graph.work import Collective
from worklode.partition.segments import BACKWARD, Pass
from worklode.search.aggregate import MaxPlus
from worklode.search.division import Division
from worklode.search.evaluate import Evaluator
from worklode.search.pipeline_rows import ChunkRows, constant_row, pipeline_terms

Row = NDArray[np.float64]

# Buckets of gradients from which on reductions are counted [count]: each multiplies the rows of the pipeline.
MOST_BUCKETS = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StagePasses:
    """Times of one stage as rows over K evaluators and a constant, [K + 1] each; C chunks of the stage, in model order.

    Attributes:
        forward, backward, weight: [C] of one microbatch; `backward` is all of it unless the schedule splits it.
        update: optimizer, and weights gathered after it.
    """

    forward: tuple[Row, ...]
    backward: tuple[Row, ...]
    weight: tuple[Row, ...]
    update: Row

    @property
    def own(self) -> Row:
        """All passes of one microbatch."""
        return np.asarray(np.sum([*self.forward, *self.backward, *self.weight], axis=0))


class IterationModel:
    """A division, its distinct passes, and the iteration as a function of their times.

    Attributes:
        division: the divided model.
        evaluators: [K] of the distinct passes, collectives with the times of the division's network.
    """

    def __init__(self, division: Division) -> None:
        self.division = division
        self._index: dict[int, int] = {}
        self._found: list[Evaluator] = []
        stages = range(division.setting.pipeline)
        self._segment_parts = [[self._parts(at) for at in division.positions(stage)] for stage in stages]
        self.evaluators: tuple[Evaluator, ...] = tuple(
            found.exchanging(division.communication_s) for found in self._found
        )

    def _parts(self, position: int) -> tuple[int | None, int | None, int | None, int | None]:
        """Evaluators of forward, backward, weight gradient and update of a segment; None where there is none."""
        model, setting = self.division.model, self.division.setting
        place = self.division.places[position]
        if setting.schedule.splits_backward:
            back = model.evaluator(place, (Pass.INPUT_GRADIENT,), setting.sums)
            weight = model.evaluator(place, (Pass.WEIGHT_GRADIENT,), setting.sums)
        else:
            back, weight = model.evaluator(place, BACKWARD, setting.sums), None
        update = model.update_evaluator(place, setting.state_options)
        forward = model.evaluator(place, (Pass.FORWARD,))
        return self._number(forward), self._number(back), self._number(weight), self._number(update)

    def _number(self, evaluator: Evaluator | None) -> int | None:
        if evaluator is None:
            return None
        if id(evaluator) not in self._index:
            self._index[id(evaluator)] = len(self._found)
            self._found.append(evaluator)
        return self._index[id(evaluator)]

    # -- rows -----------------------------------------------------------------------------------------------------

    def _row(self, numbers: Sequence[int | None], constant_s: float = 0.0) -> Row:
        row = np.zeros(len(self.evaluators) + 1)
        for number in numbers:
            if number is not None:
                row[number] += 1.0
        row[-1] = constant_s
        return row

    @cached_property
    def stages(self) -> tuple[StagePasses, ...]:
        """Times of every stage, exchanges with replicas inside its passes apart."""
        division = self.division
        found = []
        for stage, parts in enumerate(self._segment_parts):
            of = dict(zip(division.positions(stage), parts, strict=True))
            chunks = division.of_stage(stage)
            rows = [
                tuple(self._row([of[at][kind] for at in range(first, stop)]) for first, stop in chunks)
                for kind in range(3)
            ]
            update = self._row([part[3] for part in parts], division.weights_gathered_s(stage))
            found.append(StagePasses(forward=rows[0], backward=rows[1], weight=rows[2], update=update))
        return tuple(found)

    @cached_property
    def classes(self) -> tuple[tuple[int, ...], ...]:
        """Stages with the same passes, by the first of each; they differ in their places in the pipeline alone."""
        found: dict[bytes, list[int]] = {}
        for stage, passes in enumerate(self.stages):
            rows = [*passes.forward, *passes.backward, *passes.weight, passes.update]
            found.setdefault(np.array(rows).tobytes(), []).append(stage)
        return tuple(tuple(stages) for stages in found.values())

    @cached_property
    def time(self) -> MaxPlus:
        """The iteration where every stage has the same design."""
        return iteration_time(self.division, self.stages, self._reductions())

    def _reductions(self) -> list[Row]:
        """What follows the gradients of the first chunk: for some buckets, all reductions from it on.

        A bucket is ready when the backward passes of the segments before it in the chunk are still to come.
        """
        division, setting = self.division, self.division.setting
        last = last_reduction_s(division)
        if last == 0.0 or setting.schedule.splits_backward or not setting.overlap_data:
            return [self._row([], last)]
        first, stop = division.chunks[0]
        of = dict(zip(division.positions(0), self._segment_parts[0], strict=True))
        found, left_s = [], 0.0
        reduction = Collective.REDUCE_SCATTER if setting.zero else Collective.ALL_REDUCE
        for bucket, at in reversed(division.buckets(0)):
            left_s += division.data_s(reduction, bucket.gradient_bytes)
            if first <= at < stop:
                found.append(self._row([], left_s) - self._row([of[before][1] for before in range(first, at)]))
        chosen = np.linspace(0, len(found) - 1, min(len(found), MOST_BUCKETS)).astype(int)
        return [found[index] for index in chosen]


def iteration_time(division: Division, stages: Sequence[StagePasses], after: Sequence[Row] = ()) -> MaxPlus:
    """The iteration from the passes of every stage; never more than the simulated one.

    Args:
        division: the divided model.
        stages: rows over any K times: those of evaluators, or one for each class of stages.
        after: rows of what follows the last pass at least, alternatives; by default the last reduction.
    """
    setting = division.setting
    rows: list[tuple[list[Row], ...]] = [
        pipeline_terms(
            chunks,
            setting.schedule,
            setting.pipeline,
            setting.microbatches,
            division.sends_s,
            overlap=setting.overlap_sends,
        )
        for chunks in _by_chunk(division, stages)
    ]
    # What a sum of maxima is at least for every alternative, it is for the largest of them: rows of a term are joined
    # where there is one term, else the first alternative alone counts.
    terms = [[row for found in rows for row in found[0]]] if len(rows[0]) == 1 else [list(term) for term in rows[0]]
    like = stages[0].update
    following = after or [constant_row(like, last_reduction_s(division))]
    terms[-1] = [row + behind for row in terms[-1] for behind in following]
    return MaxPlus.of(*terms, [passes.update + constant_row(like, division.tied_s) for passes in stages])


def _by_chunk(division: Division, stages: Sequence[StagePasses]) -> Iterator[ChunkRows]:
    """Times of the passes of every chunk; under ZeRO-2 and 3 by computing, or by what the replicas exchange."""
    places = [(number % division.setting.pipeline, number // division.setting.pipeline) for number in _chunks(division)]
    forward = [stages[stage].forward[at] for stage, at in places]
    backward = [stages[stage].backward[at] for stage, at in places]
    weight = [stages[stage].weight[at] for stage, at in places]
    if not division.exchanges_in_passes:
        yield ChunkRows(forward=forward, backward=backward, weight=weight)
        return
    spans = [range(*chunk) for chunk in division.chunks]
    gathers = [sum(division.gather_s(at) for at in span) for span in spans]
    exchanged = [sum(division.gather_s(at) + division.reduction_s(at) for at in span) for span in spans]
    if not division.setting.overlap_data:
        yield ChunkRows(forward=_plus(forward, gathers), backward=_plus(backward, exchanged), weight=weight)
        return
    # The reduction of the segment whose backward pass is last follows it.
    computing = _plus(backward, [division.reduction_s(span[0]) for span in spans])
    on_links = [constant_row(row, time_s) for row, time_s in zip(forward, gathers, strict=True)]
    back_on_links = [constant_row(row, time_s) for row, time_s in zip(backward, exchanged, strict=True)]
    # Where weight gradients are passes of their own, they hide exchanges that the pass before them is not held to.
    backs = (computing,) if division.setting.schedule.splits_backward else (computing, back_on_links)
    for there, back in product((forward, on_links), backs):
        yield ChunkRows(forward=there, backward=back, weight=weight)


def _chunks(division: Division) -> range:
    return range(len(division.chunks))


def _plus(rows: Sequence[Row], times_s: Sequence[float]) -> list[Row]:
    return [row + constant_row(row, time_s) for row, time_s in zip(rows, times_s, strict=True)]


def last_reduction_s(division: Division) -> float:
    """Least time from the end of the pipeline to that of the reductions: the last bucket of what ends it [s]."""
    setting = division.setting
    if setting.data == 1 or setting.zero >= 2:
        return 0.0
    reduction = Collective.REDUCE_SCATTER if setting.zero else Collective.ALL_REDUCE
    # A pipeline ends with the backward pass of its first chunk, but where weight gradients are passes of their own.
    last = []
    for stage in range(setting.pipeline if setting.schedule.splits_backward else 1):
        buckets = division.buckets(stage)
        if setting.overlap_data and buckets and buckets[-1][1] != division.positions(stage)[0]:
            buckets = []  # segments without gradients come last: the last bucket may be reduced beside them
        sizes = [bucket.gradient_bytes for bucket, _ in buckets]
        after = sizes[-1:] if setting.overlap_data else sizes
        last.append(division.data_s(reduction, sum(after)) if after else 0.0)
    return min(last)
