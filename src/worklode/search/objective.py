"""What a search minimises, and the limits it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar, assert_never

import numpy as np
from numpy.typing import NDArray

from worklode.errors import Fault, SpecError

Figure = TypeVar("Figure", float, NDArray[np.float64])


class Objective(StrEnum):
    """What the best design is best at. Every objective is turned into a figure that is minimised."""

    THROUGHPUT = "throughput"
    THROUGHPUT_PER_TDP = "throughput/tdp"
    ENERGY = "energy"
    ENERGY_DELAY = "energy-delay"

    @classmethod
    def parse(cls, text: str, *, where: str = "--objective") -> Objective:
        """Objective of a name.

        Raises:
            SpecError: no such objective.
        """
        try:
            return cls(text.strip().lower().replace("_", "-"))
        except ValueError:
            allowed = ", ".join(objective.value for objective in cls)
            raise SpecError(
                Fault(where=where, value=repr(text), problem="no such objective", allowed=allowed)
            ) from None

    @property
    def needs_energy(self) -> bool:
        """Whether its figure depends on energy."""
        return self in {Objective.ENERGY, Objective.ENERGY_DELAY}

    def figure(self, *, time_s: Figure, tdp_w: Figure, energy_j: Figure) -> Figure:
        """The figure to minimise: s, s·W, J or J·s for one iteration; of one design, or of arrays of draws."""
        match self:
            case Objective.THROUGHPUT:
                return time_s
            case Objective.THROUGHPUT_PER_TDP:
                return time_s * tdp_w
            case Objective.ENERGY:
                return energy_j
            case Objective.ENERGY_DELAY:
                return energy_j * time_s
            case _:
                assert_never(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Silicon limits of a design; infinity where a limit is not set.

    Attributes:
        area_mm2: die area [mm²].
        tdp_w: thermal design power [W].
        hbm_bytes: HBM capacity the training step must fit in [bytes]; 0 where memory is reported but not enforced.
    """

    area_mm2: float = float("inf")
    tdp_w: float = float("inf")
    hbm_bytes: float = 0.0

    def __post_init__(self) -> None:
        faults = [
            Fault(where="limits", path=path, value=f"{value:g}", problem="a limit must be positive", allowed="> 0")
            for path, value in (("area_mm2", self.area_mm2), ("tdp_w", self.tdp_w))
            if not value > 0
        ]
        if faults:
            raise SpecError(*faults)

    def allow(self, *, area_mm2: float, tdp_w: float, hbm_bytes: float) -> bool:
        """Whether a design with these figures keeps every limit."""
        return area_mm2 <= self.area_mm2 and tdp_w <= self.tdp_w and hbm_bytes >= self.hbm_bytes
