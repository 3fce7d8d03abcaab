"""What a run of a contest ends with if its best designs are treated as `mine` treats its own.

A cell schedules its ten best designs thoroughly and the best of them with the utmost effort. `mine` does more to its
own: the ten best by either schedule, and those that come near the best with the utmost effort too. Where two searches
differ by a tenth of a per cent, that is as much as the difference: of hill climbing with 100 times the time of `mine`
on resnet18, mobilenet-v3-large and inception-v3 (TPUv2's budget, 2026-11) it was all of it: 0.22, 0.27 and 0.12 %.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from worklode.search.candidate import Candidate
from worklode.search.contest.cell import Cell, Step
from worklode.search.contest.judging import Contest
from worklode.search.evaluate import Figures, silicon
from worklode.search.local import LocalSearch, LocalSearchOptions
from worklode.study.bench_directory import BenchDirectory
from worklode.study.sources import source_digest

# Designs of a run among which its finalists are, best first by quick schedule [count]. Assumption: several times as
# many as `mine` schedules thoroughly.
CONSIDERED = 64


def as_mine_ends(made: Contest, cell: Cell) -> float | None:
    """Figure of the best design of a cell, finalists treated as those of `mine`; None where it has none.

    Of a cell of more than `contest.cell.MOST_KEPT` designs only those are considered that it keeps.

    Args:
        made: the contest of the cell.
        cell: of a searcher that does not judge itself.
    """
    best: dict[tuple[int, ...], Step] = {step.point: step for step in cell.steps if step.figure is not None}
    if cell.final_figure is None or not best:
        return cell.final_figure
    problem, options = made.problem(), LocalSearchOptions(workers=1)
    parts = (problem.evaluators, problem.weights, problem.grid, problem.limits, problem.objective, options)
    search = LocalSearch(*parts)
    for step in sorted(best.values(), key=_order)[:CONSIDERED]:
        search.note(_candidate(made, step))
    search.refine_best(options.top_k)
    search.polish_near()
    return min(cell.final_figure, search.candidates()[0].figure)


def known_finals(made: Contest, cells: Sequence[Cell], directory: BenchDirectory) -> dict[tuple[str, int], float]:
    """`as_mine_ends` of cells of one workload by searcher and seed, each made once and kept in the directory."""
    source = source_digest(__name__)
    found = {}
    for cell in cells:
        name = f"final-{cell.workload}-{cell.searcher}-{cell.seed}"
        of = hashlib.sha256(json.dumps(cell.to_dict()).encode()).hexdigest()
        known = directory.reference(name, source=source)
        if known is None or known.get("cell_sha256") != of:
            known = {"cell_sha256": of, "figure": as_mine_ends(made, cell)}
            directory.write_reference(name, known, source=source)
        if known["figure"] is not None:
            found[cell.searcher, cell.seed] = float(known["figure"])
    return found


def _order(step: Step) -> tuple[float, tuple[int, ...]]:
    assert step.figure is not None
    return step.figure, step.point


def _candidate(made: Contest, step: Step) -> Candidate:
    """A design of a cell as a candidate by its quick schedule."""
    assert step.figure is not None
    accelerator = made.grid.accelerator(step.point)
    built = silicon(accelerator, made.grid.technology)
    parts = tuple(
        Figures(time_s=time_s, energy_j=energy_j, area_mm2=built.area_mm2, tdp_w=built.tdp_w)
        for time_s, energy_j in step.parts
    )
    return Candidate(accelerator=accelerator, figure=step.figure, figures=parts, origin="contest")
