"""What a contest says: tables and curves as a pure function of its cells, the same whenever they were computed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worklode.search.contest.cell import Cell, Step

# A searcher has arrived when its best is at most this much [1] above the best known quick schedule.
ARRIVED = 0.01
# Confidence of the bands of curves [1], samples of seeds behind them [count], and the seed of those.
CONFIDENCE = 0.9
RESAMPLES = 1000
RESAMPLING_SEED = 20261129
# Places of a curve along CPU time [count], evenly in its logarithm.
CURVE_PLACES = 60

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What `mine` finds and proves for a workload, outside the contest.

    Attributes:
        workload: its name.
        figure: of the best design, thorough schedule.
        quick_figure: of the same design, quick schedule.
        bound: no design has a smaller figure, on any schedule; None where no design keeps the limits.
        cpu_s, wall_time_s: that `mine` took, proof and report included [s].
        design: fields of the best design; None where there is none.
    """

    workload: str
    figure: float | None
    quick_figure: float | None
    bound: float | None
    cpu_s: float
    wall_time_s: float
    design: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One searcher on one workload; medians are over seeds.

    Attributes:
        workload, searcher: which.
        seeds: cells behind the row [count].
        evaluations: median of the designs asked for [count].
        final_figure, final_best, final_worst: of the best design on thorough schedules: median, best and worst seed,
            in the unit of the objective; None where a seed (half of them for the median) found no design.
        over_best_known: median final figure over the best of all cells and of the reference [1].
        gap_to_bound: median final figure over the proven bound, less 1 [1].
        arrived: share of the seeds whose best came within `ARRIVED` of the best known quick schedule [1].
        evaluations_to_arrive, cpu_s_to_arrive: median of what that took; None where less than half arrived.
        evaluations_to_final, cpu_s_to_final: median of what it took to ask for the final design; None as for it.
        cpu_s: median CPU time of a cell [s].
        own_share, mapping_share, evaluation_share: of the CPU time of all seeds, what the searcher's model, its search
            of mappings and evaluations took [1]; they add up to 1.
        cpu_over_worklode: median CPU time over that of worklode's own search; None where it did not take part.
    """

    workload: str
    searcher: str
    seeds: int
    evaluations: float
    final_figure: float | None
    final_best: float | None
    final_worst: float | None
    over_best_known: float | None
    gap_to_bound: float | None
    arrived: float
    evaluations_to_arrive: float | None
    cpu_s_to_arrive: float | None
    evaluations_to_final: float | None
    cpu_s_to_final: float | None
    cpu_s: float
    own_share: float
    mapping_share: float
    evaluation_share: float
    cpu_over_worklode: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How good a searcher's best is along the way: median over seeds of figure over best known, and its band.

    Attributes:
        workload, searcher: which.
        along: `evaluations` or `cpu_s`.
        places: along the axis, ascending.
        median, low, high: [1]; None where half of the seeds (of the samples, for the band) have no design yet.
    """

    workload: str
    searcher: str
    along: str
    places: tuple[float, ...]
    median: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


def best_known(cells: Sequence[Cell], reference: Reference | None) -> tuple[float | None, float | None]:
    """The best figures of a workload on thorough and on quick schedules, whoever found them."""
    thorough = [cell.final_figure for cell in cells if cell.final_figure is not None]
    quick = [step.figure for cell in cells for step in cell.steps if step.figure is not None]
    if reference is not None and reference.figure is not None and reference.quick_figure is not None:
        thorough.append(reference.figure)
        quick.append(reference.quick_figure)
    return min(thorough, default=None), min(quick, default=None)


def rows(cells: Sequence[Cell], references: Sequence[Reference], searchers: Sequence[str]) -> tuple[Row, ...]:
    """One row for every workload and searcher that has a cell, in the order of `references` and `searchers`."""
    found = []
    for reference in references:
        of_workload = [cell for cell in cells if cell.workload == reference.workload]
        thorough, quick = best_known(of_workload, reference)
        own = [cell.cpu_s for cell in of_workload if cell.searcher == "worklode"]
        own_s = statistics.median(own) if own else None
        for searcher in searchers:
            mine = [cell for cell in of_workload if cell.searcher == searcher]
            if mine:
                found.append(_row(mine, reference, thorough, quick, own_s))
    return tuple(found)


