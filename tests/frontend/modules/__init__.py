"""A catalogue of small training steps that are not in the zoo, one of every kind a user may bring."""

from __future__ import annotations

from . import huggingface, sequence, structure, training, vision
from .entry import Entry

CATALOGUE: dict[str, Entry] = {
    found.name: found
    for family in (vision, sequence, structure, training)
    for found in vars(family).values()
    if isinstance(found, Entry)
} | {found.name: found for found in (*training.OPTIMIZERS, *huggingface.ENTRIES)}
