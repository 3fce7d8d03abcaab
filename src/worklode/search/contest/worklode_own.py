"""worklode's own search as a searcher: the search and the proof of `mine`, asking for one design at a time.

Both are written as one course of action that schedules designs where it needs them. Here that course runs in a thread
of its own and every design it wants scheduled becomes a question; exactly one of the two threads is awake at a time.
What `mine` schedules thoroughly is scheduled thoroughly here too, and charged as an evaluation.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from worklode.hardware.accelerator import Accelerator
from worklode.search.candidate import Candidate
from worklode.search.certificate import ProofOptions, prove
from worklode.search.contest.interface import Problem, Told
from worklode.search.grid import Point
from worklode.search.local import LocalSearch, LocalSearchOptions


class _Stopped(BaseException):
    """The contest asks no more; ends the thread of the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorklodeOptions:
    """worklode's own search; see `LocalSearchOptions` and `ProofOptions`."""

    search: LocalSearchOptions = field(default_factory=LocalSearchOptions)
    proof: ProofOptions = field(default_factory=ProofOptions)
    prove: bool = True


class Worklode:
    """The search of `mine`, proof included; it has no use for a seed."""

    def __init__(self, problem: Problem, seed: int, options: WorklodeOptions | None = None) -> None:
        self.problem = problem
        self.options = options or WorklodeOptions()
        self._questions: queue.Queue[Point | BaseException | None] = queue.Queue()
        self._answers: queue.Queue[Told | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._told: Told | None = None
        self._finished = False
        self._best: Point | None = None

    def ask(self, most: int) -> Sequence[Point]:
        """The one design the search wants scheduled next."""
        if self._finished:
            return ()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="worklode-search")
            self._thread.start()
        else:
            assert self._told is not None
            self._answers.put(self._told)
        question = self._questions.get()
        if isinstance(question, BaseException):
            self._finished = True
            raise question
        self._finished = question is None
        return () if question is None else (question,)

    def tell(self, results: Sequence[Told]) -> None:
        """Keep the answer until the search goes on, so that what it does next counts as the next question."""
        self._told = results[0] if results else None

    def shortlist(self) -> Sequence[Point]:
        """The design it ends with; none where it was stopped before."""
        return () if self._best is None else (self._best,)

    def close(self) -> None:
        """End the thread of a search that was not asked to its end."""
        if self._thread is not None and self._thread.is_alive() and not self._finished:
            self._answers.put(None)
            self._thread.join()

    def _run(self) -> None:
        try:
            self._search()
            self._questions.put(None)
        except _Stopped:
            pass
        except BaseException as error:
            self._questions.put(error)

    def _search(self) -> None:
        problem = self.problem
        # One thread at a time, so that the time of a schedule is not booked twice; the answer does not depend on it.
        options = replace(self.options.search, workers=1)
        search = _AskingSearch(
            problem.evaluators, problem.weights, problem.grid, problem.limits, problem.objective, options
        )
        search.contest, search.answer_to = problem, self._answer_to
        seeds = () if problem.start is None else (problem.grid.accelerator(problem.start),)
        search.run(seeds)
        if self.options.prove and search.candidates():
            prove(search, self.options.proof, seeds=seeds)
        if options.finalists:
            search.refine_best(options.top_k)
            search.polish_near()
        found = search.candidates()
        if found and found[0].effort != "quick":
            self._best = problem.grid.space.indices_of(found[0].accelerator)

    def _answer_to(self, point: Point) -> Told:
        self._questions.put(point)
        told = self._answers.get()
        if told is None:
            raise _Stopped
        return told


class _AskingSearch(LocalSearch):
    """A local search whose quick schedules are made elsewhere: `contest` and `answer_to` are set before it runs."""

    contest: Problem
    answer_to: Callable[[Point], Told]

    def schedule(self, accelerator: Accelerator, origin: str) -> Candidate:
        """Ask for a design."""
        point = self.grid.space.indices_of(accelerator)
        assert point is not None, "the search leaves its grid"
        told = self.answer_to(point)
        assert told.figure is not None, "the search asks for what breaks the limits"
        candidate = Candidate(accelerator=accelerator, figure=told.figure, figures=told.parts, origin=origin)
        self.note(candidate)
        return candidate

    def refine(self, candidate: Candidate) -> Candidate:
        """Schedule a candidate thoroughly, at this searcher's expense."""
        with self.contest.evaluating():
            return super().refine(candidate)

    def polish(self, candidate: Candidate) -> Candidate:
        """Schedule a candidate with the utmost effort, at this searcher's expense."""
        with self.contest.evaluating():
            return super().polish(candidate)

    def quick_figure(self, accelerator: Accelerator) -> float:
        """Figure of a design's quick schedule, at this searcher's expense."""
        with self.contest.evaluating():
            return super().quick_figure(accelerator)