def _row(
    cells: Sequence[Cell], reference: Reference, thorough: float | None, quick: float | None, own_s: float | None
) -> Row:
    finals = [math.inf if cell.final_figure is None else cell.final_figure for cell in cells]
    final = _finite(statistics.median(finals))
    arrivals = [_arrival(cell, quick) for cell in cells]
    arrived = [found for found in arrivals if found is not None]
    missing = [math.inf] * (len(cells) - len(arrived))
    built = [(math.inf if cell.final_number is None else cell.final_number, cell.final_cpu_s) for cell in cells]
    cpu_s = statistics.median(cell.cpu_s for cell in cells)
    spent = np.array([(cell.own_cpu_s, cell.mapping_cpu_s, cell.evaluation_cpu_s) for cell in cells]).sum(axis=0)
    own_share, mapping_share, evaluation_share = (float(part) for part in spent / max(spent.sum(), 1e-12))
    return Row(
        workload=cells[0].workload,
        searcher=cells[0].searcher,
        seeds=len(cells),
        evaluations=statistics.median(cell.evaluations for cell in cells),
        final_figure=final,
        final_best=_finite(min(finals)),
        final_worst=_finite(max(finals)),
        over_best_known=None if final is None or thorough is None else final / thorough,
        gap_to_bound=None if final is None or reference.bound is None else final / reference.bound - 1.0,
        arrived=len(arrived) / len(cells),
        evaluations_to_arrive=_finite(statistics.median([*(float(found[0]) for found in arrived), *missing])),
        cpu_s_to_arrive=_finite(statistics.median([*(found[1] for found in arrived), *missing])),
        evaluations_to_final=_finite(statistics.median(number for number, _ in built)),
        cpu_s_to_final=_finite(statistics.median(math.inf if spent is None else spent for _, spent in built)),
        cpu_s=cpu_s,
        own_share=own_share,
        mapping_share=mapping_share,
        evaluation_share=evaluation_share,
        cpu_over_worklode=None if own_s is None else cpu_s / own_s,
    )


def _arrival(cell: Cell, quick: float | None) -> tuple[int, float] | None:
    """Evaluations and CPU time after which the best of a cell is within `ARRIVED` of the best known."""
    if quick is None:
        return None
    for step in cell.steps:
        if step.best is not None and step.best <= quick * (1.0 + ARRIVED):
            return step.number, step.cpu_s
    return None


def curves(cells: Sequence[Cell], references: Sequence[Reference], searchers: Sequence[str]) -> tuple[Curve, ...]:
    """Curves of every workload and searcher, along evaluations and along CPU time."""
    found = []
    for reference in references:
        of_workload = [cell for cell in cells if cell.workload == reference.workload]
        _, quick = best_known(of_workload, reference)
        if quick is None:
            continue
        for searcher in searchers:
            mine = [cell for cell in of_workload if cell.searcher == searcher and cell.steps]
            if mine:
                found += [_curve(mine, quick, along) for along in ("evaluations", "cpu_s")]
    return tuple(found)


def _curve(cells: Sequence[Cell], quick: float, along: str) -> Curve:
    paths = [_path(cell.steps, quick, along) for cell in cells]
    last = max(float(path[0][-1]) for path in paths)
    if along == "evaluations":
        places = np.unique(np.round(np.geomspace(1.0, last, CURVE_PLACES)))
    else:
        first = min(float(path[0][0]) for path in paths)
        places = np.geomspace(max(first, 1e-6), max(last, first, 1e-6), CURVE_PLACES)
    values = np.stack([_held(path, places) for path in paths])
    random = np.random.default_rng(RESAMPLING_SEED)
    chosen = random.integers(0, len(values), (RESAMPLES, len(values)))
    medians = np.median(values[chosen], axis=1)
    edge = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(medians, (edge, 1.0 - edge), axis=0, method="nearest")
    return Curve(
        workload=cells[0].workload,
        searcher=cells[0].searcher,
        along=along,
        places=tuple(float(place) for place in places),
        median=_listed(np.median(values, axis=0)),
        low=_listed(low),
        high=_listed(high),
    )


def _path(steps: Sequence[Step], quick: float, along: str) -> tuple[Values, Values]:
    """[S] places of the steps along the axis, and the best over the best known after each of them."""
    places = [float(step.number) if along == "evaluations" else step.cpu_s for step in steps]
    best = [math.inf if step.best is None else step.best / quick for step in steps]
    return np.array(places), np.array(best)


def _held(path: tuple[Values, Values], places: Values) -> Values:
    """[G] the value of the last step at or before each place."""
    index = np.searchsorted(path[0], places * (1.0 + 1e-12), side="right") - 1
    return np.where(index >= 0, path[1][np.maximum(index, 0)], np.inf)


def _listed(values: Values) -> tuple[float | None, ...]:
    return tuple(_finite(float(value)) for value in values)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
