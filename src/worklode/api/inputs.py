"""What the functions of the interface take, as records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from worklode.errors import Fault, SpecError
from worklode.hardware.accelerator import Accelerator
from worklode.hardware.presets import load_accelerator
from worklode.hardware.technology import Technology, load_technology

if TYPE_CHECKING:
    from worklode.hardware.space import DesignSpace
    from worklode.search.objective import Limits


def limits_of(
    baseline: Accelerator | None, area_mm2: float | None, tdp_w: float | None, constants: Technology
) -> Limits:
    """Area and TDP of the budget's design, or those given instead; memory is not among them.

    Raises:
        SpecError: neither a budget nor a limit.
    """
    from worklode.search.evaluate import silicon
    from worklode.search.objective import Limits

    if baseline is None and area_mm2 is None and tdp_w is None:
        raise SpecError(
            Fault(where="mine", problem="no silicon budget", allowed="--budget PRESET, or --area and/or --tdp")
        )
    area, power = float("inf"), float("inf")
    if baseline is not None:
        found = silicon(baseline, constants)
        area, power = found.area_mm2, found.tdp_w
    return Limits(area_mm2=area if area_mm2 is None else area_mm2, tdp_w=power if tdp_w is None else tdp_w)


def space_of(space: str | Path | DesignSpace | None, baseline: Accelerator | None) -> DesignSpace:
    """The space of a file, or the default one around a budget."""
    from worklode.hardware.space import DesignSpace, default_space, load_space

    if isinstance(space, DesignSpace):
        return space
    default = default_space(baseline)
    return default if space is None else load_space(Path(space), default)


def accelerator_of(found: str | Path | Accelerator, where: str) -> Accelerator:
    """The accelerator of a preset or file."""
    return found if isinstance(found, Accelerator) else load_accelerator(found, where=where)


def technology_of(found: str | Path | Technology | None) -> Technology:
    """The constants, with those of a file laid over them."""
    if isinstance(found, Technology):
        return found
    return load_technology(None if found is None else Path(found))


def silent(*told: object) -> None:
    """Nobody listens."""
