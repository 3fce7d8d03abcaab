"""One cell of a contest: one searcher, one workload, one seed, until a budget is used up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worklode.errors import Fault, SpecError
from worklode.search.contest.interface import Problem, Searcher, SelfJudging, Told
from worklode.search.contest.judging import Contest, evaluated, judged, thorough_figure, verify_design
from worklode.search.grid import Point

# Raised when a cell changes its meaning.
CELL_FORMAT = 1
# Designs of a cell that are scheduled thoroughly in the end, best first [count]: as many as `mine` does.
FINALISTS = 10
# Designs a searcher may ask for at a time [count]: a budget of CPU time is looked at between batches.
MOST_AT_ONCE = 16

Maker = Callable[[Problem, int], Searcher]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a cell may use.

    Attributes:
        evaluations: designs asked for, those outside the limits and repeated ones too.
        cpu_s: CPU time [s], looked at between batches; the searcher's own and what its evaluations are charged.
    """

    evaluations: int = 1000
    cpu_s: float = float("inf")

    def __post_init__(self) -> None:
        faults = []
        if self.evaluations < 1:
            faults.append(Fault(where="--evaluations", value=str(self.evaluations), problem="none", allowed=">= 1"))
        if not self.cpu_s > 0:
            faults.append(Fault(where="--cpu-time", value=f"{self.cpu_s:g} s", problem="no time", allowed="> 0"))
        if faults:
            raise SpecError(*faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One design a searcher asked for.

    Attributes:
        point: the design.
        figure: quick schedule; None outside the limits.
        best: figure of the design the searcher would build after it; None as long as there is none.
        cpu_s: CPU time of the cell so far, all that is charged [s].
        own_cpu_s, mapping_cpu_s: of that, what the searcher's model and its search of mappings took [s].
        evaluation_cpu_s: what this evaluation took when it was made first, which is what it is charged [s]; a searcher
            that judges itself is charged none.
        parts: time [s] and energy [J] of an iteration on each workload; empty outside the limits.
    """

    point: Point
    figure: float | None
    best: float | None
    cpu_s: float
    own_cpu_s: float
    mapping_cpu_s: float
    evaluation_cpu_s: float
    parts: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one searcher did with one seed.

    Attributes:
        workload, searcher, seed: which cell.
        steps: every design asked for.
        finished: the searcher stopped by itself.
        judges_itself: it says itself what it would build, by a model of its own.
        final_point, final_figure: its best design on thorough schedules; None where it found none within the limits.
        own_cpu_s, mapping_cpu_s, evaluation_cpu_s: CPU time of its model, its search of mappings, and evaluations,
            the thorough ones of its finalists included [s].
        finalists_cpu_s: of the evaluations, those of the finalists [s].
    """

    workload: str
    searcher: str
    seed: int
    steps: tuple[Step, ...]
    finished: bool
    judges_itself: bool
    final_point: Point | None
    final_figure: float | None
    own_cpu_s: float
    mapping_cpu_s: float
    evaluation_cpu_s: float
    finalists_cpu_s: float

    @property
    def cpu_s(self) -> float:
        """All CPU time that is charged [s]."""
        return self.own_cpu_s + self.mapping_cpu_s + self.evaluation_cpu_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a file keeps them; steps as rows under the names of their fields."""
        facts = {name: getattr(self, name) for name in Cell.__slots__ if name != "steps"}
        rows = [[getattr(step, name) for name in Step.__slots__] for step in self.steps]
        return {"format": CELL_FORMAT, **facts, "step_fields": list(Step.__slots__), "steps": rows}

    @staticmethod
    def from_dict(document: Mapping[str, Any]) -> Cell:
        """A cell from its plain values.

        Raises:
            SpecError: written by another version, or damaged.
        """
        try:
            if document["format"] != CELL_FORMAT:
                raise ValueError(f"format {document['format']}, not {CELL_FORMAT}")
            facts = {name: document[name] for name in Cell.__slots__ if name not in ("steps", "final_point")}
            names = document["step_fields"]
            steps = tuple(_step(dict(zip(names, row, strict=True))) for row in document["steps"])
            final = document["final_point"]
            return Cell(**facts, steps=steps, final_point=None if final is None else tuple(final))
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(Fault(where="cell", problem=f"cannot be read: {error}")) from None


def _step(document: Mapping[str, Any]) -> Step:
    parts = tuple((float(time_s), float(energy_j)) for time_s, energy_j in document["parts"])
    return Step(**{**document, "point": tuple(document["point"]), "parts": parts})


def run_cell(
    contest: Contest,
    searcher: str,
    make: Maker,
    seed: int,
    budget: Budget,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Cell:
    """Run one searcher until it finishes or its budget is used up.

    Args:
        contest: the workload and what all cells share.
        searcher: its name.
        make: makes it.
        seed: of everything random in it.
        budget: when it is stopped.
        progress: told the evaluations made, and the most there will be.

    Raises:
        SpecError: the searcher asked for more than it may, or for what is no design of the grid.
    """
    run = _Run(contest, searcher, make, seed, budget)
    try:
        while run.goes_on():
            run.batch()
            if progress is not None:
                progress(len(run.steps), budget.evaluations)
        return run.finish()
    finally:
        close = getattr(run.searcher, "close", None)
        if close is not None:
            close()


class _Run:
    """A cell under way."""

    def __init__(self, contest: Contest, name: str, make: Maker, seed: int, budget: Budget) -> None:
        self.contest, self.name, self.seed, self.budget = contest, name, seed, budget
        self.problem = contest.problem()
        self.steps: list[Step] = []
        self.finished = False
        self.searcher_cpu_s = self.evaluation_cpu_s = 0.0
        self.best: tuple[float, Point] | None = None
        started_s = time.process_time()
        self.searcher: Searcher = make(self.problem, seed)
        self.searcher_cpu_s += time.process_time() - started_s
        self.judges_itself = isinstance(self.searcher, SelfJudging)

    def goes_on(self) -> bool:
        spent = len(self.steps) >= self.budget.evaluations or self._cpu_s() >= self.budget.cpu_s
        return not (self.finished or spent)

    def batch(self) -> None:
        """Ask, evaluate, tell."""
        most = min(MOST_AT_ONCE, self.budget.evaluations - len(self.steps))
        started_s = time.process_time()
        points = [tuple(int(index) for index in point) for point in self.searcher.ask(most)]
        self.searcher_cpu_s += time.process_time() - started_s
        self._check(points, most)
        if not points:
            self.finished = True
            return
        asked_s = self._own_s(), self.problem.spent.mapping_s
        judgements = [judged(self.contest, self.problem, point) for point in points]
        started_s = time.process_time()
        self.searcher.tell([told for told, _ in judgements])
        recommended = self.searcher.recommended() if isinstance(self.searcher, SelfJudging) else None
        self.searcher_cpu_s += time.process_time() - started_s
        for index, (told, charged_s) in enumerate(judgements):
            last = index == len(judgements) - 1
            self._note(told, charged_s, recommended if last else None, asked_s, last)

    def _note(
        self, told: Told, charged_s: float, recommended: Point | None, asked_s: tuple[float, float], last: bool
    ) -> None:
        if not self.judges_itself:
            self.evaluation_cpu_s += charged_s
        if recommended is not None:
            self._check_recommended(recommended)
            self.best = (evaluated(self.contest, self.problem, recommended).figure, recommended)
        elif not self.judges_itself and told.figure is not None and (self.best is None or told.figure < self.best[0]):
            self.best = (told.figure, told.point)
        # What telling costs belongs to the last design of the batch: the others are known before it.
        own_s, mapping_s = (self._own_s(), self.problem.spent.mapping_s) if last else asked_s
        self.steps.append(
            Step(
                point=told.point,
                figure=told.figure,
                best=None if self.best is None else self.best[0],
                cpu_s=own_s + mapping_s + self.evaluation_cpu_s,
                own_cpu_s=own_s,
                mapping_cpu_s=mapping_s,
                evaluation_cpu_s=charged_s,
                parts=tuple((part.time_s, part.energy_j) for part in told.parts),
            )
        )

    def finish(self) -> Cell:
        """Schedule the finalists thoroughly: of a searcher that judges itself the one it recommends."""
        started_s = time.process_time()
        finals = [(thorough_figure(self.problem, point), point) for point in self._finalists()]
        figure, point = min(finals, default=(None, None))
        if point is not None:  # the best one as `mine` has its best
            figure = thorough_figure(self.problem, point, utmost=True)
        finalists_cpu_s = time.process_time() - started_s
        if point is not None:
            verify_design(self.problem, point)
        return Cell(
            workload=self.contest.name,
            searcher=self.name,
            seed=self.seed,
            steps=tuple(self.steps),
            finished=self.finished,
            judges_itself=self.judges_itself,
            final_point=point,
            final_figure=figure,
            own_cpu_s=self._own_s(),
            mapping_cpu_s=self.problem.spent.mapping_s,
            evaluation_cpu_s=self.evaluation_cpu_s + finalists_cpu_s,
            finalists_cpu_s=finalists_cpu_s,
        )

    def _finalists(self) -> list[Point]:
        if self.judges_itself:
            return [] if self.best is None else [self.best[1]]
        legal = {step.point: step.figure for step in self.steps if step.figure is not None}
        return sorted(legal, key=lambda point: (legal[point], point))[:FINALISTS]

    def _own_s(self) -> float:
        return max(self.searcher_cpu_s - self.problem.spent.mapping_s, 0.0)

    def _cpu_s(self) -> float:
        return self.searcher_cpu_s + self.evaluation_cpu_s

    def _check_recommended(self, point: Point) -> None:
        if len(point) != len(self.problem.lengths) or not self.problem.legal(np.array([point], np.int64))[0]:
            problem, allowed = "recommends what it may not build", "a design of the grid within the limits"
            raise SpecError(Fault(where=self.name, value=str(point), problem=problem, allowed=allowed))

    def _check(self, points: Sequence[Point], most: int) -> None:
        lengths = self.problem.lengths
        wrong = [
            point
            for point in points
            if len(point) != len(lengths) or any(not 0 <= i < n for i, n in zip(point, lengths, strict=True))
        ]
        faults = [
            Fault(where=self.name, value=str(point), problem="asks for what is no design", allowed=f"0 up to {lengths}")
            for point in wrong
        ]
        if len(points) > most:
            problem, allowed = "asks for too many designs at once", f"{most} at most"
            faults.append(Fault(where=self.name, value=str(len(points)), problem=problem, allowed=allowed))
        if faults:
            raise SpecError(*faults)
