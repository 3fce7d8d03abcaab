"""One cell of a contest: one searcher, one workload, one seed, until a budget is used up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from worklode.errors import Fault, SpecError
from worklode.search.contest.interface import Problem, Resumable, Searcher, SelfJudging, Shortlisting, Told
from worklode.search.contest.judging import Contest, evaluated, judged, remember, thorough_figure, verify_design
from worklode.search.grid import Point

# Raised when a cell changes its meaning.
CELL_FORMAT = 2
# Designs of a cell that are scheduled thoroughly in the end, best first [count]: as many as `mine` does.
FINALISTS = 10
# Designs a searcher may ask for at a time [count]: a budget of CPU time is looked at between batches.
MOST_AT_ONCE = 16
# Steps of a cell that are kept [count]: of longer ones those that improve on the best, and others evenly between them.
MOST_KEPT = 10_000
# A cell that can go on in another process is saved so often [s of CPU time].
SAVED_EVERY_S = 30.0

Maker = Callable[[Problem, int], Searcher]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a cell may use.

    Attributes:
        evaluations: designs asked for, those outside the limits and repeated ones too.
        cpu_s: CPU time [s], looked at between batches; the searcher's own and what its evaluations are charged.
        times_mine: the same as a multiple of what `mine` takes for the workload, proof and report included [1].
    """

    evaluations: int = 1000
    cpu_s: float = float("inf")
    times_mine: float = float("inf")

    def __post_init__(self) -> None:
        faults = []
        if self.evaluations < 1:
            faults.append(Fault(where="--evaluations", value=str(self.evaluations), problem="none", allowed=">= 1"))
        if not self.cpu_s > 0:
            faults.append(Fault(where="--cpu-time", value=f"{self.cpu_s:g} s", problem="no time", allowed="> 0"))
        if not self.times_mine > 0:
            faults.append(Fault(where="--cpu-time", value=f"{self.times_mine:g}x", problem="no time", allowed="> 0"))
        if faults:
            raise SpecError(*faults)

    def where_mine_takes(self, cpu_s: float) -> Budget:
        """The budget of a workload for which `mine` takes this CPU time [s]."""
        return replace(self, cpu_s=min(self.cpu_s, self.times_mine * cpu_s), times_mine=float("inf"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One design a searcher asked for.

    Attributes:
        number: of the designs asked for, from 1.
        point: the design.
        figure: quick schedule; None outside the limits.
        best: figure of the design the searcher would build after it; None as long as there is none.
        cpu_s: CPU time of the cell so far, all that is charged [s].
        own_cpu_s, mapping_cpu_s: of that, what the searcher's model and its search of mappings took [s].
        evaluation_cpu_s: what this evaluation took when it was made first, which is what it is charged [s]; a searcher
            that judges itself is charged none.
        parts: time [s] and energy [J] of an iteration on each workload; empty outside the limits.
    """

    number: int
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
        evaluations: designs asked for [count].
        steps: every design asked for, where they are at most `MOST_KEPT`.
        finished: the searcher stopped by itself.
        judges_itself: it says itself what it would build, by a model of its own.
        final_point, final_figure: its best design on thorough schedules; None where it found none within the limits.
        final_number, final_cpu_s: designs asked for, and CPU time [s] spent, when it had asked for that one.
        own_cpu_s, mapping_cpu_s, evaluation_cpu_s: CPU time of its model, its search of mappings, and evaluations,
            the thorough ones of its finalists included [s].
        finalists_cpu_s: of the evaluations, those of the finalists [s].
    """

    workload: str
    searcher: str
    seed: int
    evaluations: int
    steps: tuple[Step, ...]
    finished: bool
    judges_itself: bool
    final_point: Point | None
    final_figure: float | None
    final_number: int | None
    final_cpu_s: float | None
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
        return {"format": CELL_FORMAT, **facts, "step_fields": list(Step.__slots__), "steps": _rows(self.steps)}

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
            final = document["final_point"]
            return Cell(**facts, steps=_steps(document), final_point=None if final is None else tuple(final))
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(Fault(where="cell", problem=f"cannot be read: {error}")) from None


def _rows(steps: Sequence[Step]) -> list[list[Any]]:
    """Steps as a file keeps them."""
    return [[getattr(step, name) for name in Step.__slots__] for step in steps]


def _steps(document: Mapping[str, Any]) -> tuple[Step, ...]:
    names = document["step_fields"]
    return tuple(_step(dict(zip(names, row, strict=True))) for row in document["steps"])


def _kept(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps of a cell that are worth keeping: all of them unless they are many."""
    if len(steps) <= MOST_KEPT:
        return tuple(steps)
    every = -(-len(steps) // MOST_KEPT)
    before: float | None = None
    found = []
    for step in steps:
        if step.best != before or step.number % every == 0 or step.number == len(steps):
            found.append(step)
        before = step.best
    return tuple(found)


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
    saved: Mapping[str, Any] | None = None,
    save: Callable[[Mapping[str, Any]], None] | None = None,
) -> Cell:
    """Run one searcher until it finishes or its budget is used up.

    Args:
        contest: the workload and what all cells share.
        searcher: its name.
        make: makes it.
        seed: of everything random in it.
        budget: when it is stopped.
        progress: told the evaluations made, and the most there will be.
        saved: what `save` was given by an earlier process; only of a searcher that is `Resumable`.
        save: keeps where the cell stands, as plain values, from time to time; only for such a searcher.

    Raises:
        SpecError: the searcher asked for more than it may, or for what is no design of the grid.
    """
    run = _Run(contest, searcher, make, seed, budget)
    if saved is not None and not run.restored(saved):
        run = _Run(contest, searcher, make, seed, budget)
    try:
        while run.goes_on():
            run.batch()
            if save is not None:
                run.save_if_due(save)
            if progress is not None:
                progress(*run.progress())
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
        self.saved_s = 0.0

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
        asked_s = self._books()
        judgements = [judged(self.contest, self.problem, point) for point in points]
        started_s = time.process_time()
        self.searcher.tell([told for told, _ in judgements])
        recommended = self.searcher.recommended() if isinstance(self.searcher, SelfJudging) else None
        self.searcher_cpu_s += time.process_time() - started_s
        for index, (told, charged_s) in enumerate(judgements):
            last = index == len(judgements) - 1
            self._note(told, charged_s, recommended if last else None, asked_s, last)

    def _note(
        self, told: Told, charged_s: float, recommended: Point | None, asked_s: tuple[float, float, float], last: bool
    ) -> None:
        if not self.judges_itself:
            self.evaluation_cpu_s += charged_s
        if recommended is not None:
            self._check_recommended(recommended)
            self.best = (evaluated(self.contest, self.problem, recommended).figure, recommended)
        elif not self.judges_itself and told.figure is not None and (self.best is None or told.figure < self.best[0]):
            self.best = (told.figure, told.point)
        # What telling costs belongs to the last design of the batch: the others are known before it.
        own_s, mapping_s, booked_s = self._books() if last else asked_s
        self.steps.append(
            Step(
                number=len(self.steps) + 1,
                point=told.point,
                figure=told.figure,
                best=None if self.best is None else self.best[0],
                cpu_s=own_s + mapping_s + booked_s + self.evaluation_cpu_s,
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
        own_s, mapping_s, booked_s = self._books()
        asked = next((step for step in self.steps if step.point == point), None)
        return Cell(
            workload=self.contest.name,
            searcher=self.name,
            seed=self.seed,
            evaluations=len(self.steps),
            steps=_kept(self.steps),
            finished=self.finished,
            judges_itself=self.judges_itself,
            final_point=point,
            final_figure=figure,
            final_number=None if asked is None else asked.number,
            final_cpu_s=None if asked is None else asked.cpu_s,
            own_cpu_s=own_s,
            mapping_cpu_s=mapping_s,
            evaluation_cpu_s=self.evaluation_cpu_s + booked_s + finalists_cpu_s,
            finalists_cpu_s=finalists_cpu_s,
        )

    # -- going on in another process ------------------------------------------------------------------------------

    def save_if_due(self, save: Callable[[Mapping[str, Any]], None]) -> None:
        """Keep where the cell stands, if its searcher can go on from there and some time has passed."""
        if not isinstance(self.searcher, Resumable) or self._cpu_s() - self.saved_s < SAVED_EVERY_S:
            return
        self.saved_s = self._cpu_s()
        save(
            {
                "format": CELL_FORMAT,
                "searcher": self.searcher.state(),
                "searcher_cpu_s": self.searcher_cpu_s,
                "evaluation_cpu_s": self.evaluation_cpu_s,
                "spent": asdict(self.problem.spent),
                "best": self.best,
                "step_fields": list(Step.__slots__),
                "steps": _rows(self.steps),
            }
        )

    def restored(self, saved: Mapping[str, Any]) -> bool:
        """Go on from where another process was; False where that cannot be read, and then this run is spoilt."""
        try:
            if saved["format"] != CELL_FORMAT or not isinstance(self.searcher, Resumable):
                return False
            steps = _steps(saved)
            self.searcher.restore(dict(saved["searcher"]))
            self.steps = list(steps)
            self.best = None if saved["best"] is None else (float(saved["best"][0]), tuple(saved["best"][1]))
            self.problem.spent.mapping_s = float(saved["spent"]["mapping_s"])
            self.problem.spent.evaluation_s = float(saved["spent"]["evaluation_s"])
            self.searcher_cpu_s = float(saved["searcher_cpu_s"])
            self.evaluation_cpu_s = float(saved["evaluation_cpu_s"])
        except (KeyError, TypeError, ValueError):
            return False
        self.saved_s = self._cpu_s()
        for step in steps:
            if step.figure is not None:
                remember(self.contest, step.point, step.figure, step.parts, step.evaluation_cpu_s)
        return True

    def progress(self) -> tuple[int, int]:
        """How much is done, and of how much: designs, or seconds where those will be used up first."""
        asked, spent_s, budget = len(self.steps), self._cpu_s(), self.budget
        if spent_s / budget.cpu_s > asked / budget.evaluations:
            return round(spent_s), max(round(budget.cpu_s), 1)
        return asked, budget.evaluations

    # -- books ----------------------------------------------------------------------------------------------------

    def _finalists(self) -> list[Point]:
        if self.judges_itself:
            return [] if self.best is None else [self.best[1]]
        legal = {step.point: step.figure for step in self.steps if step.figure is not None}
        own = tuple(self.searcher.shortlist()) if isinstance(self.searcher, Shortlisting) else ()
        if own:
            strange = [point for point in own if point not in legal]
            if strange:
                problem, allowed = "shortlists what it did not ask for", "designs within the limits that it asked for"
                raise SpecError(Fault(where=self.name, value=str(strange[0]), problem=problem, allowed=allowed))
            return list(own[:FINALISTS])
        return sorted(legal, key=lambda point: (legal[point], point))[:FINALISTS]

    def _books(self) -> tuple[float, float, float]:
        """CPU time [s] so far of the searcher's model, its search of mappings, and schedules it made itself."""
        spent = self.problem.spent
        own_s = max(self.searcher_cpu_s - spent.mapping_s - spent.evaluation_s, 0.0)
        return own_s, spent.mapping_s, spent.evaluation_s

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
