"""What one search for many devices found, as a file of the evaluation's directory keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from worklode.hardware.accelerator import Accelerator
from worklode.search.distributed_result import DistributedDesign, DistributedResult
from worklode.search.division import Chunks
from worklode.study.distributed_rows import HETEROGENEOUS, LEAST_TDP


@dataclass(frozen=True, slots=True, kw_only=True)
class Mined:
    """What one search found, as a file of the directory keeps it.

    Attributes:
        models, objective: what was searched for.
        design: one for all stages of all models; None where nothing keeps the limits.
        chunks: (first, stop) segments of every chunk, of each model.
        figure, bound, gap, regret: of that design.
        classes: stages with the same work, of each model.
        mixes: by name, the design of every stage; of one model with several classes of stages.
        mix_bound, mix_gap: of the best mix.
        mix_undecided: designs of less TDP of which it is not known whether they keep the pace.
        hbm_bytes: what every design of one for all stages holds; 0 where memory was no limit.
        kept_per_stage, space_size, evaluated: size of the search.
        cpu_s, wall_time_s: of search and proof.
    """

    models: tuple[str, ...]
    objective: str
    design: Accelerator | None
    chunks: tuple[Chunks, ...]
    figure: float | None
    bound: float | None
    gap: float | None
    regret: float | None
    classes: tuple[tuple[tuple[int, ...], ...], ...]
    mixes: Mapping[str, tuple[Accelerator, ...]]
    mix_bound: float | None
    mix_gap: float | None
    mix_undecided: int
    hbm_bytes: float
    kept_per_stage: int
    space_size: int
    evaluated: int
    cpu_s: float
    wall_time_s: float

    @staticmethod
    def of(found: DistributedResult, cpu_s: float, wall_time_s: float) -> Mined:
        """From a result."""
        mixed = found.heterogeneous
        mixes: dict[str, DistributedDesign] = {}
        if mixed is not None:
            mixes[HETEROGENEOUS] = mixed.best
            if mixed.least_power is not None:
                mixes[LEAST_TDP] = mixed.least_power
        return Mined(
            models=tuple(task.name for task in found.tasks),
            objective=found.objective.value,
            design=None if found.best is None else found.best.accelerator,
            chunks=found.chunks,
            figure=None if found.best is None else found.best.figure,
            bound=None if found.certificate is None else found.certificate.bound,
            gap=found.optimality_gap,
            regret=found.regret,
            classes=tuple(tuple(each.stages for each in classes) for classes in found.classes),
            mixes={name: design.evaluations[0].accelerators for name, design in mixes.items()},
            mix_bound=None if mixed is None else mixed.bound,
            mix_gap=None if mixed is None else mixed.gap,
            mix_undecided=0 if mixed is None else mixed.undecided,
            hbm_bytes=found.limits.hbm_bytes,
            kept_per_stage=found.kept_per_stage,
            space_size=found.space_size,
            evaluated=found.evaluated,
            cpu_s=cpu_s,
            wall_time_s=wall_time_s,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a mix as its distinct designs and their stages."""
        return {
            **asdict(replace(self, mixes={})),
            "mixes": {
                name: [
                    {"stages": [at for at, design in enumerate(chosen) if design == each], "design": asdict(each)}
                    for each in dict.fromkeys(chosen)
                ]
                for name, chosen in self.mixes.items()
            },
        }

    @staticmethod
    def from_dict(document: Mapping[str, Any]) -> Mined | None:
        """From plain values; None where they are damaged."""
        try:
            mixes = {}
            for name, parts in document["mixes"].items():
                of_stage = {at: Accelerator(**part["design"]) for part in parts for at in part["stages"]}
                mixes[name] = tuple(of_stage[at] for at in range(len(of_stage)))
            read = {
                "models": tuple(document["models"]),
                "design": None if document["design"] is None else Accelerator(**document["design"]),
                "chunks": tuple(tuple((first, stop) for first, stop in cut) for cut in document["chunks"]),
                "classes": tuple(tuple(map(tuple, classes)) for classes in document["classes"]),
                "mixes": mixes,
            }
            return Mined(**{**document, **read})
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
