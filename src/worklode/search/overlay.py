"""Constants of a user's overlay that changed nothing, so that a typing error in it is not taken for a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from worklode.hardware.accelerator import Accelerator
from worklode.hardware.area import area_mm2
from worklode.hardware.energy import energy_constants
from worklode.hardware.power import tdp_w
from worklode.hardware.technology import Constant, Technology, load_technology

# Designs of a search that an overlaid constant is tried on [count]; a millisecond each.
MOST_DESIGNS = 200


def idle_overlay(technology: Technology, designs: Sequence[Accelerator], *, ranges: bool = False) -> tuple[str, ...]:
    """Warnings about constants of the overlay that no figure of these designs depends on.

    A constant is taken back to its shipped value, alone; where area, TDP and energies of events of every design stay as
    they are, it had no effect.

    Args:
        technology: with its overlay.
        designs: of the result, the foremost first; of very many, some.
        ranges: whether the ranges of constants had a part in the result.
    """
    if not technology.overlay:
        return ()
    if not technology.overlaid:
        return (f"{technology.overlay} had no effect: it has no constants",)
    shipped = load_technology()
    tried = designs[:: -(-len(designs) // MOST_DESIGNS) or 1]
    same, unused = [], []
    for name in technology.overlaid:
        ours, theirs = technology.constant(name), shipped.constant(name)
        if _figures_of(ours, ranges=ranges) == _figures_of(theirs, ranges=ranges):
            same.append(name)
        elif tried and not _matters(technology, ours, theirs, tried):
            unused.append(name)
    warnings = []
    if same:
        warnings.append(f"{technology.overlay} had no effect in {', '.join(same)}: the same as the shipped value")
    if unused:
        first = tried[0]
        warnings.append(
            f"{technology.overlay} had no effect in {', '.join(unused)}: no area, power or energy of this result "
            f"depends on it ({first.node_nm} nm, family {first.family}, MAC of {first.mac_dtype})"
        )
    return tuple(warnings)


def _figures_of(constant: Constant, *, ranges: bool) -> tuple[object, ...]:
    """What of a constant can move a figure."""
    found = (constant.value, constant.node_nm, constant.scales)
    return (*found, constant.low, constant.high) if ranges else found


def _matters(technology: Technology, ours: Constant, theirs: Constant, designs: Sequence[Accelerator]) -> bool:
    """Whether a figure of a design depends on a constant; where only its range differs, its low end is tried."""
    if _figures_of(ours, ranges=False) == _figures_of(theirs, ranges=False):
        other = next(end for end in (ours.low, theirs.low, ours.high, theirs.high) if end != ours.value)
        without = technology.with_values({ours.name: other})
    else:
        constants = tuple(theirs if other.name == theirs.name else other for other in technology.constants)
        without = replace(technology, constants=constants)
    return any(_figures(design, technology) != _figures(design, without) for design in designs)


def _figures(design: Accelerator, technology: Technology) -> tuple[dict[str, float], ...]:
    """Area and TDP by part, and energies of the events that happen on one chip."""
    energies = asdict(energy_constants(design, technology))
    # Nothing is sent to other chips within one: `Evaluator.event_counts` has no such event.
    del energies["link_byte_j"]
    return asdict(area_mm2(design, technology)), asdict(tdp_w(design, technology)), energies
