"""What a comparison of heuristic and exact answers says, as records: one row for each workload (`study.exactness`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What one search found and took.

    Attributes:
        figure: of its best design, what is minimised; None where it found none within the limits.
        design: that design in short: tensor cores x rows x columns, vector cores x lanes, SRAM, HBM stacks.
        scheduled: designs scheduled [count].
        cpu_s: CPU time [s].
    """

    figure: float | None
    design: str | None
    scheduled: int
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarseRow:
    """Three searches of a coarse space, all on quick schedules.

    Attributes:
        space_size, within_limits: designs of the space, and those of them that keep the limits [count].
        exhaustive: every design is scheduled, also those outside the limits.
        heuristic: the local search alone, nothing is proven.
        pruned: the local search, then bounds rule out or a schedule judges every other design.
        heuristic_over_exhaustive, pruned_over_exhaustive: their figures over that of the exhaustive search [1].
        complete: the pruned search left no design undecided.
    """

    space_size: int
    within_limits: int
    exhaustive: Searched
    heuristic: Searched
    pruned: Searched
    heuristic_over_exhaustive: float | None
    pruned_over_exhaustive: float | None
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceRow:
    """The local search alone and `mine` on the whole space, both with the schedules that are reported.

    Attributes:
        space_size, within_limits: as in `CoarseRow`.
        heuristic: the local search alone (`local.ALONE`), its best scheduled as `mine` schedules its best.
        mined: `mine`: what bounds leave, the proof, the same schedules, and the full evaluation of the best ten.
        heuristic_over_mined: what `mine` found that the heuristic missed: the ratio of their figures [1].
        bound: no design of the space has a smaller figure, on any schedule.
        heuristic_gap, mined_gap: the figures over the bound, less 1 [1].
        undecided: designs between the bound and the figure of `mine` that were neither scheduled nor ruled out [count].
    """

    space_size: int
    within_limits: int
    heuristic: Searched
    mined: Searched
    heuristic_over_mined: float | None
    bound: float | None
    heuristic_gap: float | None
    mined_gap: float | None
    undecided: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRow:
    """Schedules of a part of the model on one design.

    Attributes:
        listed_s: list scheduling with its thorough effort, no operator interrupted [s].
        listed_cpu_s: CPU time it took [s].
        interrupted_s: the same where operators may be interrupted, as in the other figures of the evaluation [s].
        exact_s: the best schedule known after CP-SAT, no operator interrupted [s].
        bound_s: no schedule without interruptions is shorter [s].
        listed_over_exact: `listed_s` over `exact_s` [1].
        exact_gap: `exact_s` over `bound_s`, less 1 [1].
        proven: the exact schedule is optimal, up to the rounding of times (`schedule.exact.PROVEN_GAP`).
        finished: the solver ended by itself and not by the limit of its work.
        source: what found the exact schedule (`schedule.exact.ExactChoice`); `list` where CP-SAT found none better.
        exact_cpu_s: CPU time of the exact scheduling, its start from list scheduling included [s].
    """

    listed_s: float
    listed_cpu_s: float
    interrupted_s: float
    exact_s: float
    bound_s: float
    listed_over_exact: float
    exact_gap: float
    proven: bool
    finished: bool
    source: str
    exact_cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """The schedule of the mined design.

    Attributes:
        design: in short, as in `Searched`.
        iteration_time_s, lower_bound_s, gap: of the whole model on it; the gap is their ratio less 1 [1].
        part, operators: what of the model goes to exact scheduling, and its operators after fusion [count].
        skipped: why there is no exact schedule; None where there is one.
        exact: the schedules of the part; None where skipped.
    """

    design: str
    iteration_time_s: float
    lower_bound_s: float
    gap: float
    part: str
    operators: int
    skipped: str | None
    exact: PartRow | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactnessRow:
    """One workload; `schedule` is None where no design keeps the limits."""

    model: str
    coarse: CoarseRow
    space: SpaceRow
    schedule: ScheduleRow | None

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ExactnessRow:
        """The row of `asdict`.

        Raises:
            KeyError, TypeError: it is not one.
        """
        coarse, space, schedule = document["coarse"], document["space"], document["schedule"]
        if schedule is not None:
            exact = schedule["exact"]
            schedule = ScheduleRow(**{**schedule, "exact": None if exact is None else PartRow(**exact)})
        return cls(
            model=document["model"],
            coarse=CoarseRow(**_with_searches(coarse, ("exhaustive", "heuristic", "pruned"))),
            space=SpaceRow(**_with_searches(space, ("heuristic", "mined"))),
            schedule=schedule,
        )


def csv_rows(rows: Sequence[ExactnessRow]) -> list[dict[str, Any]]:
    """One flat row for each workload, names of the parts before those of their fields; blank where there is nothing."""
    flat = [_flat(asdict(row)) for row in rows]
    names = dict.fromkeys(name for found in flat for name in found)
    return [{name: found.get(name) for name in names} for found in flat]


def _with_searches(document: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {**document, **{name: Searched(**document[name]) for name in names}}


def _flat(document: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}_")
        elif value is not None or name not in ("schedule", "exact"):
            found[before + name] = value
    return found
